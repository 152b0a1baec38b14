"""From a name or a file to ids: text, tokenizer, split, batches. Never the lesson.

A corpus knows text and nothing of models or noise. Its last tenth is held out, by position: no model and no
merge is learnt from it. Texts of others are fetched, never committed; `playlets` is made on the spot.

>>> corpus = load_corpus("playlets", n_chars=20_000)
>>> corpus.batch(4, 64, torch.Generator().manual_seed(0)).shape, corpus.windows(64, n=8).shape
(torch.Size([4, 64]), torch.Size([8, 64]))
"""

import contextlib
import difflib
import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from microdlm.errors import UserError
from microdlm.tokenizers import BPETokenizer, CharTokenizer, GPT2Tokenizer, TextTokenizer

DATA = Path(__file__).resolve().parents[1] / "data"  # the project's own folder: fetched texts, git-ignored
ADVICE = "use --data playlets, which needs no download"
# Where a named corpus may lie below $MICRODLM_DATA or data/, best first: sha256, None if any will do.
# There is no one small TinyStories: the first is the extract that our numbers come from, the second is yours.
FILES = {
    "shakespeare": {"shakespeare.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    "tinystories": {
        "tinystories/stories.txt": "ec8f7c2f88ffdea729dfd1c9431223211a2a2d93696574754c6ed9cfbd6edf78",
        "tinystories.txt": None,
    },
}
GITHUB = "https://raw.githubusercontent.com"
URLS = {"shakespeare": f"{GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"}
NAMES = ["playlets", *FILES]


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
    train, val = (torch.tensor(tok.encode(part), dtype=torch.long) for part in (text.train, text.val))
    per_token = len(text.val) / max(len(val), 1)
    corpus = Corpus(text.name, tok, train, val, text.sha256, per_token, text.entropy_rate)
    corpus.require(min_length or 1, "train", "val")
    return corpus


def _tokenizer(kind: str, text: Text, vocab_size: int) -> TextTokenizer:
    make = {
        "char": lambda: CharTokenizer(text.alphabet),
        "bpe": lambda: BPETokenizer.train(text.train, vocab_size),
        "gpt2": GPT2Tokenizer,
    }
    if kind not in make:
        raise UserError(f"there is no tokenizer {kind!r}{_nearest(kind, make)}: choose char, bpe or gpt2")
    return make[kind]()


def _playlets(n_chars: int) -> Text:
    """Two seeds: the held-out text is independent of the training text, not its continuation."""
    from microdlm.playlets import Playlets

    language, n_train = Playlets(), n_chars * 9 // 10
    train, val = language.text(n_train, seed=0), language.text(n_chars - n_train, seed=1)
    sha256 = hashlib.sha256((train + val).encode()).hexdigest()
    return Text("playlets", train, val, sha256, "".join(language.alphabet), language.entropy_rate())


def _from_file(name: str) -> Text:
    """Cut at nine tenths of the characters."""
    path = Path(os.path.expanduser(name))
    raw = _known(name) if name in FILES else _read(path)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start:,}): save it again as UTF-8") from error
    if not text:
        raise UserError(f"{name} is empty: give a file with text in it")
    cut, alphabet = len(text) * 9 // 10, "".join(sorted(set(text)))
    return Text(path.name, text[:cut], text[cut:], hashlib.sha256(raw).hexdigest(), alphabet)


def _nearest(word: str, words) -> str:
    close = difflib.get_close_matches(word, words, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _read(path: Path) -> bytes:
    """The file's bytes, or a UserError that says what is there instead."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        is_path = path.suffix or len(path.parts) > 1
        what = f"file {path}" if is_path else f"corpus {path.name!r}{_nearest(path.name, NAMES)}"
        todo = f"choose from {', '.join(NAMES)}, or give the path of a text file"
        raise UserError(f"there is no {what}: {todo}") from error
    except (OSError, ValueError) as error:
        what = "is a folder" if os.path.isdir(path) else f"cannot be read ({type(error).__name__})"
        raise UserError(f"{path} {what}: give the path of a text file that you may read") from error


def _known(name: str) -> bytes:
    """The bytes of a named corpus: from $MICRODLM_DATA, else from data/, else downloaded into data/."""
    theirs = os.environ.get("MICRODLM_DATA")
    folders = {Path(theirs).expanduser().resolve(): False} if theirs else {}
    folders.setdefault(DATA, True)  # is it ours to tidy?
    places = [(below / file, sha, ours) for below, ours in folders.items() for file, sha in FILES[name].items()]
    path, sha256, ours = next((place for place in places if place[0].exists()), places[-1])
    if not path.exists():
        _download(name, path)
    return _checked(path, sha256, ours)


def _checked(path: Path, sha256: str | None, ours: bool) -> bytes:
    """The file's bytes, if its checksum is the known one. A wrong file is not used, and if ours set aside."""
    raw = _read(path)
    got = hashlib.sha256(raw).hexdigest()
    if sha256 in (None, got):
        return raw
    todo = "replace or remove it"
    with contextlib.suppress(OSError):  # in a read-only folder it stays where it is
        if ours:
            os.replace(path, f"{path}.mismatch")
            todo = f"it is now {path.name}.mismatch, so run again"
    raise UserError(f"{path} has sha256 {got[:12]}…, not {sha256[:12]}…: {todo}, or {ADVICE}")


def _download(name: str, path: Path) -> None:
    import pooch

    if name not in URLS:
        raise UserError(f"{name} is not downloaded for you: put its text at {path}, or {ADVICE}")
    try:
        # Into a folder of its own, then a rename: neither a run cut off nor two at once leave half a file.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            pooch.HTTPDownloader(progressbar=True)(URLS[name], f"{folder}/part", None)
            os.replace(f"{folder}/part", path)
    except (OSError, ValueError) as e:  # requests' own exceptions are OSErrors
        raise UserError(f"cannot download {name} ({type(e).__name__}): {ADVICE}, or put it at {path}") from e
