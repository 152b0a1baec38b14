"""How readily each type of token is masked: less often where what stands there is hard to foretell.

Hard is what a model is uncertain about before it comes: the entropy of the next token, averaged over the places where
a type then stands. By default the model is a table of which token follows which, counted in the training text. `python
-m study entropy` asks a GPT instead and leaves a file beside the runs, from which all runs that start later read it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int
from rich.progress import track
from torch import Tensor

from microdlm.corpus import Corpus
from microdlm.errors import UserError
from microdlm.runs import provenance, read_json, write_json
from microdlm.terminal import console
from microdlm.tokenizers import END
from microdlm.training import pick_device

FILE = "token_entropy.json"


@dataclass(frozen=True)
class Entropy:
    """Measure with a GPT how hard each type of token is to foretell, before any run masks by it."""

    preset: str = "nano"  # nano, shakespeare-10m or fineweb-124m
    judge: str = "gpt2"  # of transformers, by name or folder; or the folder of a GPT of yours. With the same vocabulary
    tokens: int = 1_000_000  # of the training text, that it reads
    out: Path = Path("runs/study")  # folder of the runs
    batch: int = 8  # windows read at once
    device: str = "auto"  # auto (a GPU of CUDA if there is one), cpu, cuda

    def run(self) -> None:
        from study.grid import folder_of
        from study.judges import pick
        from study.runner import text

        folder, corpus = folder_of(self.preset, self.out), text(self.preset)[0]
        judge = pick(self.judge, corpus.name, pick_device(self.device))
        same_vocabulary(judge, corpus)
        seen, nats = uncertainty(judge, corpus.train[: self.tokens], len(corpus.tokenizer), self.batch)
        numbers = {"judge": judge.name, "corpus": corpus.sha256, "tokens": int(seen.sum())}
        folder.mkdir(parents=True, exist_ok=True)
        counts = {"seen": seen.int().tolist(), "nats": [round(v, 6) for v in nats.tolist()]}
        write_json(folder / FILE, {**numbers, **counts, "made_by": provenance()})
        console.print(f"{folder / FILE}: {(seen > 0).sum()} of {len(seen)} types, {nats.sum() / seen.sum():.3f} nats")


def same_vocabulary(judge, corpus: Corpus) -> None:
    """UserError: the judge numbers tokens in another way than the study."""
    text = corpus.tokenizer.decode(corpus.val[:2000]).replace(END, "")
    ours = corpus.tokenizer.encode(text)
    if not hasattr(judge, "encode") or judge.encode(text)[-len(ours) :] != ours:
        raise UserError(f"{judge.name} has another vocabulary than {corpus.name}: name a GPT that was trained with it")


@torch.no_grad()
def uncertainty(judge, ids: Int[Tensor, " n"], V: int, batch: int = 8) -> tuple[Float64[Tensor, " V"], ...]:
    """How often the judge met each type, and the entropy of what it expected there, summed: nats. The first token of a
    window is not foretold by anything, and not counted."""
    L = min(judge.window, len(ids))
    seen, nats = torch.zeros(2, V, dtype=torch.float64)
    for x in track(ids[: len(ids) // L * L].view(-1, L).split(batch), "reading", console=console, transient=True):
        p = judge.logits(x)[:, :-1, :V].float().softmax(-1)
        entropy, came = torch.special.entr(p).sum(-1).double().flatten(), x[:, 1:].flatten()
        seen.index_add_(0, came, torch.ones_like(entropy))
        nats.index_add_(0, came, entropy)
    return seen, nats


def rates(seen: Float64[Tensor, " V"], nats: Float64[Tensor, " V"]) -> Float64[Tensor, " V"]:
    """c = 2 - hardness, from 0.5 to 1.5; all tokens together have hardness 1, and so have types that never came."""
    return (2 - (nats / seen / (nats.sum() / seen.sum())).nan_to_num(1)).clamp(0.5, 1.5)


def by_pairs(ids: Int[Tensor, " n"], V: int) -> Float64[Tensor, " V"]:
    """Step 7's rates_by_type for vocabularies too large for a table of all pairs: only those that occur are counted."""
    pairs, count = np.unique(ids[:-1].numpy() * V + ids[1:].numpy(), return_counts=True)
    before, here, n = pairs // V, pairs % V, count.astype(np.float64)
    p = n / np.bincount(before, n, V)[before]
    entropy = np.bincount(before, -p * np.log(p), V)
    seen, nats = np.bincount(here, n, V), np.bincount(here, n * entropy[before], V)
    return rates(torch.from_numpy(seen), torch.from_numpy(nats))


def readiness(folder: Path, corpus: Corpus) -> tuple[Float64[Tensor, " V"], dict]:
    """c (V,) for the runs of a preset, and by whom it is: a GPT's where there is the file, else counted."""
    path, V = folder / FILE, len(corpus.tokenizer)
    if not path.exists():
        return by_pairs(corpus.train, V), {"by": "pairs"}
    found = read_json(path)
    try:
        seen, nats = torch.tensor([found["seen"], found["nats"]], dtype=torch.float64)
        judge, of = str(found["judge"]), found["corpus"]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not what python -m study entropy writes: make it again") from None
    if len(seen) != V or of != corpus.sha256:
        raise UserError(f"{path} is of another text than {corpus.name}: remove it, or make it again")
    return rates(seen, nats), {"by": judge, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
