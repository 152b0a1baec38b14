"""One step of a sampler: ask the denoiser about some MASKs, draw, put the tokens in their place.

Positions are numbers into the flattened page, b L + i, and how many there are is known beforehand wherever it can
be (not where the text sets the pace). So the host need not wait for a GPU at each step, and logits are made only
where a token is drawn.
"""

import functools
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microdlm.drawing import ORDERS, draw
from microdlm.objectives import logits_at, without_mask

States = Iterator[Int[Tensor, "B L"]]


def sampler(steps: Callable[..., States]) -> Callable[..., States]:
    """What samplers share: no gradients, and a text without MASK comes back once, as it is."""

    @functools.wraps(steps)
    @torch.no_grad()
    def states(denoiser, x, mask_id, *args, **kwargs):
        if (x == mask_id).any():
            yield from steps(denoiser, x, mask_id, *args, **kwargs)
        else:
            yield x

    return states


def open_positions(x: Int[Tensor, "B L"], mask_id: int, count: int) -> Int[Tensor, "count"]:
    """Where the `count` MASKs of x are, in reading order. Told how many, it need not look (nonzero would wait)."""
    return (x.flatten() == mask_id).argsort(descending=True, stable=True)[:count]


@torch.inference_mode()
def ask(denoiser, x: Int[Tensor, "B L"], where: Int[Tensor, "M"], **options) -> Float[Tensor, "M V"]:
    """One forward pass, of the rows that `where` lies in: a text that is finished, or waits for its turn, costs
    nothing. That takes a `where` on the host, for on a GPU the host would have to wait to learn how many they are.

    Inference mode ends with the pass: a state made of its tensors could not be trained on."""
    if where.is_cpu and not options and not getattr(denoiser, "every_row", False):
        row, L = where // x.size(1), x.size(1)
        rows, place = row.unique(return_inverse=True)
        if len(rows) < len(x):
            x, where = x[rows.to(x.device)], place * L + where % L
    return logits_at(denoiser, x, where.to(x.device), **options)


def reveal(denoiser, x: Int[Tensor, "B L"], where: Int[Tensor, "M"], mask_id: int, **how) -> Int[Tensor, "B L"]:
    """x with the tokens at `where` drawn, each from its own marginal: in one pass they do not see each other."""
    return put(x, where, draw(ask(denoiser, x, where), mask_id, **how))


def guess(
    denoiser, x: Int[Tensor, "B L"], where: Int[Tensor, "M"], mask_id: int, order: str, rng, **how
) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
    """As reveal, and how sure each of these guesses is (-inf elsewhere)."""
    logits = ask(denoiser, x, where)
    token = draw(logits, mask_id, rng=rng, **how)
    sure = ORDERS[order](without_mask(logits.double(), mask_id).softmax(-1), token, rng)
    nowhere = torch.full(x.shape, -torch.inf, dtype=torch.float64, device=x.device)
    return put(x, where, token), put(nowhere, where, sure)


def put(x: Tensor, where: Int[Tensor, "M"], values: Tensor) -> Tensor:
    """x with x[where] = values, as a new tensor."""
    return x.flatten().scatter(0, where.to(x.device), values).view(x.shape)


def highest(score: Float[Tensor, "B L"], count: Int[Tensor, "B"]) -> Bool[Tensor, "B L"]:
    """The count_b highest scores of each row."""
    return score.argsort(dim=1, descending=True).argsort(dim=1) < count[:, None]
