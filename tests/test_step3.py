"""Step 3: its samplers are the core's, its predictions are exact, and each of its bugs is seen.

Equal in distribution is tested by chi-square at p > 1e-4: a false alarm in 10,000, had the seeds not been fixed.
"""

import math

import pytest
import torch
from scipy.stats import chisquare

from microdlm import cost, pacing, planned, surest


@pytest.fixture(scope="module")
def s3(step):
    return step("step3_sampling")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- step = core ----


@pytest.mark.parametrize("order", ["confidence", "random"])
@pytest.mark.parametrize("num_steps", [1, 3, 5, 40])
def test_confidence_writes_what_the_core_writes(s3, network, order, num_steps):
    """The same states, also where rows have different numbers of blanks, given tokens, and more steps than blanks."""
    net, x = network(), torch.full((4, 12), 4)
    x[0, :5], x[1, 3], x[2, ::2] = 1, 2, 0
    how = dict(num_steps=num_steps, order=order, temperature=0.7)
    mine = list(s3.confidence(net, x, 4, rng=seeded(), **how))
    core = list(surest.confidence(net, x, 4, pace="linear", rng=seeded(), **how))
    assert len(mine) == len(core)
    assert all(torch.equal(a, b) for a, b in zip(mine, core, strict=True))


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_ancestral_writes_the_same_texts_as_often_as_the_core(s3, chain, num_steps):
    """All 64 texts of three tokens, 20,000 draws of each sampler, one homogeneity test."""
    x, place, counts = torch.full((20_000, 3), 4), 4 ** torch.arange(3), []
    for sampler, seed in ((s3.ancestral, 1), (planned.ancestral, 2)):
        *_, texts = sampler(chain, x, 4, num_steps, rng=seeded(seed))
        counts.append((texts @ place).bincount(minlength=64).double())
    a, b = counts
    seen = a + b >= 20
    assert 1 - torch.special.gammainc((seen.sum() - 1.0) / 2, ((a - b) ** 2 / (a + b))[seen].sum().float() / 2) > 1e-4


def test_ancestral_opens_each_blank_at_a_uniformly_random_step(s3):
    x, left = torch.full((1, 30_000), 2), []
    for state in s3.ancestral(lambda x: torch.zeros(*x.shape, 3), x, 2, 6, rng=seeded()):
        left.append((state == 2).sum().item())
    opened = [a - b for a, b in zip([30_000, *left], left, strict=False)]
    assert len(opened) == 6 and left[-1] == 0
    assert chisquare(opened).pvalue > 1e-4


def test_the_counter_counts_as_the_core_does(s3, network):
    mine, core, x = s3.CountForwards(network()), cost.CountForwards(network()), torch.full((3, 16), 4)
    for model in (mine, core):
        for _ in s3.ancestral(model, x, 4, 50, rng=seeded()):
            pass
    assert (mine.passes, mine.token_forwards) == (core.passes, core.token_forwards)
    assert mine.token_forwards == 48 * mine.passes and 0 < mine.passes < 50


def test_given_tokens_stay_and_nothing_written_changes(s3, network):
    start = torch.full((2, 16), 4)
    start[:, 3:6] = torch.tensor([0, 1, 2])
    for sampler in (s3.ancestral, s3.confidence):
        x = start
        for state in sampler(network(), start, 4, 7, rng=seeded()):
            assert torch.equal(state[x != 4], x[x != 4])
            x = state
        assert not (x == 4).any()


# ---- the predictions ----


def test_the_closed_form_of_passes_is_the_core_s(s3):
    for T, rounded in zip(s3.STEPS, (39.86, 200.77), strict=True):
        expected = T * (1 - (1 - 1 / T) ** s3.BLANKS)
        assert expected == pytest.approx(pacing.expected_passes("linear", T, s3.BLANKS))
        assert round(expected, 2) == rounded


def test_the_price_of_one_pass_is_the_product_of_marginals(s3):
    """In one pass each letter is a fair coin; one at a time the price is -log p, whatever the order."""
    language = s3.two_letters(0.9)
    x_0 = language.sample(50, s3.L, seeded())
    torch.testing.assert_close(s3.price(language, x_0, [s3.L], seeded()), torch.full((50,), math.log(2)).double())
    torch.testing.assert_close(s3.price(language, x_0, [1] * s3.L, seeded()), language.nll(x_0))


def test_the_chi_square_test_accepts_the_language_and_rejects_its_neighbour(s3):
    """Its p-value is scipy's; it sees a letter that comes again in 88 cases of 100 instead of 90."""
    language, other = s3.two_letters(0.9), s3.two_letters(0.88)
    p = [s3.chi_square(language.sample(20_000, s3.L, seeded(seed)), language) for seed in range(20)]
    assert min(p) > 1e-4 and max(p) > 0.5 and min(p) < 0.5
    assert s3.chi_square(other.sample(20_000, s3.L, seeded()), language) < 1e-4


def test_any_text_has_a_language_of_letter_pairs(s3, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abracadabra, alakazam! " * 20)
    language, tok = s3.real_language(str(path))
    x_0 = torch.tensor([tok.encode("cadabra"), tok.encode("zzzzzzz")])
    assert language.nll(x_0).isfinite().tolist() == [True, False]


# ---- the whole step ----


def test_smoke(s3, smoke):
    run = smoke(s3)
    assert all(run.claims.values()) and len(run.claims) == 7
    assert run.numbers["nats_1"] == pytest.approx(0.322, abs=0.03)


def test_smoke_on_a_file(s3, smoke, cats):
    assert all(smoke(s3, data=cats).claims.values())


@pytest.mark.parametrize(
    "bug, hit",
    [("frames", "T steps take"), ("overwrite", "what is written stays"), ("greedy", "k at once, by lot")],
)
def test_each_bug_is_seen(s3, smoke, cats, bug, hit):
    """The claims that fail are those that are said to fail, and no others; close() would otherwise exit."""
    run = smoke(s3, data=cats, broken=bug)
    failed = [what for what, holds in run.claims.items() if not holds]
    assert failed and all(any(word in claim for word in hit.split(", ")) for claim in failed)
    if bug == "frames":
        assert run.numbers["passes_1000"] == 1000
