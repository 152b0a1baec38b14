"""Ways to write with a denoiser. All have one signature and fill every MASK of `x`; visible tokens are given.

    for x_t in confidence(denoiser, x, mask_id, num_steps=32, temperature=0.8, rng=g): ...

`x` (B, L) may be all MASK, a prompt, a text with holes: visible tokens are the condition, nothing else is needed.
Each is a generator that yields the state (B, L) after every step; the last one holds no MASK. `**how` is what `draw`
takes: temperature, top_k, top_p. They differ in what they choose, where and when:

    planned    ancestral        each MASK opens as the reverse process says      exact as num_steps grows
               first_hitting    one at a time, uniformly                         exact
               left_to_right    one at a time, in reading order or any other     exact; a GPT's way, with a KV cache
    surest     confidence       the surest guesses first, at a given pace        not exact: it prefers easy text
               threshold        every guess surer than tau                       not exact
               entropy_bounded  as many as may lose gamma nats together          exact at gamma = 0
    revising   remask           what was written may be masked again             exact as num_steps grows
               forward_backward each step, then back and that step anew          exact as num_steps grows
               refine           a finished text, a share of it written again     keeps the language, one at a time
    here       block            another sampler, block by block                  as exact as that one
    blocks     write_blocks     the same with a cache, if trained on blocks      as exact as that one

Exact: with an exact denoiser and at temperature 1 the texts are the language's. Tests show each of these.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from microdlm.objectives import logits_at
from microdlm.planned import ancestral, first_hitting, left_to_right
from microdlm.revising import forward_backward, refine, remask
from microdlm.stepping import States, sampler
from microdlm.surest import confidence, entropy_bounded, threshold


@sampler
def block(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int = 32,
    *,
    block_length: int = 8,
    inside: str = "confidence",
    rng: torch.Generator | None = None,
    **how,
) -> States:
    """Semi-autoregressive: blocks of `block_length` columns from the first MASK on, left to right, each written by the
    sampler `inside` with its share of num_steps (2406.07524; LLaDA, 2502.09992).

    Blocks change only the order, so it is as exact as `inside` is. The denoiser reads the whole window, MASKs to
    the right of the block included.
    """
    columns = (x == mask_id).any(0).nonzero().squeeze(1).tolist()
    first = columns[0]
    starts = sorted({first + (i - first) // block_length * block_length for i in columns})
    for start in starts:
        page, end = x, start + block_length
        part_of = window(denoiser, page, start, end)
        steps = SAMPLERS[inside](part_of, page[:, start:end], mask_id, max(1, num_steps // len(starts)), rng=rng, **how)
        for part in steps:
            x = torch.cat([page[:, :start], part, page[:, end:]], dim=1)
            yield x


def window(denoiser, page: Int[Tensor, "B L"], start: int, end: int) -> Callable:
    """A denoiser for columns start..end of the page; it sees the other columns as they are."""

    def part_of(part, at):
        whole = torch.cat([page[:, :start], part, page[:, end:]], dim=1)
        row, column = at // part.size(1), at % part.size(1)
        return logits_at(denoiser, whole, row * page.size(1) + start + column)

    part_of.takes_at = part_of.every_row = True
    return part_of


SAMPLERS: dict[str, Callable[..., States]] = {
    f.__name__: f
    for f in (
        *(ancestral, first_hitting, left_to_right),
        *(confidence, threshold, entropy_bounded),
        *(remask, forward_backward, refine, block),
    )
}
