"""One number, many ways: with an exact denoiser each bound must equal the entropy it bounds.

For a perfect denoiser the bound is tight text by text, not only on average: any order of reading gives
-log p(x) by the chain rule. So estimates are compared with the truth in pairs, sequence by sequence.
Every Monte Carlo comparison allows 4 standard errors, a false alarm in 16,000; there are about 40, so 3 in 1,000
together had the seeds not been fixed. Each also asserts that its error bar is small, so that it can fail.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from microdlm.likelihood import Estimate, cross_entropy_curve, estimate_nelbo, exact_curve, left_to_right_nll
from microdlm.masking import mask_tokens
from microdlm.objectives import denoise_log_probs, masked_nll, nelbo
from microdlm.schedules import SCHEDULES


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_unbiased(per_sequence, truth, precision: float = 0.02):
    """The mean difference is within 4 standard errors of zero, and those are small beside the truth."""
    off = per_sequence - truth
    stderr = off.std() / len(off) ** 0.5
    assert 0 < stderr < precision * truth.mean(), "this comparison would accept too much"
    assert off.mean().abs() < 4 * stderr


def every_subset(L: int) -> torch.Tensor:
    """(2^L - 1, L): all ways to mask something of L tokens."""
    return torch.tensor(list(itertools.product([False, True], repeat=L)))[1:]


def enumerated_curve(denoiser, x_0) -> torch.Tensor:
    """(B, L): c_k of each sequence, from all C(L, k) masks instead of random ones."""
    subsets, L = every_subset(x_0.size(1)), x_0.size(1)
    of_size = [subsets[subsets.sum(1) == k] for k in range(1, L + 1)]

    def c_k(row, masks):
        rows = row.expand(len(masks), -1)
        return masked_nll(denoiser, rows, rows.masked_fill(masks, denoiser.mask_id), masks, denoiser.mask_id)

    return torch.tensor([[(c_k(row, m).sum(1) / m.sum(1)).mean() for m in of_size] for row in x_0]).double()


@pytest.fixture(params=["chain", "skewed"])
def language(request):
    return request.getfixturevalue(request.param)


# ---- the bound is the entropy ----


def test_the_mean_of_c_k_over_all_masks_is_exactly_minus_log_p(language):
    """Without any randomness: every sequence, all masks of 5 tokens."""
    x_0 = language.sample(6, 5, seeded())
    torch.testing.assert_close(enumerated_curve(language, x_0).mean(1), language.nll(x_0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("given", [0, 3])
def test_nelbo_in_counts_is_the_entropy(language, given):
    x_0 = language.sample(400, 12, seeded())
    estimate = estimate_nelbo(language, x_0, language.mask_id, samples=32, rng=seeded(1), given=given)
    assert_unbiased(estimate.per_sequence, language.nll(x_0, given))


@pytest.mark.parametrize("given", [0, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_nelbo_in_time_is_the_entropy_under_every_schedule(chain, name, given):
    """The estimator walks the missing ends too, so clipped_cosine and sigmoid are no exceptions; nor is sqrt, whose
    variance would be infinite if t were drawn evenly (150 repetitions then reached -5.8 "standard errors")."""
    x_0, schedule = chain.sample(400, 10, seeded()), SCHEDULES[name]
    estimate = estimate_nelbo(chain, x_0, chain.mask_id, samples=32, rng=seeded(1), given=given, schedule=schedule)
    assert_unbiased(estimate.per_sequence, chain.nll(x_0, given))


@pytest.mark.parametrize("name", ["linear", "sigmoid"])
def test_nelbo_in_time_is_the_entropy_of_a_skewed_language(skewed, name):
    x_0 = skewed.sample(600, 10, seeded())
    estimate = estimate_nelbo(skewed, x_0, skewed.mask_id, samples=64, rng=seeded(1), schedule=SCHEDULES[name])
    assert_unbiased(estimate.per_sequence, skewed.nll(x_0), precision=0.03)


def test_a_worse_denoiser_has_a_larger_bound(chain):
    """It is a bound: a denoiser that hedges (twice the temperature) is placed above the truth by both forms, and by
    the same amount."""
    x_0, mask_id = chain.sample(500, 10, seeded()), chain.mask_id
    gaps = []
    for schedule in (None, SCHEDULES["linear"]):
        worse = estimate_nelbo(lambda x: chain(x) / 2, x_0, mask_id, 32, seeded(1), schedule=schedule)
        gaps.append(worse.per_sequence - chain.nll(x_0))
        assert gaps[-1].mean() > 4 * gaps[-1].std() / len(x_0) ** 0.5
    assert_unbiased(gaps[0] - gaps[1] + 1, torch.ones(500), precision=0.01)


# ---- what the ends are worth ----

ENDLESS = {"linear": math.log(2), "clipped_cosine": 0.3051, "sigmoid": 0.6225}


@pytest.mark.parametrize("name, total", ENDLESS.items())
def test_the_weighted_integral_alone_misses_what_lies_beyond_the_ends(ab, name, total, L=16):
    """ABAB.. or BABA..: the only news is which, ln 2 nats, paid when all 16 tokens are masked. A schedule that stops
    at a share u < 1 seldom or never sees that: its integral is (u(1)^16 - u(0)^16) ln 2, below the truth.

    Once in closed form by quadrature, once with mask_tokens, SUBS and nelbo (4 sigma)."""
    s = SCHEDULES[name]

    def integrand(t):
        t = torch.tensor(t, dtype=torch.float64)
        return (s.weight(t) * (1 - s.alpha(t)) ** L * math.log(2)).item()  # per token, and P(all masked) = u^L

    assert L * quad(integrand, 0, 1)[0] == pytest.approx(total, abs=5e-5)

    x_0, t = ab.sample(80_000, L, seeded()), torch.rand(80_000, generator=seeded(1), dtype=torch.float64)
    x_t, is_masked = mask_tokens(x_0, s.alpha(t), ab.mask_id, seeded(2))
    per_sequence = L * nelbo(denoise_log_probs(ab(x_t), x_t, ab.mask_id), x_0, is_masked, s.weight(t))
    assert_unbiased(per_sequence, torch.full_like(per_sequence, total), precision=0.03)
    assert name == "linear" or per_sequence.mean() < 0.95 * math.log(2)


@pytest.mark.parametrize("name", ENDLESS)
def test_with_its_ends_every_schedule_finds_ln_2(ab, name):
    x_0 = ab.sample(1000, 16, seeded())
    estimate = estimate_nelbo(ab, x_0, ab.mask_id, samples=96, rng=seeded(1), schedule=SCHEDULES[name])
    assert_unbiased(16 * estimate.per_sequence, torch.full((1000,), math.log(2)), precision=0.03)


# ---- common random numbers ----


@pytest.mark.parametrize("schedule", [None, SCHEDULES["cosine"]], ids=["counts", "time"])
def test_the_same_generator_state_gives_the_same_masks_to_every_model(chain, network, schedule):
    x_0, seen = chain.sample(5, 8, seeded()), []

    def watch(x_t):
        seen.append(x_t)
        return chain(x_t)

    once = estimate_nelbo(watch, x_0, chain.mask_id, samples=8, rng=seeded(1), schedule=schedule)
    again = estimate_nelbo(watch, x_0, chain.mask_id, samples=8, rng=seeded(1), schedule=schedule)
    other = estimate_nelbo(watch, x_0, chain.mask_id, samples=8, rng=seeded(2), schedule=schedule)
    assert torch.equal(once.per_sequence, again.per_sequence) and torch.equal(seen[0], seen[1])
    assert not torch.equal(once.per_sequence, other.per_sequence)


@pytest.mark.parametrize("schedule", [None, SCHEDULES["sigmoid"]], ids=["counts", "time"])
def test_given_tokens_are_always_visible(chain, schedule):
    def watch(x_t):
        assert (x_t[:, :3] != chain.mask_id).all()
        return chain(x_t)

    estimate_nelbo(watch, chain.sample(5, 8, seeded()), chain.mask_id, 32, seeded(1), given=3, schedule=schedule)


def test_estimate_reports_the_error_of_the_mean():
    """By hand. Several draws of each sequence are averaged first: the error is that of the text."""
    for draws in ([1.0, 2.0, 3.0, 6.0], [[0.0, 2.0, 4.0, 5.0], [2.0, 2.0, 2.0, 7.0]]):
        estimate = Estimate.of(torch.tensor(draws))
        assert estimate.per_sequence.tolist() == [1, 2, 3, 6]
        assert estimate.mean == 3 and estimate.bits == pytest.approx(3 / math.log(2))
        assert estimate.stderr == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))


def test_the_error_bar_is_honest(chain):
    """Of 60 repetitions on fresh text, the spread of the means is what stderr says: a chi-square with 59 degrees of
    freedom leaves [29, 103] x stderr^2 with probability 1e-3."""
    estimates = [
        estimate_nelbo(chain, chain.sample(50, 8, seeded(i)), chain.mask_id, samples=4, rng=seeded(1000 + i))
        for i in range(60)
    ]
    spread = np.var([e.mean for e in estimates], ddof=1) * 59
    assert 29 < spread / np.mean([e.stderr**2 for e in estimates]) < 103


# ---- left to right, exactly ----


@pytest.mark.parametrize("given", [None, 1, 4])
def test_left_to_right_is_the_chain_rule(language, given):
    x_0 = language.sample(8, 9, seeded())
    exact = left_to_right_nll(language, x_0, language.mask_id, given)
    torch.testing.assert_close(exact, language.nll(x_0, given or 0), rtol=0, atol=1e-9)


def test_left_to_right_of_a_gpt_sums_its_next_token_log_probabilities(network):
    gpt = network(causal=True, vocab_size=4)
    x_0 = torch.randint(0, 4, (70, 7), generator=seeded())  # 70 rows: more than one forward pass
    by_hand = torch.zeros(70)
    for i in range(1, 7):
        by_hand -= gpt(x_0[:, :i])[:, -1].log_softmax(-1).gather(1, x_0[:, i : i + 1])[:, 0] / 6
    torch.testing.assert_close(left_to_right_nll(gpt, x_0), by_hand.double(), rtol=1e-5, atol=1e-5)


def test_a_gpt_cannot_score_its_first_token(network):
    with pytest.raises(ValueError, match="given must be 1"):
        left_to_right_nll(network(causal=True, vocab_size=4), torch.zeros(1, 4, dtype=torch.long), given=0)


@pytest.mark.parametrize("measure", [estimate_nelbo, left_to_right_nll], ids=lambda f: f.__name__)
def test_nothing_to_score_is_refused(chain, measure):
    """All tokens given: an error as in oracle.nll, not a silent nan."""
    with pytest.raises(ValueError):
        measure(chain, chain.sample(2, 5, seeded()), chain.mask_id, given=5)


# ---- the curve ----


def test_the_curve_is_the_enumerated_one(chain, L=6):
    """Each c_k within 4 sigma of its value over all masks of the same text; with k = L only one mask exists."""
    x_0 = chain.sample(20, L, seeded())
    each = [cross_entropy_curve(chain, x_0, chain.mask_id, samples=16, rng=seeded(i)).mean for i in range(40)]
    measured, truth = torch.stack(each).double(), enumerated_curve(chain, x_0).mean(0)
    stderr = measured.std(0) / 40**0.5
    assert (stderr < 0.01 * truth).all() and ((measured.mean(0) - truth).abs() < 4 * stderr + 1e-6).all()
    assert stderr[-1] < 1e-6 < stderr[0]


def test_the_mean_of_the_curve_is_the_nll(chain):
    """The mean over all k of the same text; 40 repetitions give the error of the masks."""
    x_0 = chain.sample(20, 8, seeded())
    for given in (0, 2):
        curves = [cross_entropy_curve(chain, x_0, chain.mask_id, None, 4, seeded(i), given) for i in range(40)]
        assert curves[0].k.tolist() == list(range(1, 9 - given))
        means = torch.stack([curve.mean.double().mean() for curve in curves])
        assert_unbiased(means, chain.nll(x_0, given).mean().expand(40), precision=0.01)


def test_the_curve_can_be_measured_at_chosen_counts(chain):
    x_0 = chain.sample(20, 8, seeded())
    curve = cross_entropy_curve(chain, x_0, chain.mask_id, counts=torch.tensor([8, 1]), rng=seeded(1))
    assert curve.k.tolist() == [8, 1] and curve.mean[0] > curve.mean[1]


def test_the_area_under_the_cross_entropy_curve_is_the_nll(chain, L=8):
    """m(u), the mean cost of a masked token when each is masked with probability u, is a polynomial of degree L - 1
    in u: 4 Gauss-Legendre nodes integrate it exactly for L = 8."""
    x_0 = chain.sample(3000, L, seeded())
    nodes, shares = np.polynomial.legendre.leggauss(4)
    area = 0
    for u, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        x_t, is_masked = mask_tokens(x_0, torch.full((3000,), 1 - u), chain.mask_id, seeded(int(1000 * u)))
        area += share * masked_nll(chain, x_0, x_t, is_masked, chain.mask_id).sum(1) / (L * u)
    assert_unbiased(area, chain.nll(x_0))


@pytest.mark.parametrize("L", [1, 4])
def test_the_exact_curve_is_the_mean_over_all_texts_and_masks(chain, skewed, ab, L):
    """Summed over texts in two ways: by the entropy of the posterior, and by what the true token costs. Its mean is the
    entropy of a text, its last point that of a token alone."""
    for language in (chain, skewed, ab):
        x_0 = torch.tensor(list(itertools.product(range(language.mask_id), repeat=L)))
        possible = x_0[language.nll(x_0).isfinite()]
        p = (-L * language.nll(possible)).exp()
        curve = exact_curve(language, L)
        torch.testing.assert_close(curve, p @ enumerated_curve(language, possible).double(), rtol=1e-5, atol=1e-7)
        assert curve.mean().item() == pytest.approx((p @ language.nll(possible)).item(), abs=1e-9)
        assert (curve.diff() >= -1e-9).all()  # more that is visible never hurts
