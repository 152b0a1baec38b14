"""Noise as a matrix: the exact bound and the exact law of what is written, against drawing and against the oracle."""

import pytest
import torch

from microdlm.oracle import MarkovDenoiser


@pytest.fixture(scope="module")
def uni(step):
    module = step("extra_uniform")
    module.STEPS = module.STEPS[:-1]  # what follows 32 steps takes half of the time
    return module


@pytest.fixture(scope="module")
def language(uni) -> MarkovDenoiser:
    """Another than the step's, without its symmetries."""
    rng = torch.Generator().manual_seed(5)
    initial, move = (
        torch.rand(uni.S, generator=rng).double() + 0.1,
        torch.rand(uni.S, uni.S, generator=rng).double() + 0.05,
    )
    return MarkovDenoiser(initial / initial.sum(), move / move.sum(1, keepdim=True))


@pytest.fixture(scope="module")
def worlds(uni, language):
    return {name: uni.World(noise, language) for name, noise in uni.NOISES.items()}


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_noise_is_a_matrix_of_probabilities_that_goes_on(uni, name):
    noise = uni.NOISES[name]
    for a in (1.0, 0.6, 0.0):
        assert torch.allclose(noise(a).sum(1), torch.ones(len(noise(a)), dtype=torch.float64)) and (noise(a) >= 0).all()
    assert torch.allclose(noise(0.8) @ noise(0.5), noise(0.4))  # from 0 to s and from s to t is from 0 to t
    assert torch.equal(noise(1.0), torch.eye(len(noise(1.0)), dtype=torch.float64))


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_the_bridge_is_the_process_with_its_end_known(uni, name):
    """Averaged over where it ends, a bridge is where the process is at s."""
    noise, alpha_t, alpha_s = uni.NOISES[name], 0.3, 0.7
    ends = noise(alpha_t)[: uni.S]  # (x_0, x_t)
    at_s = torch.einsum("at,tav->av", ends, uni.bridge(noise, alpha_t, alpha_s))
    assert torch.allclose(at_s, noise(alpha_s)[: uni.S])


def test_masks_have_the_oracle_s_posterior_at_any_time(uni, language, worlds):
    oracle = language(worlds["masked"].x).exp()[..., : uni.S]
    for alpha in (0.9, 0.5, 0.1):
        assert torch.allclose(worlds["masked"].posterior(alpha), oracle, atol=1e-12)


def test_uniform_noise_is_masking_with_the_marks_wiped_off(uni, language, worlds):
    for alpha in (0.9, 0.5, 0.1):
        mixed = uni.hidden_masks(language, worlds["uniform"], alpha)
        assert torch.allclose(worlds["uniform"].posterior(alpha), mixed, atol=1e-12)
    assert (worlds["uniform"].posterior(0.9) - worlds["uniform"].posterior(0.1)).abs().max() > 0.1


def test_the_posterior_under_uniform_noise_against_drawing(uni, language, worlds):
    """400,000 texts, noised: what stood at the second place of those that came out as 0 1 0 0."""
    rng, n, alpha = torch.Generator().manual_seed(1), 400_000, 0.6
    x_0 = language.sample(n, uni.L, rng)
    other = torch.randint(uni.S, x_0.shape, generator=rng)
    x_t = torch.where(torch.rand(x_0.shape, generator=rng) < alpha, x_0, other)
    there = (x_t == torch.tensor([0, 1, 0, 0])).all(1)
    seen = torch.bincount(x_0[there, 1], minlength=uni.S) / there.sum()
    row = (worlds["uniform"].x == torch.tensor([0, 1, 0, 0])).all(1)
    p = worlds["uniform"].posterior(alpha)[row, 1][0]
    assert ((seen - p).abs() < 4 * (p * (1 - p) / there.sum()).sqrt()).all() and there.sum() > 1000


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_the_exact_law_is_that_of_a_sampler_that_draws(uni, worlds, name):
    """50,000 texts drawn step by step, against the law in which nothing is drawn (chi squared, 80 degrees)."""
    world, T, n, rng = worlds[name], 3, 50_000, torch.Generator().manual_seed(2)
    law, changes = uni.write(world, uni.start(world), uni.times(T))
    at = torch.multinomial(uni.start(world), n, replacement=True, generator=rng)
    turned, V = 0.0, len(world.noise(1.0))
    for alpha_t, alpha_s in uni.times(T):
        moves = uni.step(world, alpha_t, alpha_s)[at].reshape(-1, V)
        x_s = torch.multinomial(moves, 1, generator=rng).view(n, uni.L)
        turned += (x_s != world.x[at]).double().mean().item()
        at = (x_s * V ** torch.arange(uni.L - 1, -1, -1)).sum(1)
    seen, clean = torch.bincount(at, minlength=len(law)).double(), (world.x < uni.S).all(1)
    expected = n * law[clean]
    assert ((seen[clean] - expected) ** 2 / expected).sum() < 125.0  # exceeded once in a thousand
    assert seen[~clean].sum() == 0 and abs(turned - changes) < 0.02 and law.sum().item() == pytest.approx(1)


def test_the_bound_of_masks_is_the_core_s_staircase(uni, language, worlds):
    from microdlm.likelihood import exact_curve

    curve = exact_curve(language, uni.L)
    for T in (1, 2, 5):
        assert uni.bound(worlds["masked"], T) == pytest.approx(uni.riemann(curve, T), abs=1e-9)


@pytest.mark.parametrize("name", ["masked", "uniform"])
def test_the_bound_is_one_and_falls_to_the_entropy(uni, language, worlds, name):
    """Above -log p on average, and above it by at least what the written texts are off; halved by twice the steps."""
    world = worlds[name]
    entropy = (world.p * language.nll(world.x_0)).sum().item()
    gaps = [uni.bound(world, T) - entropy for T in (4, 16, 32, 64)]
    assert gaps == sorted(gaps, reverse=True) and 0 < gaps[-1] < 0.02 and 1.5 < gaps[-2] / gaps[-1] < 2.5
    law, _ = uni.write(world, uni.start(world), uni.times(4))
    off = torch.xlogy(world.p, world.p / law[(world.x < uni.S).all(1)]).sum().item() / uni.L
    assert 0 < off < gaps[0]


def test_only_uniform_noise_takes_a_token_back(uni, worlds):
    for name, world in worlds.items():
        there = (world.x == torch.tensor(uni.MISTAKE)).all(1)
        law, changes = uni.write(world, there.double(), uni.times(32, 0.75))
        kept = law[world.x[:, 2] == uni.MISTAKE[2]].sum().item()
        assert (kept == pytest.approx(1) and changes == pytest.approx(0)) if name == "masked" else kept < 0.9


def test_smoke(uni, smoke):
    run = smoke(uni)
    assert run.failed == [] and len(run.claims) == 10


@pytest.mark.parametrize("bug", ["no_time", "keep_visible"])
def test_each_bug_hurts_uniform_noise_and_masks_do_not_mind(uni, smoke, bug):
    failed = smoke(uni, broken=bug).failed
    assert len(failed) == 3 and all(what.startswith("uniform") for what in failed)
