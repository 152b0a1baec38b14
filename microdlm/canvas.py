"""A text with blanks, as the page a sampler starts from: what is written is given, what is blank is MASK.

>>> from microdlm.tokenizers import CharTokenizer
>>> letters = CharTokenizer("abc")
>>> canvas("a__b{3}", letters).tolist(), letters.decode(canvas("a__b{3}", letters)[0])
([[0, 3, 3, 1, 3, 3, 3]], 'a··b···')
"""

import re

import torch
from jaxtyping import Int
from torch import Tensor

from microdlm.errors import UserError
from microdlm.tokenizers import TextTokenizer

BLANK = re.compile(r"_+|\{(\d+)\}")  # ____ is four blanks, and so is {4}


def canvas(text: str, tokenizer: TextTokenizer, window: int | None = None) -> Int[Tensor, "1 L"]:
    """Each _ is one MASK, {7} is seven: a prompt, a suffix, any number of segments. A blank is counted in tokens, and
    what stands between two blanks is encoded by itself. UserError: more tokens than `window`."""
    ids, at = [], 0
    for blank in BLANK.finditer(text):
        many = int(blank[1] or len(blank[0]))
        ids += tokenizer.encode(text[at : blank.start()])
        ids += [tokenizer.mask_id] * (many if window is None else min(many, window + 1))
        at = blank.end()
    ids += tokenizer.encode(text[at:])
    if window is not None and len(ids) > window:
        raise UserError(f"the text has more tokens than this model's window of {window}: shorten it")
    return torch.tensor([ids], dtype=torch.long)
