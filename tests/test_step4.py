"""Step 4: its likelihoods are the core's, its predictions hold another way, and each of its bugs is seen."""

import math

import pytest
import torch
from scipy.integrate import quad

from microdlm import likelihood, objectives
from microdlm.likelihood import exact_curve
from microdlm.masking import mask_count, mask_tokens
from microdlm.schedules import SCHEDULES, complete


@pytest.fixture(scope="module")
def s4(step):
    return step("step4_likelihood")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def masked(network):
    """(network, x_0, x_t, is_masked) with some rows nearly clean, some all MASK."""
    x_0 = torch.randint(4, (6, 16), generator=seeded(3))
    x_t, is_masked = mask_count(x_0, torch.tensor([1, 3, 8, 12, 15, 16]), 4, seeded(4))
    return network(), x_0, x_t, is_masked


# ---- step = core ----


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_weight_by_autograd_is_the_closed_form(s4, name):
    t = torch.linspace(0.001, 0.999, 500).double()
    torch.testing.assert_close(s4.weight(SCHEDULES[name].alpha, t), SCHEDULES[name].weight(t), rtol=1e-6, atol=1e-9)


def test_subs_and_both_bounds_are_the_core_s(s4, masked):
    net, x_0, x_t, is_masked = masked
    logits, weight_t = net(x_t), torch.rand(6, generator=seeded(5))
    log_p = s4.denoise_log_probs(logits, x_t, 4)
    torch.testing.assert_close(log_p, objectives.denoise_log_probs(logits, x_t, 4))
    torch.testing.assert_close(
        s4.nelbo(log_p, x_0, is_masked, weight_t), objectives.nelbo(log_p, x_0, is_masked, weight_t)
    )
    nll = objectives.masked_nll(net, x_0, x_t, is_masked, 4)
    torch.testing.assert_close(s4.count_nelbo(nll, is_masked), objectives.count_nelbo(nll, is_masked))
    torch.testing.assert_close(s4.nll_of(log_p, x_0) * is_masked, nll)


def test_left_to_right_is_the_core_s(s4, masked, chain):
    net, x_0, *_ = masked
    for denoiser in (net, chain):
        core = likelihood.left_to_right_nll(denoiser, x_0, 4)
        torch.testing.assert_close(s4.left_to_right_nll(denoiser, x_0, 4).double(), core, rtol=1e-5, atol=1e-6)


def test_a_draw_of_the_bound_in_counts_is_the_core_s_estimate(s4, network):
    """Of the same text by other masks: within 4 standard errors of the difference."""
    x_0 = torch.randint(4, (1, 16), generator=seeded(3)).expand(2000, -1)
    mine = s4.draw_count_nelbo(network(), x_0, 4, seeded(1)).double()
    core = likelihood.estimate_nelbo(network(), x_0[:1], 4, samples=2000, rng=seeded(2)).mean
    assert abs(mine.mean() - core) < 4 * (2 * mine.var() / 2000) ** 0.5


def test_what_training_makes_small_has_gradients(s4, network):
    """-inf stands beside every number that is differentiated; none of it comes back."""
    net, x_0 = network(), torch.randint(4, (6, 16), generator=seeded(3))
    s4.draw_count_nelbo(net, x_0, 4, seeded()).mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert sum(p.grad.abs().sum() for p in net.parameters()) > 0


# ---- the predictions, another way ----


def m(curve, u):
    """The mean cross-entropy of a masked token at masked share u, from c_1 .. c_L."""
    L = len(curve)
    return sum(math.comb(L, n) * u ** (n - 1) * (1 - u) ** (L - n) * n * c for n, c in enumerate(curve.tolist(), 1)) / L


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_habit_is_an_integral_of_the_one_curve(s4, name):
    """By scipy over u instead of t: the bound is the area between the ends; sum / sum is a weighted mean of m(u);
    counting n twice gives the sum of c_n / n where the ends are clean and all MASK."""
    s, curve = SCHEDULES[name], exact_curve(s4.two_letters(0.9), 8)
    assert s4.predicted("bound", s, curve) == pytest.approx(quad(lambda u: m(curve, u), *s.ends)[0], abs=1e-5)

    def u(t):
        return 1 - s.alpha(torch.tensor(t, dtype=torch.float64)).item()

    above, below = quad(lambda t: u(t) * m(curve, u(t)), 0, 1)[0], quad(u, 0, 1)[0]
    assert s4.predicted("sum / sum", s, curve) == pytest.approx(above / below, abs=1e-5)
    assert s4.predicted("no weight", s, curve) == pytest.approx(above, abs=1e-5)
    if complete(s) is s:
        twice = (curve / torch.arange(1, 9)).sum().item()
        assert s4.predicted("n twice", s, curve) == pytest.approx(twice, abs=1e-5)


