"""x_0 -> x_t: who may be masked, how many, and that nothing but chance chooses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from microdlm.masking import mask_count, mask_tokens, stratified, to_count
from microdlm.schedules import SCHEDULES

MASK = 9
seeds, rates = st.integers(0, 2**31), st.floats(0, 1, width=32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(B: int, L: int) -> torch.Tensor:
    return torch.randint(0, MASK, (B, L), generator=seeded(7))


def is_carried(x_0, x_t, is_masked) -> bool:
    return torch.equal(x_t, torch.where(is_masked, MASK, x_0)) and torch.equal(is_masked, x_t == MASK)


# ---- mask_tokens ----


@given(seeds, st.lists(rates, min_size=3, max_size=3), st.lists(rates, min_size=3, max_size=3))
def test_masks_are_nested(seed, some, others):
    """MASK is absorbing: with the same generator state, what is masked at alpha is masked at every lower alpha."""
    x_0, some, others = text(3, 20), torch.tensor(some), torch.tensor(others)
    _, fewer = mask_tokens(x_0, torch.maximum(some, others), MASK, seeded(seed))
    _, more = mask_tokens(x_0, torch.minimum(some, others), MASK, seeded(seed))
    assert not (fewer & ~more).any()


@pytest.mark.parametrize("name", SCHEDULES)
def test_masks_only_grow_with_time(name):
    x_0, t = text(1, 300), torch.linspace(0, 1, 50)
    masks = torch.cat([mask_tokens(x_0, SCHEDULES[name].alpha(t_i[None]), MASK, seeded())[1] for t_i in t])
    assert (masks[1:] >= masks[:-1]).all() and masks.float().mean(1).diff().max() > 0


@given(seeds, st.lists(rates, min_size=4, max_size=4))
def test_visible_tokens_are_carried_over_and_the_rest_is_mask(seed, alpha):
    x_0 = text(4, 12)
    assert is_carried(x_0, *mask_tokens(x_0, torch.tensor(alpha), MASK, seeded(seed)))


def test_alpha_one_masks_nothing_and_alpha_zero_everything():
    _, is_masked = mask_tokens(text(2, 1000), torch.tensor([1.0, 0.0]), MASK, seeded())
    assert is_masked.sum(1).tolist() == [0, 1000]


def test_counts_are_binomial():
    """Tokens are masked independently: chi-square on counts of 3 rates. False alarm 3 * 1e-4 (had seeds varied)."""
    B, L = 20_000, 8
    for alpha in (0.1, 0.5, 0.9):
        _, is_masked = mask_tokens(text(B, L), torch.full((B,), alpha), MASK, seeded())
        assert abs(is_masked.sum().item() - B * L * (1 - alpha)) < 4 * (B * L * alpha * (1 - alpha)) ** 0.5
        seen = is_masked.sum(1).bincount(minlength=L + 1).double()
        expected = torch.tensor(B * binom.pmf(range(L + 1), L, 1 - alpha))
        common = expected > 5  # the rare counts are one cell
        cells = [
            torch.cat([x[common], x[~common].sum()[None]])[: 9 if (~common).any() else -1] for x in (seen, expected)
        ]
        assert chisquare(*cells).pvalue > 1e-4


def test_every_token_may_have_its_own_rate():
    """(B, L) rates, column j visible with probability j/8. Seven columns at 4 sigma: false alarm 4e-4."""
    B, alpha = 20_000, torch.arange(9) / 8
    _, is_masked = mask_tokens(text(B, 9), alpha.expand(B, 9), MASK, seeded())
    off = is_masked.double().mean(0) - (1 - alpha)
    assert (off.abs() <= 4 * (alpha * (1 - alpha) / B).sqrt()).all()  # the first and the last column exactly


# ---- mask_count ----


@pytest.mark.parametrize("given_tokens", [0, 3])
def test_exactly_k_are_masked_for_every_k(given_tokens, L=10):
    k = torch.arange(L - given_tokens + 1).repeat(20)
    x_0 = text(len(k), L)
    x_t, is_masked = mask_count(x_0, k, MASK, seeded(), given_tokens)
    assert torch.equal(is_masked.sum(1), k) and is_carried(x_0, x_t, is_masked)
    assert not is_masked[:, :given_tokens].any()


@pytest.mark.parametrize("given_tokens", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_every_subset_is_equally_likely(k, given_tokens, L=5):
    """Chi-square over the C(n, k) subsets; 6 tests, false alarm 6e-4 together."""
    B = 20_000
    _, is_masked = mask_count(text(B, L), torch.full((B,), k), MASK, seeded(), given_tokens)
    subset = (is_masked[:, given_tokens:] * 2 ** torch.arange(L - given_tokens)).sum(1)
    possible = [s for s in range(2 ** (L - given_tokens)) if s.bit_count() == k]
    seen = subset.bincount(minlength=2**L)[possible]
    assert seen.sum() == B and (len(possible) == 1 or chisquare(seen).pvalue > 1e-4)


@pytest.mark.parametrize("k, given_tokens", [(-1, 0), (6, 0), (5, 1)])
def test_an_impossible_count_is_refused(k, given_tokens):
    with pytest.raises(ValueError, match="k must lie between 0 and"):
        mask_count(text(1, 5), torch.tensor([k]), MASK, seeded(), given_tokens)


# ---- how many ----


@given(seeds, st.integers(1, 100))
def test_stratified_puts_one_number_in_each_part(seed, rows):
    place = stratified(rows, 5, rng=seeded(seed)).double() * rows - torch.arange(rows)[:, None]
    assert place.min() > -1e-5 and place.max() < 1 + 1e-5  # float32: a part's end may round to the next one's start


def test_stratified_is_uniform_within_its_part():
    """Chi-square over 10 cells, false alarm 1e-4."""
    place = stratified(4, 20_000, rng=seeded()) * 4 - torch.arange(4)[:, None]
    assert chisquare((place * 10).long().clamp(0, 9).flatten().bincount(minlength=10)).pvalue > 1e-4


@given(st.integers(1, 64), st.integers(1, 20))
def test_to_count_gives_every_count_its_equal_share(n, times):
    u = (torch.arange(n * times, dtype=torch.float64) + 0.5) / (n * times)
    assert to_count(u, n).bincount(minlength=n + 1).tolist() == [0] + [times] * n


@given(st.floats(0, 1, width=32), st.integers(1, 2000))
@settings(max_examples=300)
def test_to_count_stays_within_one_and_n(u, n):
    """Even at u = 1, where (rows - 1 + u) / rows may land by rounding."""
    assert 1 <= to_count(torch.tensor(u), n).item() <= n


def test_stratified_counts_are_exactly_uniform():
    """24 strata, 8 counts: in every column each count comes 3 times, whatever the seed."""
    k = to_count(stratified(24, 50, rng=seeded()), 8)
    assert all(column.bincount(minlength=9).tolist() == [0] + [3] * 8 for column in k.T)


# ---- randomness belongs to the caller ----


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: mask_tokens(text(4, 50), torch.full((4,), 0.5), MASK, rng)[0],
        lambda rng: mask_count(text(4, 50), torch.full((4,), 25), MASK, rng)[0],
        lambda rng: stratified(10, 3, rng=rng),
    ],
    ids=["mask_tokens", "mask_count", "stratified"],
)
def test_the_generator_decides_everything(draw):
    before = torch.get_rng_state()
    assert torch.equal(draw(seeded(1)), draw(seeded(1))) and not torch.equal(draw(seeded(1)), draw(seeded(2)))
    assert torch.equal(before, torch.get_rng_state())  # the global generator was not touched
