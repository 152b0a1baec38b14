"""Scores from a denoiser: against enumeration, against finite differences, and by what a score is for."""

import pytest
import torch

from microdlm.oracle import MarkovDenoiser


@pytest.fixture(scope="module")
def ratios(step):
    return step("extra_ratios")


@pytest.fixture(scope="module")
def language(ratios) -> MarkovDenoiser:
    return ratios.a_language(3)


def test_noised_probabilities_sum_to_one_and_have_the_right_ends(ratios, language):
    clean = (-5 * language.nll(ratios.all_texts(3))).exp()
    for alpha in (1.0, 0.8, 0.3, 0.0):
        p_t = ratios.probabilities(language, alpha)
        assert p_t.sum().item() == pytest.approx(1)
        if alpha == 1:
            assert torch.allclose(p_t[ratios.place(ratios.all_texts(3), 4)], clean)
    assert p_t[-1].item() == pytest.approx(1)  # all MASK
    texts = ratios.all_texts(4)
    assert torch.equal(ratios.place(texts, 4), torch.arange(len(texts)))


def test_scores_against_the_sampled_process(ratios, language):
    """By drawing texts and masks: how often each of two noised texts comes up."""
    rng, n, alpha = torch.Generator().manual_seed(0), 400_000, 0.5
    x_0 = language.sample(n, 5, rng)
    x_t = x_0.masked_fill(torch.rand(n, 5, generator=rng) >= alpha, 3)
    seen = torch.bincount(ratios.place(x_t, 4), minlength=4**5).double()
    base = torch.tensor([[0, 3, 3, 3, 3]])
    s = ratios.score(language, base, alpha)[0, 1]
    for y in range(3):
        other = base.clone()
        other[0, 1] = y
        top, bottom = seen[ratios.place(other, 4)], seen[ratios.place(base, 4)]
        assert abs(top / bottom / s[y] - 1) < 4 * (1 / top + 1 / bottom).sqrt()


def test_a_score_is_zero_where_masks_never_move(ratios, language):
    s = ratios.score(language, torch.tensor([[0, 3, 1, 3, 2]]), 0.4)
    assert (s[0, [0, 2, 4]] == 0).all() and (s[0, [1, 3]] > 0).all()


def test_the_score_is_where_the_score_entropy_is_least(ratios, language):
    """On average over clean texts: any other set of ratios at a noised text costs more."""
    x_0, alpha = ratios.all_texts(3), 0.4
    p = (-5 * language.nll(x_0)).exp()
    x_t = torch.tensor([[0, 3, 3, 2, 3]]).expand_as(x_0)
    fits = ((x_t == x_0) | (x_t == 3)).all(1)
    s = ratios.score(language, x_t[:1], alpha)
    least = (p * fits) @ ratios.score_entropy(s.expand(len(x_0), -1, -1), x_0, x_t, alpha, 1.0)
    for seed in range(20):
        other = (
            s
            * (1 + 0.2 * torch.randn(s.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).abs()
        )
        assert (p * fits) @ ratios.score_entropy(other.expand(len(x_0), -1, -1), x_0, x_t, alpha, 1.0) > least


def test_score_entropy_counts_what_is_not_normalised(ratios):
    """It equals cross-entropy where p sums to one: scores twice as large cost r - r ln 2 more at each MASK."""
    x_0, x_t, alpha = torch.tensor([[0, 1, 2, 0, 1]]), torch.tensor([[0, 3, 3, 0, 1]]), 0.5
    s = torch.full((1, 5, 3), 1 / 3, dtype=torch.float64)
    once, twice = (ratios.score_entropy(k * s, x_0, x_t, alpha, 1.0) for k in (1, 2))
    assert (twice - once).item() == pytest.approx(2 / 5 * (1 - torch.tensor(2.0).log().item()))


def test_a_walk_does_not_depend_on_its_way(ratios, language):
    x_0 = ratios.all_texts(3)
    there = ratios.walk(language, x_0[:1].expand_as(x_0), x_0)
    assert torch.allclose(there, 5 * (language.nll(x_0[:1]) - language.nll(x_0)))
    assert torch.allclose(ratios.walk(language, x_0, x_0[:1].expand_as(x_0)), -there)


def test_smoke(ratios, smoke):
    run = smoke(ratios)
    assert run.failed == [] and len(run.claims) == 3
    assert run.numbers["largest"] > 10 * run.numbers["smallest"]


@pytest.mark.parametrize(
    "bug, hit",
    [("forget_noise", {"the denoiser gives every score"}), ("stand_still", {"ratios alone give -log p of every text"})],
)
def test_each_bug_is_seen(ratios, smoke, bug, hit):
    assert set(smoke(ratios, broken=bug).failed) == hit