@pytest.mark.parametrize("name, nats", [("loglinear", 0.6821), ("clipped_cosine", 0.3051), ("sigmoid", 0.6225)])
def test_a_schedule_that_stops_short_misses_what_lies_beyond(s4, name, nats):
    curve = torch.zeros(16).double()
    curve[15] = math.log(2)
    assert 16 * s4.predicted("bound", SCHEDULES[name], curve) == pytest.approx(nats, abs=5e-5)
    assert 16 * s4.predicted("bound", complete(SCHEDULES[name]), curve) == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("way", ["bound", "n twice", "sum / sum", "no weight"])
def test_the_error_bar_of_a_habit_is_honest(s4, way):
    """50 repetitions: what is measured scatters by its standard error, and around what was predicted."""
    language, s = s4.two_letters(0.9), SCHEDULES["sqrt"]
    curve, x_0 = exact_curve(language, 8), language.sample(50 * 2000, 8, seeded())
    runs = [s4.measured(way, s, language, x, seeded(seed)) for seed, x in enumerate(x_0.split(2000))]
    z = torch.tensor([(mean - s4.predicted(way, s, curve)) / stderr for mean, stderr in runs])
    assert 0.7 < z.std() < 1.4 and z.mean().abs() < 4 / 50**0.5 + 0.2  # a little skew is allowed


def test_the_step_masks_as_the_core_does(s4):
    """`measured` draws t first, then masks: the share that is masked is the schedule's."""
    language, s = s4.two_letters(0.9), SCHEDULES["cosine"]
    x_0, seen = language.sample(4000, 8, seeded()), []
    s4.measured("bound", s, lambda_of(language, seen), x_0, seeded(1))
    part = torch.rand(4000, generator=(g := seeded(1)), dtype=torch.float64).clamp(min=1e-6)
    assert torch.equal(seen[0], mask_tokens(x_0, s.alpha(part**3), 2, g)[0])


def lambda_of(language, seen):
    """The language, and a note of what it was asked."""

    class Watched:
        mask_id = language.mask_id

        def __call__(self, x_t):
            seen.append(x_t)
            return language(x_t)

    return Watched()


# ---- the whole step ----


def test_smoke(s4, smoke):
    run = smoke(s4)
    assert all(run.claims.values()) and len(run.claims) == 10
    assert run.numbers["network truth"] < run.numbers["network bound"]


def test_smoke_on_a_file(s4, smoke, cats):
    """No truth is known, and none is claimed."""
    run = smoke(s4, data=cats)
    assert all(run.claims.values()) and "network truth" not in run.numbers


@pytest.mark.parametrize(
    "bug, hit",
    [
        ("mean_over_masked", {"the bound is the entropy"}),
        ("forget_ends", {"the bound is the entropy", "walked to the ends it is"}),
        ("no_subs", {"MASK keeps no probability"}),
    ],
)
def test_each_bug_is_seen(s4, smoke, cats, bug, hit):
    """The claims that fail are those that are said to fail, and no others; close() would otherwise exit."""
    run = smoke(s4, data=cats, broken=bug)
    assert {what for what, holds in run.claims.items() if not holds} == hit


def test_what_mask_keeps_the_bound_pays(s4, network):
    """The same masks with and without SUBS: the bound is larger by -log(1 - p(MASK)), never smaller."""
    x_0 = torch.randint(4, (50, 16), generator=seeded(3))
    with_subs = s4.draw_count_nelbo(network(), x_0, 4, seeded(1))
    without = s4.draw_count_nelbo(network(), x_0, 4, seeded(1), lambda logits, *_: logits.log_softmax(-1))
    assert (without > with_subs).all()
