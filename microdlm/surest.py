"""Samplers that let the guesses decide where to write: the surest first.

The first step of such a text is its easiest token. With an exact denoiser that is harmless if it was chosen without
a look at what was drawn (by entropy, by margin) and one opens at a time: the chain rule again, in an order that the
visible tokens decide. It is a bias if the drawn token's own probability decided.
"""

from collections.abc import Callable, Sequence
from itertools import zip_longest

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microdlm.pacing import step_counts
from microdlm.stepping import States, guess, highest, open_positions, sampler


@sampler
def confidence(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int = 32,
    *,
    order: str = "confidence",
    pace: str | Sequence[int] = "cosine",
    rng: torch.Generator | None = None,
    **how,
) -> States:
    """Guess every MASK, keep the surest guesses, as many as the pace asks for (2202.04200; LLaDA's low-confidence
    remasking). `pace` is a name or counts, of pacing.optimal_pace for instance.

    In the order "confidence" tokens are drawn first and ranked by their own probability, so sure guesses win: a
    hidden, lower temperature. The other orders ("margin", "entropy", "random") rank without looking at what was
    drawn: with them, one token a step is exact.
    """
    plan = [step_counts(pace, num_steps, n) for n in (x == mask_id).sum(1).tolist()]
    steps = list(zip_longest(*plan, fillvalue=0))  # (steps, B): how many each row opens
    left = sum(map(sum, steps))
    for keep, counts in zip(torch.tensor(steps, device=x.device), steps, strict=True):
        filled, sure = guess(denoiser, x, open_positions(x, mask_id, left), mask_id, order, rng, **how)
        x = torch.where(highest(sure, keep), filled, x)
        left -= sum(counts)
        yield x


@sampler
def threshold(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int | None = None,
    *,
    tau: float | int = 0.9,
    rng=None,
    **how,
) -> States:
    """Keep every guess more probable than tau, and always the surest (2505.22618). The text sets the pace:
    num_steps is not used."""

    def keep(sure):
        return (sure > tau) | highest(sure, torch.ones_like(x[:, 0]))

    return as_it_comes(denoiser, x, mask_id, "confidence", keep, rng, **how)


@sampler
def entropy_bounded(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int | None = None,
    *,
    gamma: float | int = 0.1,
    rng=None,
    **how,
) -> States:
    """Keep the guesses of lowest entropy H, as many as satisfy sum H - max H <= gamma: at least one (2505.24857).

    That difference bounds what tokens drawn apart lose in nats (their total correlation), so with an exact denoiser
    KL(language || texts) <= gamma * number of passes. num_steps is not used.
    """

    def keep(sure):
        entropy, index = sure.neg().sort(dim=1)
        before = entropy.cumsum(1) - entropy  # the sum without the largest so far, which is the last
        return torch.zeros_like(index, dtype=torch.bool).scatter(1, index, before <= gamma)

    return as_it_comes(denoiser, x, mask_id, "entropy", keep, rng, **how)


def as_it_comes(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    order: str,
    keep: Callable[[Float[Tensor, "B L"]], Bool[Tensor, "B L"]],
    rng,
    **how,
) -> States:
    """Guess every MASK and keep what `keep` says of how sure the guesses are, until none is left."""
    while len(where := (x == mask_id).flatten().nonzero().squeeze(1).cpu()):
        filled, sure = guess(denoiser, x, where, mask_id, order, rng, **how)
        x = torch.where((x == mask_id) & keep(sure), filled, x)
        yield x
