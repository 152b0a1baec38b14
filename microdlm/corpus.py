"""From a name or a file to ids: text, tokenizer, split, batches. Never the lesson.

A corpus knows text and nothing of models or noise. Its last tenth is held out, by position: no model and no
merge is learnt from it. Where a file has <|endoftext|> its documents are packed: one after the other, END after each,
so that a model learns where a text is over. Texts of others are fetched, never committed; `playlets` is made here.

>>> corpus = load_corpus("playlets", n_chars=20_000)
>>> corpus.batch(4, 64, torch.Generator().manual_seed(0)).shape, corpus.windows(64, n=8).shape
(torch.Size([4, 64]), torch.Size([8, 64]))
"""

import functools
import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from tqdm import tqdm

from microdlm.errors import UserError
from microdlm.sources import nearest, read
from microdlm.tokenizers import END, BPETokenizer, CharTokenizer, GPT2Tokenizer, TextTokenizer

PIECE = 4_000_000  # characters that become ids at once: a Python list of all would take many times the text


@dataclass(frozen=True, eq=False)
class Corpus:
    """The ids of a text, and what makes numbers comparable across tokenizers."""

    name: str
    tokenizer: TextTokenizer
    train: Int64[Tensor, " N"] = field(repr=False)
    val: Int64[Tensor, " M"] = field(repr=False)
    sha256: str  # of the file's bytes; of the generated text for playlets
    chars_per_token: float  # on val: nats per token / chars_per_token = nats per character
    entropy_rate: float | None = None  # exact, nats per character; playlets only

    def batch(self, B: int, L: int, rng: torch.Generator) -> Int64[Tensor, "B L"]:
        """B windows of L training ids, each start as likely as any other; `rng` belongs to the caller."""
        self.require(L, "train")
        starts = torch.randint(len(self.train) - L + 1, (B,), generator=rng)
        return self.train.unfold(0, L, 1)[starts]

    def windows(self, L: int, n: int | None = None) -> Int64[Tensor, "n L"]:
        """n disjoint held-out windows of L ids (None, or too many: all), evenly spread, always the same."""
        self.require(L, "val")
        total = len(self.val) // L
        n = total if n is None else min(n, total)
        return self.val[: total * L].view(total, L)[torch.arange(n) * total // n]

    def require(self, L: int, *parts: str) -> None:
        """UserError unless each of the parts "train", "val" holds a window of L tokens."""
        for part in parts:
            have = len(getattr(self, part))
            if not 1 <= L <= have:
                what = f"the {part} part of {self.name} has {have:,} tokens and a window needs {L:,}"
                raise UserError(f"{what}: use more text or another window length")


class Text(NamedTuple):  # a corpus that has no ids yet
    name: str
    train: str
    val: str
    sha256: str
    alphabet: str
    entropy_rate: float | None = None


def load_corpus(
    name: str = "playlets",
    tokenizer: str | TextTokenizer = "char",
    min_length: int | None = None,
    n_chars: int = 4_000_000,
    vocab_size: int = 1024,
) -> Corpus:
    """The corpus of this name, or of the text file at this path; whatever is wrong with it: UserError.

    tokenizer: "char", "bpe" (trained here, `vocab_size` ids), "gpt2", or one that exists, as a saved model's.
    min_length: tokens that both parts must hold. n_chars: how much text of playlets, both parts together.
    """
    text = _playlets(n_chars) if name == "playlets" else _from_file(name)
    tok = tokenizer if isinstance(tokenizer, TextTokenizer) else _tokenizer(tokenizer, text, vocab_size)
    train, val = (_ids(part, tok) for part in (text.train, text.val))
    marks = text.val.count(END) * (len(END) - 1) if tok.has_end else 0  # END is one symbol, not thirteen characters
    per_token = (len(text.val) - marks) / max(len(val), 1)
    corpus = Corpus(text.name, tok, train, val, text.sha256, per_token, text.entropy_rate)
    corpus.require(min_length or 1, "train", "val")
    return corpus


def _ids(text: str, tok: TextTokenizer) -> Int64[Tensor, " N"]:
    """Piece by piece, each cut where a document ends: the same ids as all at once."""
    starts = [0]
    while (end := text.find(END, starts[-1] + PIECE)) >= 0:
        starts.append(end + len(END))
    spans = zip(starts, [*starts[1:], None], strict=True)
    pieces = tqdm(spans, "text to ids", len(starts), leave=False, delay=2, disable=None)
    return torch.cat([torch.tensor(tok.encode(text[a:b]), dtype=torch.long) for a, b in pieces])


def _tokenizer(kind: str, text: Text, vocab_size: int) -> TextTokenizer:
    make = {
        "char": lambda: CharTokenizer(text.alphabet),
        "bpe": lambda: BPETokenizer.train(text.train, vocab_size),
        "gpt2": GPT2Tokenizer,
    }
    if kind not in make:
        raise UserError(f"there is no tokenizer {kind!r}{nearest(kind, make)}: choose char, bpe or gpt2")
    return make[kind]()


@functools.lru_cache(1)
def _playlets(n_chars: int) -> Text:
    """Two seeds: the held-out text is independent of the training text, not its continuation."""
    from microdlm.playlets import Playlets

    language, n_train = Playlets(), n_chars * 9 // 10
    train, val = language.text(n_train, seed=0), language.text(n_chars - n_train, seed=1)
    sha256 = hashlib.sha256((train + val).encode()).hexdigest()
    return Text("playlets", train, val, sha256, "".join(language.alphabet), language.entropy_rate())


def _from_file(name: str) -> Text:
    """Cut at nine tenths of the characters; of packed documents, before the one that stands there."""
    file, raw = read(name)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start:,}): save it again as UTF-8") from error
    if END in text:  # files put empty lines around it
        text = "".join(f"{document}{END}" for part in text.split(END) if (document := part.strip()))
    if not text:
        raise UserError(f"{name} is empty: give a file with text in it")
    cut, alphabet = len(text) * 9 // 10, "".join(sorted(set(text)))
    if (last := text.rfind(END, cut * 8 // 9, cut)) >= 0:
        cut = last + len(END)
    return Text(file, text[:cut], text[cut:], hashlib.sha256(raw).hexdigest(), alphabet)
