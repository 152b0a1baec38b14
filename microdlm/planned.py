"""Samplers that plan: which MASK opens when is decided before anything is written.

So where they look cannot favour any text. Opening one MASK at a time they are exact: that is the chain rule, in
whatever order; opening several, they lose what those tokens know of each other (pacing.parallel_bound).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microdlm.attention import KVCache
from microdlm.drawing import draw, uniform64
from microdlm.masking import uniform
from microdlm.pacing import masked_shares
from microdlm.stepping import States, ask, reveal, sampler


@sampler
def ancestral(
    denoiser, x: Int[Tensor, "B L"], mask_id: int, num_steps: int = 64, *, schedule: str = "linear", rng=None, **how
) -> States:
    """The reverse process on a grid of times: from t to s a MASK opens with probability (alpha_s - alpha_t) /
    (1 - alpha_t) (2406.07524, eq. 7). When each opens does not depend on what is written, so that is drawn
    beforehand; a row in which a step opens nothing needs no pass (pacing.expected_passes)."""
    left = masked_shares(schedule, num_steps)[1:].flip(0).to(x.device)  # from 0 up
    survives = num_steps - torch.searchsorted(left, uniform64(x.shape, x.device, rng), right=True)  # so many steps
    when = torch.where(x == mask_id, survives, num_steps).flatten().cpu()
    counts = when.bincount(minlength=num_steps + 1).tolist()
    for where in when.argsort(stable=True).split(counts)[:-1]:
        if len(where):
            x = reveal(denoiser, x, where, mask_id, rng=rng, **how)
        yield x


@sampler
def first_hitting(
    denoiser, x: Int[Tensor, "B L"], mask_id: int, num_steps: int | None = None, *, rng=None, **how
) -> States:
    """The reverse process without a grid (2409.02908): MASKs open one by one in a uniformly random order.

    When each opens is random too, but a denoiser that is not told t does not need to know. So num_steps is
    not used: there are as many passes as MASKs. It is left_to_right in the order "random".
    """
    yield from left_to_right(denoiser, x, mask_id, order="random", rng=rng, **how)


@sampler
def left_to_right(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int | None = None,
    *,
    order: str | Sequence[int] | Int[Tensor, "L"] | None = None,
    end_id: int | None = None,
    rng=None,
    **how,
) -> States:
    """Open the MASKs in reading order, one pass each: the chain rule. A causal model reads every token once, thanks to
    its cache; any other denoiser reads the whole window each time. num_steps is not used.

    `order`, not for a causal model: a permutation of the positions, or "random", a new one for each row.
    `end_id`: after it a text is over. The row's other MASKs become end_id too; when no row has any, passes end.
    """
    causal = getattr(denoiser, "causal", False)
    if order is not None and (causal or end_id is not None):
        raise ValueError("a GPT writes, and a text ends, in reading order: no other order is possible")
    spots, look = reading(denoiser, x, mask_id) if causal else looking(denoiser, x, mask_id, order, rng)
    for i, spot in enumerate(spots):
        old = x.gather(1, spot)
        token = torch.where(old == mask_id, draw(look(x, i), mask_id, rng=rng, **how)[:, None], old)
        x = x.scatter(1, spot, token)
        if end_id is not None:
            x = torch.where((token == end_id) & (old == mask_id) & (x == mask_id), end_id, x)
        yield x
        if end_id is not None and not (x == mask_id).any():
            return


Turns = tuple[Int[Tensor, "n B 1"], Callable[[Tensor, int], Float[Tensor, "B V"]]]  # where each row is; logits there


def looking(denoiser, x: Int[Tensor, "B L"], mask_id: int, order, rng) -> Turns:
    """Turn i is the i-th MASK of each row; a row that has fewer waits at a visible token."""
    L, is_open = x.size(1), x == mask_id
    if isinstance(order, str):
        turn = {"random": uniform}[order](x.shape, x.device, rng)
    else:
        places = list(range(L)) if order is None else [int(i) for i in order]
        if sorted(places) != list(range(L)):
            raise ValueError(f"an order holds each of the positions 0..{L - 1} once")
        turn = torch.tensor(places, device=x.device).argsort().expand_as(x)  # whose turn -> when it is its turn
    spots = torch.where(is_open, turn, L).argsort(dim=1)[:, : is_open.sum(1).max()].T[..., None]
    rows = L * torch.arange(len(x), device=x.device)
    return spots, lambda x, i: ask(denoiser, x, rows + spots[i, :, 0])


def reading(gpt, x: Int[Tensor, "B L"], mask_id: int) -> Turns:
    """Turn i is the i-th column with a MASK in it. The GPT is given only the tokens it has not read yet."""
    columns = [i for i, is_open in enumerate((x == mask_id).any(0).tolist()) if is_open]
    if columns[0] == 0:
        raise ValueError("a GPT predicts from what stands before: the first token must be visible")
    cache, rows = KVCache(gpt.cfg.n_layer, room=x.size(1)), torch.arange(1, len(x) + 1, device=x.device)

    def look(x, i):
        new = x[:, cache.length : columns[i]]
        return ask(gpt, new, rows * new.size(1) - 1, cache=cache)  # of each row the last

    return torch.tensor(columns, device=x.device).view(-1, 1, 1).expand(-1, len(x), 1), look
