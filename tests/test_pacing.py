"""How fast to write: the plan with the smallest bound is found, the bound is what writing in parallel costs.

The two measured tests are of 4 sigma and fixed seeds: a right program would fail one in 16,000 other seeds.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microdlm.likelihood import cross_entropy_curve
from microdlm.pacing import PACES, expected_passes, masked_shares, optimal_pace, parallel_bound, step_counts
from microdlm.samplers import ancestral, confidence
from microdlm.schedules import SCHEDULES


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# More context never makes a token harder for a perfect denoiser: c_n rises with the number n of MASKs.
curves = st.lists(st.integers(0, 100), min_size=1, max_size=8).map(lambda c: torch.tensor(sorted(c)).double() / 20)


def compositions(n: int, parts: int):
    """All ways to write n as a sum of so many numbers of 1 or more, in order."""
    for cuts in itertools.combinations(range(1, n), parts - 1):
        yield [b - a for a, b in itertools.pairwise([0, *cuts, n])]


@given(curves, st.integers(1, 9))
def test_optimal_is_the_best_of_all_plans(curve, num_steps):
    L = len(curve)
    best = min(parallel_bound(curve, plan) for plan in compositions(L, min(num_steps, L)))
    counts = optimal_pace(curve, num_steps)
    assert sum(counts) == L and len(counts) == min(num_steps, L) and min(counts) >= 1
    assert parallel_bound(curve, counts) == pytest.approx(best)


@given(st.lists(st.floats(0, 4), min_size=1, max_size=40), st.integers(1, 45))
@settings(max_examples=60)
def test_optimal_is_never_worse_than_a_named_pace(curve, num_steps):
    curve = torch.tensor(sorted(curve), dtype=torch.float64)
    best = parallel_bound(curve, optimal_pace(curve, num_steps))
    for pace in PACES:
        assert best <= parallel_bound(curve, step_counts(pace, num_steps, len(curve))) + 1e-12
    fewer = parallel_bound(curve, optimal_pace(curve, max(1, num_steps - 1)))
    assert best <= fewer + 1e-12  # on a curve that rises, a step more never costs


@given(curves)
def test_as_many_steps_as_tokens_is_one_at_a_time_and_costs_the_nelbo(curve):
    counts = optimal_pace(curve, len(curve))
    assert counts == [1] * len(curve) == step_counts("linear", len(curve), len(curve))
    assert parallel_bound(curve, counts) == pytest.approx(curve.mean().item())
    assert parallel_bound(curve, [len(curve)]) == pytest.approx(curve[-1].item())


def test_optimal_saves_its_steps_for_where_the_curve_is_steep():
    """Flat but for one cliff at n = 4: one step down to 4 and one from there is all that is needed."""
    curve = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    assert optimal_pace(curve, 2) == [6, 4] and parallel_bound(curve, [6, 4]) == pytest.approx(0.6)


def test_confidence_takes_the_optimal_pace(chain):
    """As it is, scaled to rows that have fewer MASKs, and never more steps than a row has MASKs."""
    x = torch.full((2, 12), 4)
    x[1, :6] = 0
    counts = optimal_pace(torch.linspace(0, 1, 12) ** 2, 4)
    states = list(confidence(chain, x, 4, pace=counts, rng=seeded()))
    left = [12 - sum(counts[: i + 1]) for i in range(4)]
    assert [(s == 4).sum(1).tolist() for s in states] == [[n, n // 2] for n in left]
    for n in range(1, 13):
        assert sum(step_counts(counts, 0, n)) == n and len(step_counts(counts, 0, n)) <= min(n, 4)


def test_counts_that_are_no_plan_are_refused():
    for counts in ([1, 1], [3, 1], [4, -1], [0, 3]):
        with pytest.raises(ValueError, match="sum to 3"):
            parallel_bound(torch.ones(3), counts)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_writing_in_parallel_costs_the_riemann_sum(chain, num_steps, L=8, B=4000):
    """Cross-entropy of the chain under "k random MASKs at once", measured along the way of true texts, against the sum
    over its curve: 4 sigma of both."""
    x_0, counts = chain.sample(B, L, seeded()), step_counts("linear", num_steps, L)
    curve = cross_entropy_curve(chain, x_0, 4, rng=seeded(1))
    turn = torch.rand(B, L, generator=seeded(2)).argsort(1).argsort(1)
    nats, opened = torch.zeros(B, dtype=torch.float64), 0
    for k in counts:
        now = (turn >= opened) & (turn < opened + k)
        log_p = chain(x_0.masked_fill(turn >= opened, 4)).gather(2, x_0[..., None])[..., 0]
        nats -= (log_p * now).sum(1) / L
        opened += k
    off = nats.mean() - parallel_bound(curve.mean, counts)
    assert abs(off) <= 4 * (nats.std() / B**0.5 + curve.stderr.max())


# ---- the grid of times ----


@pytest.mark.parametrize("name", SCHEDULES)
def test_shares_begin_with_all_and_end_with_none(name):
    u = masked_shares(name, 7)
    assert u[0] == 1 and u[-1] == 0 and len(u) == 8 and (u.diff() < 0).all()


def occupied(T: int, N: int) -> tuple[float, float]:
    """Mean and variance of how many of T boxes N balls occupy."""
    one, two = (1 - 1 / T) ** N, (1 - 2 / T) ** N
    return T * (1 - one), T * (T - 1) * two + T * one - T**2 * one**2


@pytest.mark.parametrize("T, mean", [(40, 39.86), (1000, 200.8)])
def test_how_many_steps_reveal_something(T, mean, N=224, B=60):
    """224 MASKs fall into T steps like balls into boxes. A seed's two popular numbers: of 40 steps 39.86 do something,
    of 1,000 steps 200.8. In closed form, and counted in 60 texts within 4 sigma. With no text in common between
    steps the forward passes of a batch of one are these steps."""
    exact, variance = occupied(T, N)
    assert expected_passes("linear", T, N) == pytest.approx(exact) and round(exact, 2 if T == 40 else 1) == mean
    before, steps = torch.full((B, N), 1), torch.zeros(B)
    for x in ancestral(lambda x: torch.zeros(*x.shape, 2), before, 1, T, rng=seeded()):
        steps += (x != before).any(1)
        before = x
    assert abs(steps.mean().item() - exact) <= 4 * (variance / B) ** 0.5
