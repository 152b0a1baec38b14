"""A text with blanks, as the page a sampler starts from: what is written is given, what is blank is MASK.

>>> from microdlm.tokenizers import CharTokenizer
>>> letters = CharTokenizer("abc")
>>> canvas("a__b{3}", letters).tolist(), letters.decode(canvas("a__b{3}", letters)[0])
([[0, 3, 3, 1, 3, 3, 3]], 'a··b···')
"""

import re
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from microdlm.errors import UserError
from microdlm.tokenizers import TextTokenizer

BLANK = re.compile(r"_+|\{(\d+)\}")  # ____ is four blanks, and so is {4}


def canvas(text: str, tokenizer: TextTokenizer, most: int | None = None) -> Int[Tensor, "1 L"]:
    """Each _ is one MASK, {7} is seven: a prompt, a suffix, any number of segments. A blank is counted in tokens, and
    what stands between two blanks is encoded by itself. UserError: more tokens than `most`."""
    ids, at = [], 0
    for blank in BLANK.finditer(text):
        many = int(blank[1].lstrip("0")[:12] or 0) if blank[1] else len(blank[0])  # Python reads no longer numbers
        ids += tokenizer.encode(text[at : blank.start()])
        ids += [tokenizer.mask_id] * (many if most is None else min(many, most + 1))
        at = blank.end()
    ids += tokenizer.encode(text[at:])
    if most is not None and len(ids) > most:
        raise UserError(f"the text has more than {most} tokens: shorten it")
    return torch.tensor([ids], dtype=torch.long)


def slide(
    fill: Callable[..., Iterator[Int[Tensor, "B W"]]],
    x: Int[Tensor, "B L"],
    mask_id: int,
    window: int,
    num_steps: int | None = None,
    end_id: int | None = None,
) -> Iterator[tuple[int, Int[Tensor, "B L"]]]:
    """Write a text longer than the `window` as a reader moves a ruler: `fill` the window in view, move it until half
    of it holds what was just written, fill again. Yields where the window begins, and the whole text (B, L).

    A later window has fewer MASKs than the first and gets as much less of num_steps. After end_id a text is over.
    """
    given, first = x != mask_id, None
    while (open_columns := (x == mask_id).any(0).nonzero()).numel() or first is None:
        begin = int(open_columns[0]) if len(open_columns) else 0
        start = max(0, min(begin - window // 2, x.size(1) - window))
        view = x[:, start : start + window]
        masks = max(1, int((view == mask_id).sum(1).max()))  # a finished text is for samplers that revise
        first = first or masks
        share = {} if num_steps is None else {"num_steps": max(1, round(num_steps * masks / first))}
        for part in fill(view, mask_id, **share):
            x = torch.cat([x[:, :start], part, x[:, start + window :]], dim=1)
            yield start, x
        over = ((x == end_id) & ~given).any(1, keepdim=True) & (x == mask_id) if end_id is not None else x < 0
        if over.any():
            x = x.masked_fill(over, end_id)
            yield start, x
