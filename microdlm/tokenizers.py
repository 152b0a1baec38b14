"""Text to ids and back, three ways that share one protocol.

A tokenizer's ids are 0 .. len(tok) - 1. MASK is one id more, len(tok), which no text encodes to: it is how a
diffusion model says "not written yet", so `decode` shows it and `encode` never makes it.

>>> tok = CharTokenizer("abc")
>>> tok.encode("cab"), tok.mask_id, tok.decode([2, 3, 1])
([2, 0, 1], 3, 'c·b')
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Int
from torch import Tensor

from microdlm.errors import UserError

END = "<|endoftext|>"  # between documents; the last id of both byte-level vocabularies
ENOUGH = 100_000_000  # characters of a text that merges are learnt from: its beginning speaks for the rest
# GPT-2's rule for cutting text into words before any merge, and the published checksums of its two files.
GPT2_WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
GPT2_SHA256 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


class TextTokenizer:
    """The protocol. A kind is plain data with `__len__`, `encode` and `_text` (which meets no MASK)."""

    has_end = False

    @property
    def mask_id(self) -> int:
        return len(self)

    @property
    def end_id(self) -> int | None:
        """The id of END, the last, if this vocabulary has it."""
        return len(self) - 1 if self.has_end else None

    def decode(self, ids: Iterable[int] | Int[Tensor, " L"], mask: str = "·") -> str:
        """One row of ids as text, `mask` for each MASK, U+FFFD for broken UTF-8. Bad ids: ValueError."""
        row = np.asarray(ids.tolist() if hasattr(ids, "tolist") else list(ids), dtype=np.int64)
        if row.ndim != 1 or (row < 0).any() or (row > self.mask_id).any():
            raise ValueError(f"decode takes one row of ids in 0..{self.mask_id}, not {row}")
        runs = [(masked, list(run)) for masked, run in groupby(row.tolist(), lambda i: i == self.mask_id)]
        return "".join(mask * len(run) if masked else self._text(run) for masked, run in runs)

    def to_json(self) -> dict:
        """Plain data, which `tokenizer_from_json` reads: a saved model's folder carries it."""
        return {"kind": next(kind for kind, cls in KINDS.items() if cls is type(self)), **asdict(self)}


@dataclass(frozen=True)
class CharTokenizer(TextTokenizer):
    """One id per character: the character's place in `alphabet`."""

    alphabet: str

    def __post_init__(self):
        if not isinstance(self.alphabet, str) or not 0 < len(self.alphabet) == len(set(self.alphabet)):
            raise ValueError("an alphabet is a string of at least one character, each only once")
        codes = _code_points(self.alphabet)
        id_of = np.full(int(codes.max()) + 2, -1)  # -1: no id; the last entry stands for all that lies beyond
        id_of[codes] = np.arange(len(codes))
        object.__setattr__(self, "_id_of", id_of)  # frozen, and not a field: it follows from the alphabet

    def __len__(self) -> int:
        return len(self.alphabet)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. UserError names the first character without one and its position, counted from 0."""
        # One look-up for the whole text: a loop would be slow, and texts are megabytes.
        ids = self._id_of[np.minimum(_code_points(text), len(self._id_of) - 1)]
        if (ids < 0).any():
            at = int((ids < 0).argmax())
            what = f"character {text[at]!r} at position {at}"
            raise UserError(f"{what} is not in this model's vocabulary of {len(self)} characters: replace it")
        return ids.tolist()

    def _text(self, ids: list[int]) -> str:
        return "".join(self.alphabet[i] for i in ids)


@dataclass(frozen=True)
class BPETokenizer(TextTokenizer):
    """Byte-level byte-pair encoding: nothing but a list of merges, "left right", in the order learnt.

    Ids: the 256 bytes, one per merge, END. Any text can be encoded, since any byte can.
    """

    merges: tuple[str, ...] = field(repr=False)
    has_end = True

    @classmethod
    def train(cls, text: str, vocab_size: int = 1024) -> "BPETokenizer":
        """Learn merges until there are `vocab_size` ids, or fewer if no pair of `text` occurs twice."""
        from tokenizers import ByteLevelBPETokenizer

        if vocab_size < 257:
            raise UserError(f"a vocabulary of {vocab_size} ids is too small: 256 bytes and {END} need 257")
        coder = ByteLevelBPETokenizer()
        # END takes the last id. Where it stands in the text it is no text, so nothing is learnt from it.
        text = text[:ENOUGH]
        coder.train_from_iterator(text.split(END), vocab_size - 1, show_progress=len(text) > ENOUGH // 4)
        return cls(tuple(" ".join(pair) for pair in json.loads(coder.to_str())["model"]["merges"]))

    def __post_init__(self):
        """Build the coder from the merges alone, so that a trained and a loaded one cannot differ."""
        from tokenizers import ByteLevelBPETokenizer, pre_tokenizers

        vocab = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        pairs = [tuple(merge.split(" ")) for merge in self.merges]
        for left, right in pairs:
            if left not in vocab or right not in vocab:
                raise ValueError(f"the merge {left!r} {right!r} is not of two known parts")
            vocab.setdefault(left + right, len(vocab))
        coder = ByteLevelBPETokenizer(vocab, pairs)
        coder.add_special_tokens([END])
        object.__setattr__(self, "_coder", coder)

    def __len__(self) -> int:
        return self._coder.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, END as its one id. A lone surrogate, which has no bytes, becomes U+FFFD."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        # Document by document: the same ids as all at once, and 8 MB of stories take 1 second instead of 9.
        end, documents = self.end_id, self._coder.encode_batch(text.split(END))
        return [i for document in documents for i in (*document.ids, end)][:-1]

    def _text(self, ids: list[int]) -> str:
        return self._coder.decode(ids, skip_special_tokens=False)


@dataclass(frozen=True)
class GPT2Tokenizer(TextTokenizer):
    """GPT-2's 50,257 ids: two files in $MICRODLM_DATA/gpt2, else fetched by tiktoken, else a UserError."""

    has_end = True

    def __post_init__(self):
        import tiktoken
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks as read_ranks

        folder = Path(os.environ.get("MICRODLM_DATA") or Path(__file__).resolve().parents[1] / "data") / "gpt2"
        try:
            if folder.is_dir():
                ranks = read_ranks(*[str(folder / name) for name in GPT2_SHA256], *GPT2_SHA256.values())
                table = {"pat_str": GPT2_WORDS, "mergeable_ranks": ranks, "special_tokens": {END: len(ranks)}}
                coder = tiktoken.Encoding("gpt2", **table)
            else:
                coder = tiktoken.get_encoding("gpt2")
        except (OSError, ValueError) as error:  # no network, no such file, a wrong checksum
            todo = f"connect to a network, or put sound copies of {' and '.join(GPT2_SHA256)} into {folder}"
            raise UserError(f"GPT-2's vocabulary is missing ({type(error).__name__}): {todo}") from error
        object.__setattr__(self, "_coder", coder)

    def __len__(self) -> int:
        return self._coder.n_vocab

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, END as its one id, 50256."""
        return self._coder.encode(text, allowed_special={END})

    def _text(self, ids: list[int]) -> str:
        return self._coder.decode(ids, errors="replace")


KINDS = {"char": CharTokenizer, "bpe": BPETokenizer, "gpt2": GPT2Tokenizer}


def tokenizer_from_json(data: object) -> TextTokenizer:
    """What `to_json` wrote, by whoever: checked, never executed; malformed is a UserError."""
    try:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return KINDS[fields.pop("kind")](**fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
        raise UserError(f"a tokenizer cannot be read ({why}): fetch or save its model again") from error


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
