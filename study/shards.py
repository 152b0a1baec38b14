"""Prepared text to batches: memory-mapped, every window once an epoch, and the position is nothing but the step."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from microdlm.corpus import Corpus
from microdlm.errors import UserError
from microdlm.runs import read_json
from microdlm.tokenizers import TextTokenizer, tokenizer_from_json
from study.prepare import FORMAT

ENOUGH = 20_000_000  # ids, to count in and to hold out


@dataclass(frozen=True, eq=False)
class Shards:
    """A prepared folder, checked. Its first shard is held out."""

    name: str
    tokenizer: TextTokenizer
    files: list[np.ndarray] = field(repr=False)  # memory-mapped, uint16
    sha256: str  # of all shards' checksums
    chars_per_token: float
    L: int
    seed: int = 0

    @classmethod
    def open(cls, folder: Path, L: int, seed: int = 0, thorough: bool = False) -> "Shards":
        """UserError names the file that is missing or truncated; `thorough`: also one that was altered."""
        meta = read_json(Path(folder) / "metadata.json")
        if not isinstance(meta, dict) or {key: meta.get(key) for key in FORMAT} != FORMAT:
            raise UserError(f"{folder} holds no shards of this version: python -m study prepare")
        if any(Path(s["file"]).name != s["file"] or s["file"] in ("", "..") for s in meta["shards"]):
            raise UserError(f"{folder}/metadata.json names files outside of its folder: prepare it again")
        files = [checked(Path(folder) / s["file"], s["tokens"], s["sha256.bin"], thorough) for s in meta["shards"]]
        if (
            len(files) < 2 or min(len(files[0]), *map(len, files[1:2])) < L
        ):  # the last may be short: the text ended there
            raise UserError(f"{folder} has {len(files)} shards: two of at least {L:,} tokens each are needed")
        every = hashlib.sha256("".join(s["sha256.bin"] for s in meta["shards"]).encode()).hexdigest()
        tok = tokenizer_from_json(meta["tokenizer"])
        return cls(Path(folder).name, tok, files, every, meta["characters"] / meta["read"], L, seed)

    @cached_property
    def starts(self) -> np.ndarray:
        """(n, 2) shard and place of every training window. No window crosses a shard."""
        n = [len(ids) // self.L for ids in self.files[1:]]
        of = [np.stack([np.full(k, i + 1), np.arange(k) * self.L], 1) for i, k in enumerate(n)]
        return np.concatenate(of)

    def order(self, epoch: int) -> np.ndarray:
        """In which order the windows come, from the seed alone."""
        if getattr(self, "_last", (None,))[0] != epoch:
            shuffled = np.random.default_rng([self.seed, epoch]).permutation(len(self.starts))
            object.__setattr__(self, "_last", (epoch, shuffled))
        return self._last[1]

    def at(self, step: int, B: int) -> Tensor:
        """(B, L) the windows of a step, counted from 0. Nothing else has to be remembered to go on."""
        n, rows = len(self.starts), range(step * B, (step + 1) * B)
        return self.read([self.starts[self.order(i // n)[i % n]] for i in rows])

    def following(self, state, seed: int):
        """batch(B, L, rng) for training: what comes at the step that `state` is at, in the order of this seed."""
        mine = replace(self, seed=seed)
        return lambda B, L, rng: mine.at(state.step, B)

    def read(self, places) -> Tensor:
        page = np.stack([self.files[shard][start : start + self.L] for shard, start in places])
        return torch.from_numpy(page.astype(np.int64))

    @property
    def corpus(self) -> Corpus:
        """As a Corpus: the held-out shard, and of the others enough to count in."""
        train, val = (torch.from_numpy(ids[:ENOUGH].astype(np.int64)) for ids in (self.files[1], self.files[0]))
        return Corpus(self.name, self.tokenizer, train, val, self.sha256, self.chars_per_token)


def checked(path: Path, tokens: int, sha256: str, thorough: bool) -> np.ndarray:
    """The shard, mapped; it is not read, unless `thorough`."""
    if not path.exists():
        raise UserError(f"{path} is missing: prepare it again")
    if path.stat().st_size != 2 * tokens:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes and should have {2 * tokens:,}: it is truncated; remove "
            f"{path.parent} and prepare it again"
        )
    ids = np.memmap(path, dtype="<u2", mode="r")
    if thorough and hashlib.sha256(ids).hexdigest() != sha256:
        raise UserError(f"{path} is not what was prepared (its sha256 differs): remove {path.parent} and prepare again")
    return ids
