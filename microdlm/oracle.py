"""Exact denoisers: what a perfect network would answer, for text from a finite-state source.

The source is a chain that moves from state to state and emits one symbol in each. Then the one thing
a diffusion language model has to learn, p(x_i | visible tokens), can be computed: a forward pass
gathers what the past says, a backward pass what the future says. With the exact denoiser in hand
every formula about masked diffusion can be held against the truth.

Nothing here knows of time, schedules or losses. Letters: B sequences, L positions, S states,
V symbols including MASK, which is the last id.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

MEMORY = 2**28  # bytes of forward messages held at once: (L, S, rows) in float64


class FiniteStateDenoiser:
    """x_t (B, L) -> log p(x_i | visible tokens), exact, for a chain whose states each emit one symbol.

    `initial` (S,) and `transition` (S, S), dense or sparse, are probabilities; `symbol` (S,) is the id
    that each state emits, so several states may look alike: that makes it a hidden chain.

    >>> coin = FiniteStateDenoiser(torch.tensor([0.5, 0.5]), torch.eye(2), torch.tensor([0, 1]))
    >>> coin(torch.tensor([[2, 1]])).exp().tolist()  # it never changes, so one visible token tells all
    [[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]
    """

    def __init__(
        self,
        initial: Float[Tensor, " S"],
        transition: Float[Tensor, "S S"],
        symbol: Int[Tensor, " S"],
        num_symbols: int | None = None,
    ):
        """ValueError unless `initial` and every row of `transition` are probabilities that sum to one."""
        self.symbol = symbol.long().cpu()
        self.mask_id = int(self.symbol.max()) + 1 if num_symbols is None else num_symbols
        self.vocab_size = self.mask_id + 1
        if self.symbol.min() < 0 or self.symbol.max() >= self.mask_id:
            raise ValueError(f"symbols must lie in [0, {self.mask_id})")
        S = len(initial)
        arrows = transition.double().cpu().to_sparse_coo().coalesce()
        possible = arrows.values() != 0
        (self.source, self.target), self.prob = arrows.indices()[:, possible], arrows.values()[possible]
        self.initial = _normalised(initial.double().cpu(), torch.zeros(S, dtype=torch.long), 1)
        self.prob = _normalised(self.prob, self.source, S)
        self._onward = _sparse(self.source, self.target, self.prob, (S, S))
        self._ahead = _sparse(self.target, self.source, self.prob, (S, S))
        ones = torch.ones(S, dtype=torch.float64)
        self._by_symbol = _sparse(self.symbol, torch.arange(S), ones, (self.mask_id, S))
        if transition.layout == torch.strided:
            self._onward, self._ahead = self._onward.to_dense(), self._ahead.to_dense()
        self._long_run: Tensor | None = None
        self._build_ladder()

    # ---- the posterior ----

    def __call__(self, x_t: Int64[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """Log-probabilities of each token given all visible tokens of its row.

        Visible tokens carry over, MASK gets no mass. Where the visible tokens of a row contradict each
        other (parallel decoding can write such rows) the posterior does not exist; its masked
        positions then get the stationary distribution of symbols, never NaN.
        float64, on the device of x_t (float32 where a device has no float64).
        """
        rows = max(1, MEMORY // (8 * len(self.initial) * x_t.shape[1]))
        log_p = torch.cat([self._log_posterior(part) for part in x_t.cpu().split(rows)])
        return log_p.to(x_t.device, torch.float32 if x_t.device.type == "mps" else torch.float64)

    def _log_posterior(self, x_t: Tensor) -> Tensor:
        p = torch.zeros(*x_t.shape, self.vocab_size, dtype=torch.float64)
        past = list(self._read(x_t))
        future = torch.ones_like(past[0][0])  # p(all later tokens | state), up to a factor per row
        for i in reversed(range(x_t.shape[1])):
            belief, evidence = past[i]
            p[:, i, :-1] = (self._by_symbol @ (belief * future)).T
            # States the past rules out are dropped: they add nothing, and could grow without bound.
            future = self._onward @ (torch.where(belief > 0, future, 0) / _or_one(evidence))
        contradiction = past[-1][1] == 0  # once a row is impossible it stays so
        if contradiction.any():
            p[contradiction, :, :-1] = (self._by_symbol @ self.stationary()[:, None])[:, 0]
        p /= p.sum(-1, keepdim=True)
        visible = x_t != self.mask_id
        p[visible] = torch.nn.functional.one_hot(x_t[visible], self.vocab_size).double()
        return p.log()

    def _read(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Left to right, at each position: p(state | tokens up to here) (S, B), and
        evidence (B,), the probability of this token given the earlier ones (1 where masked)."""
        expected = self.initial[:, None].expand(-1, len(x))
        for x_i in x.T:
            fits = (self.symbol[:, None] == x_i) | (x_i == self.mask_id)
            belief = expected * fits
            evidence = belief.sum(0)
            belief /= _or_one(evidence)
            yield belief, evidence
            expected = self._ahead @ belief

    # ---- likelihood ----

    def nll(self, x_0: Int64[Tensor, "B L"], given: int = 0) -> Float64[Tensor, " B"]:
        """-log p(x_0[given:] | x_0[:given]) / (L - given): exact nats per token, inf if impossible."""
        if not 0 <= given < x_0.shape[1]:
            raise ValueError(f"given = {given} leaves nothing to score of {x_0.shape[1]} tokens")
        rows = max(1, MEMORY // (8 * len(self.initial) * 4))
        parts = x_0.cpu().split(rows)
        log_p = torch.cat([torch.stack([e.log() for _, e in self._read(part)]) for part in parts], dim=1)
        return -log_p[given:].mean(0)

    # ---- the source itself ----

    def stationary(self) -> Float64[Tensor, " S"]:
        """(S,) the share of time spent in each state in the long run, starting from `initial`.

        If `initial` is stationary already it is returned; large sparse chains should start there.
        """
        if self._long_run is None:
            self._long_run = self._run_on()
        return self._long_run

    def _run_on(self) -> Tensor:
        share = self.initial
        if self._ahead.layout == torch.strided and len(share) <= 1024:
            many = (self._onward + torch.eye(len(share), dtype=torch.float64)) / 2
            for _ in range(50):  # 2**50 moves, by repeated squaring
                many = many @ many
                many /= many.sum(1, keepdim=True)
            share = share @ many
        while True:  # moving or resting at even odds has the same limit, and no period
            moved = (share + (self._ahead @ share[:, None])[:, 0]) / 2
            if (moved - share).abs().sum() < 1e-14:
                return share
            share = moved

    def entropy_rate(self) -> float:
        """Nats per symbol: the floor under every model of this source.

        Exact because the chain is unifilar: from a state, successors emit distinct symbols, so reading
        the text is following the states. ValueError if it is not (no closed form exists then).
        """
        looks = self.source * self.vocab_size + self.symbol[self.target]
        if len(looks.unique()) < len(looks):
            raise ValueError("not unifilar: two successors of one state emit the same symbol")
        return float(-(self.stationary()[self.source] * self.prob * self.prob.log()).sum())

    def sample(self, n: int, L: int, rng: torch.Generator) -> Int64[Tensor, "n L"]:
        """(n, L) symbols, drawn independently by row."""
        u = torch.rand(n, generator=rng, dtype=torch.float64)
        state = torch.searchsorted(self.initial.cumsum(0), u, right=True)
        states = [state.clamp(max=len(self.initial) - 1)]
        while len(states) < L:
            states.append(self.step(states[-1], rng))
        return self.symbol[torch.stack(states, dim=1)]

    def step(self, state: Int64[Tensor, " n"], rng: torch.Generator) -> Int64[Tensor, " n"]:
        """One move of n independent walkers, by one search for all of them: see _build_ladder."""
        u = torch.rand(state.shape, generator=rng, dtype=torch.float64)
        rung = np.searchsorted(self._ladder, (state + u).numpy(), side="right")
        return torch.from_numpy(self._next[np.minimum(rung, self._last[state.numpy()])])

    def _build_ladder(self) -> None:
        """Cut [s, s+1) into one rung per successor of state s, as long as it is likely."""
        count = torch.bincount(self.source, minlength=len(self.initial))
        last = count.cumsum(0) - 1
        climbed = torch.cat([torch.zeros(1, dtype=torch.float64), self.prob.cumsum(0)])
        ladder = self.source + (climbed[1:] - climbed[(last - count + 1)[self.source]])
        self._ladder, self._last, self._next = ladder.numpy(), last.numpy(), self.target.numpy()


class MarkovDenoiser(FiniteStateDenoiser):
    """An order-1 chain over S symbols: each state is a symbol, nothing is hidden."""

    def __init__(self, initial: Float[Tensor, " S"], transition: Float[Tensor, "S S"]):
        super().__init__(initial, transition, torch.arange(len(initial)))


def _or_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


def _normalised(prob: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """The same probabilities, summing to one by group in float64; ValueError if they are not close."""
    total = torch.zeros(num_groups, dtype=torch.float64).index_add_(0, group, prob)
    if (prob < 0).any() or not torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-5):
        raise ValueError("initial and every row of transition must be >= 0 and sum to 1")
    return prob / total[group]


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    """A CSR matrix, without torch's warning that CSR is in beta."""
    coo = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, size, check_invariants=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return coo.coalesce().to_sparse_csr()
