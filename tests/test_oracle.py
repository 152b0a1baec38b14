"""The exact denoiser against the definition: sums over the whole joint distribution of tiny chains."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microdlm.oracle import FiniteStateDenoiser, MarkovDenoiser

KINDS = ["markov", "hidden", "sparse"]


def rng(seed):
    return torch.Generator().manual_seed(seed)


def probabilities(*shape, seed, zeros=0.0):
    """Random rows that sum to one; about a share `zeros` of the entries is impossible."""
    p = torch.rand(shape, generator=rng(seed), dtype=torch.float64)
    p *= torch.rand(shape, generator=rng(seed + 1)) >= zeros
    p[..., -1] += 0.1  # no row is empty
    return p / p.sum(-1, keepdim=True)


def chain(kind, seed=0, S=4):
    """A random chain; where it is hidden, states 0 and 1 look alike and some moves are impossible."""
    if kind == "markov":
        return MarkovDenoiser(probabilities(S, seed=seed), probabilities(S, S, seed=seed + 2))
    transition = probabilities(S, S, seed=seed + 2, zeros=0.4)
    symbol = torch.tensor([0, *range(S - 1)])
    return FiniteStateDenoiser(
        probabilities(S, seed=seed), transition.to_sparse() if kind == "sparse" else transition, symbol
    )


def joint(denoiser, L):
    """p(x) for every x in V^L, by the definition: a sum over all paths of states. {x: p}"""
    S = len(denoiser.initial)
    transition = torch.zeros(S, S, dtype=torch.float64)
    transition[denoiser.source, denoiser.target] = denoiser.prob
    p = dict.fromkeys(itertools.product(range(denoiser.mask_id), repeat=L), 0.0)
    for path in itertools.product(range(S), repeat=L):
        moves = math.prod(float(transition[a, b]) for a, b in itertools.pairwise(path))
        p[tuple(denoiser.symbol[list(path)].tolist())] += float(denoiser.initial[path[0]]) * moves
    return p


def posterior_by_definition(p, x_t, mask_id):
    """p(x_i = v | visible tokens) (L, V): add up all the sentences that agree with what is visible."""
    marginal = torch.zeros(len(x_t), mask_id + 1, dtype=torch.float64)
    for x, p_x in p.items():
        if all(seen in (mask_id, token) for seen, token in zip(x_t, x, strict=True)):
            marginal[torch.arange(len(x)), list(x)] += p_x
    return marginal / marginal.sum(-1, keepdim=True)


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_is_the_definition(kind):
    denoiser, L = chain(kind), 4
    p = joint(denoiser, L)
    contexts = list(itertools.product(range(denoiser.vocab_size), repeat=L))
    log_p = denoiser(torch.tensor(contexts))
    for x_t, row in zip(contexts, log_p.exp(), strict=True):
        truth = posterior_by_definition(p, x_t, denoiser.mask_id)
        if not truth.isnan().any():  # impossible contexts have a test of their own
            torch.testing.assert_close(row, truth, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_nll_is_the_definition(kind):
    denoiser, L = chain(kind, seed=3), 4
    p = joint(denoiser, L)
    assert sum(p.values()) == pytest.approx(1, abs=1e-12)
    x = torch.tensor(list(p))
    log_p = torch.tensor(list(p.values()), dtype=torch.float64).log()
    torch.testing.assert_close(denoiser.nll(x), -log_p / L)
    prefix = torch.tensor([sum(q for y, q in p.items() if y[:3] == z[:3]) for z in p], dtype=torch.float64)
    possible = log_p > -torch.inf
    torch.testing.assert_close(denoiser.nll(x, given=3)[possible], (prefix.log() - log_p)[possible])
    assert (denoiser.nll(x, given=3)[~possible] == torch.inf).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 10**6))
def test_chain_rule_in_any_order(kind, seed, L, order_seed):
    """Revealed one at a time, in whatever order, the surprises add up to -log p(x): this is why the
    NELBO of the exact denoiser is the entropy."""
    denoiser = chain(kind, seed)
    x_0 = denoiser.sample(3, L, rng(seed))
    x_t, nats = torch.full_like(x_0, denoiser.mask_id), 0.0
    for i in torch.randperm(L, generator=rng(order_seed)):
        nats -= denoiser(x_t)[:, i].gather(1, x_0[:, i, None])[:, 0]
        x_t[:, i] = x_0[:, i]
    torch.testing.assert_close(nats, L * denoiser.nll(x_0), rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.data())
def test_output_is_a_distribution_that_carries_over(kind, seed, data):
    """For every context, possible or not: no NaN, no mass on MASK, visible tokens stay."""
    denoiser = chain(kind, seed)
    row = st.lists(st.integers(0, denoiser.mask_id), min_size=6, max_size=6)
    x_t = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=4)))
    p = denoiser(x_t).exp()
    assert p.shape == (*x_t.shape, denoiser.vocab_size) and not p.isnan().any()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
    assert (p[..., denoiser.mask_id][x_t == denoiser.mask_id] == 0).all()
    visible = x_t != denoiser.mask_id
    assert (p[visible].gather(1, x_t[visible][:, None]) == 1).all()


def test_rows_do_not_meet(monkeypatch):
    """A batch is scored in parts that fit in memory; the parts do not show."""
    denoiser = chain("sparse")
    x_t = torch.randint(0, denoiser.vocab_size, (7, 5), generator=rng(0))
    whole, nll = denoiser(x_t), denoiser.nll(x_t % denoiser.mask_id)
    monkeypatch.setattr("microdlm.oracle.MEMORY", 1)
    torch.testing.assert_close(denoiser(x_t), whole)
    torch.testing.assert_close(denoiser.nll(x_t % denoiser.mask_id), nll)


def test_contradiction_gives_the_stationary_symbols():
    """A chain that must alternate cannot say 0 0. Its blanks then hold the long-run shares."""
    denoiser = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
    p = denoiser(torch.tensor([[0, 0, 2], [0, 1, 2]])).exp()
    torch.testing.assert_close(p[0, 2], torch.tensor([1 / 3, 2 / 3, 0], dtype=torch.float64))
    torch.testing.assert_close(p[0, :2], torch.eye(3, dtype=torch.float64)[[0, 0]])
    torch.testing.assert_close(p[1, 2], torch.tensor([0.5, 0.5, 0], dtype=torch.float64))
    assert denoiser.nll(torch.tensor([[0, 0, 1]])).item() == math.inf


def test_a_past_that_is_ruled_out_does_not_overflow():
    """Two chains that never meet; one would explain the future 10^2000 times better, but it is not ours."""
    block = torch.tensor([[0.99999, 0.00001], [0.99999, 0.00001]])
    transition = torch.block_diag(block, block.flip(1))
    denoiser = FiniteStateDenoiser(torch.tensor([0.5, 0.0, 0.5, 0.0]), transition, torch.tensor([0, 1, 2, 1]))
    x_t = torch.full((1, 400), 1)
    x_t[0, 0], x_t[0, 1] = 0, denoiser.mask_id
    p = denoiser(x_t).exp()[0, 1]
    truth = torch.tensor([0.99999, 0.00001, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(p, truth, rtol=1e-4, atol=0)


def test_entropy_rate_two_ways():
    """By formula, and as the nll of a long sample: within 4 standard errors (fixed seed; a right formula
    fails at 6 seeds in 100,000). The rows are independent, so their spread gives the error."""
    transition = probabilities(5, 5, seed=1)
    stationary = MarkovDenoiser(torch.full((5,), 0.2), transition).stationary()
    torch.testing.assert_close(stationary @ transition, stationary, rtol=1e-13, atol=0)
    denoiser = MarkovDenoiser(stationary, transition)
    nll = denoiser.nll(denoiser.sample(500, 201, rng(0)), given=1)
    assert abs(nll.mean() - denoiser.entropy_rate()) < 4 * nll.std() / 500**0.5


def test_entropy_rate_is_the_area_under_m():
    """The identity behind everything: the NELBO per token of the exact denoiser is the area under m(u), the
    mean cross-entropy of a masked token when a share u is masked. For an order-1 chain only the nearest
    visible neighbours matter, a steps to the left and b to the right, and u integrates to a Beta function:
        area = sum over a, b >= 1 of  2 (a+b-2)! / (a+b+1)!  H(X_0 | X_-a, X_b)."""
    transition = probabilities(3, 3, seed=5)
    denoiser = MarkovDenoiser(torch.ones(3) / 3, transition)
    pi, reach = denoiser.stationary(), 300
    powers = [torch.linalg.matrix_power(transition, a) for a in range(61)]  # by then it has forgotten

    def m(a, b):
        left, right = pi[:, None] * powers[min(a, 60)], powers[min(b, 60)]
        p = left[:, :, None] * right[None]  # (left, middle, right)
        return float(-(p * (p / p.sum(1, keepdim=True)).log()).sum())

    table = {(a, b): m(a, b) for a in range(1, 61) for b in range(1, 61)}
    area = 0.0
    for n in range(2, 2 * reach):  # n = a + b; the integral of u^(n-2) (1-u)^2 is 2 (n-2)! / (n+1)!
        ways = sum(table[min(a, 60), min(n - a, 60)] for a in range(1, n))
        area += ways * 2 / ((n + 1) * n * (n - 1))
    tail = table[60, 60] * 2 * sum(1 / ((n + 1) * n) for n in range(2 * reach, 10**6))
    assert area + tail == pytest.approx(denoiser.entropy_rate(), abs=1e-5)


def test_entropy_rate_needs_a_unifilar_chain():
    with pytest.raises(ValueError, match="unifilar"):
        chain("hidden").entropy_rate()


def test_stationary_of_chains_that_are_not_mixing():
    """A cycle has a period; two islands remember where they began. Dense and sparse agree on both."""
    cycle = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    islands = torch.block_diag(torch.ones(1, 1), torch.full((2, 2), 0.5))
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    for transition, truth in ((cycle, third), (islands, torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64))):
        for layout in (transition, transition.to_sparse()):
            denoiser = MarkovDenoiser(torch.tensor([0.2, 0.8, 0.0]), layout)
            torch.testing.assert_close(denoiser.stationary(), truth)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_joint_distribution(kind):
    """Pearson's chi-square over all sentences of length 3. A right sampler fails at 1 seed in 10,000."""
    from scipy.stats import chi2

    denoiser, n = chain(kind, seed=7), 40_000
    expected = {x: n * p for x, p in joint(denoiser, 3).items()}
    drawn = dict.fromkeys(expected, 0)
    for x in denoiser.sample(n, 3, rng(0)).tolist():
        drawn[tuple(x)] += 1
    assert all(drawn[x] == 0 for x, e in expected.items() if e == 0)
    cells = [(drawn[x], e) for x, e in expected.items() if e > 5]
    cells.append((n - sum(d for d, _ in cells), max(n - sum(e for _, e in cells), 1e-9)))  # all rare ones
    statistic = sum((d - e) ** 2 / e for d, e in cells if e > 5)
    assert statistic < chi2.isf(1e-4, sum(e > 5 for _, e in cells))


def test_the_same_generator_gives_the_same_sample():
    denoiser = chain("sparse")
    assert denoiser.sample(5, 9, rng(2)).equal(denoiser.sample(5, 9, rng(2)))
    assert not denoiser.sample(5, 9, rng(2)).equal(denoiser.sample(5, 9, rng(3)))


def test_improper_chains_are_refused():
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match="sum to 1"):
        MarkovDenoiser(half, torch.tensor([[0.5, 0.6], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="sum to 1"):
        MarkovDenoiser(half, torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="symbols"):
        FiniteStateDenoiser(half, torch.eye(2), torch.tensor([0, 5]), num_symbols=3)
    with pytest.raises(ValueError, match="nothing to score"):
        MarkovDenoiser(half, torch.eye(2)).nll(torch.tensor([[0, 0]]), given=2)
