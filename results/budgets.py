"""Two published models at the budget of their publication, and ours in the same budget: an MLP, a small transformer.

    python results/budgets.py mlp                       stopped, it goes on where it was
    python results/budgets.py transformer --compile     likewise, and hours longer

With --only, one recipe is trained and nothing scored: two processes can share the work, a third then scores.

What was published is the mean over all hidden characters of a batch, each hidden with probability t: text of which much
is hidden weighs more, so it is no bound. It is measured here as it was there ("exam"), on held-out text and on as much
of the training text, and the bound beside it.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import torch
import tyro
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from microdlm import cli, training
from microdlm.corpus import Corpus, load_corpus
from microdlm.likelihood import Estimate, estimate_nelbo
from microdlm.runs import ROOT, Run, provenance, read_json, write_json
from microdlm.search import ratio_in_counts, ratio_in_time, unigram
from microdlm.state import State, TrainConfig, describe
from microdlm.terminal import console
from microdlm.transformer import Transformer, TransformerConfig

B, L = 64, 256
PUBLISHED = {  # nats on training and on held-out text, as published, one seed, another estimator
    "mlp": {"steps": 5_000, "training": 3.31, "held_out": 3.31},
    "transformer": {"steps": 10_000, "training": 2.16, "held_out": 2.27},
}


@dataclass(frozen=True)
class Config:
    model: Annotated[str, tyro.conf.Positional] = "mlp"  # mlp or transformer
    windows: int = 435  # held out; all there are
    samples: int = 8  # rounds of the exam; masks of each window while it trains
    masks: int = 32  # of each window for the bound in the end
    only: str | None = None  # published or ours: train it, score nothing
    compile: bool = False  # torch.compile: a minute to start, then faster
    device: str = "auto"
    seed: int = 0
    smoke: bool = False  # a few steps on built-in text: does it run?
    runs: Path = Path("runs/budgets")  # what is needed to go on
    out: Path = ROOT / "results" / "budgets.json"


class MLP(nn.Module):
    """Three layers, position by position: no position knows of another."""

    def __init__(self, V: int, rng: torch.Generator):
        super().__init__()
        self.embedding, self.cfg = nn.Embedding(V, 128), SimpleNamespace(vocab_size=V, seq_len=L)
        self.layers = nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, V))
        for p in self.parameters():
            nn.init.normal_(p, std=0.02, generator=rng)

    def forward(self, x_t: Tensor) -> Tensor:
        return self.layers(self.embedding(x_t))


def transformer(V: int, rng: torch.Generator) -> Transformer:
    return Transformer(TransformerConfig(V, L, n_layer=4, n_head=4, d_model=128), rng)


PLAIN = TrainConfig(1, B, lr=3e-4, warmup=0.0, final_lr=1.0, weight_decay=0.01, grad_clip=1e9)
MODELS = {"mlp": MLP, "transformer": transformer}
RECIPES: dict[str, tuple[dict, Callable]] = {  # what changes against the plain recipe, the loss
    "published": ({}, ratio_in_time),
    "ours": (dict(warmup=0.05, final_lr=0.0, weight_decay=0.1, grad_clip=1.0), ratio_in_counts),
}
RATES = {"mlp": dict(lr=3e-3), "transformer": dict(lr=6e-3, optimizer="muon")}  # of ours


def seen(corpus: Corpus) -> Corpus:
    """The same text with what was read in the place of what was held out."""
    return replace(corpus, val=corpus.train)


@torch.no_grad()
def exam(model, x_0: Tensor, samples: int) -> Estimate:
    """The published number on these windows; its standard error is over rounds."""
    rng = torch.Generator().manual_seed(0)
    return Estimate.of(torch.stack([ratio_in_time(model, x_0, rng) for _ in range(samples)]))


def loadable(going: Run, state: State, how: TrainConfig, corpus: Corpus) -> None:
    """Inside a finished run its best weights as `diffusion.py` leaves them: to be loaded, or packed to ship."""
    kept = Run(going.folder / "model")
    kept.folder.mkdir(exist_ok=True)
    made_by = {"made_by": going.config["made_by"]}
    write_json(kept.folder / "config.json", describe("diffusion", state.model.cfg, how, corpus) | made_by)
    for name in ("model.safetensors", "metrics.jsonl"):
        shutil.copy(going.folder / name, kept.folder)
    kept.finish({"steps": state.step, "best": state.best, "parameters": state.model.num_parameters()})


def run(name: str, cfg: Config, corpus: Corpus) -> dict:
    """Train by one recipe, from wherever it was left, and score the last weights, unless training is all."""
    (changes, loss), device = RECIPES[name], training.pick_device(cfg.device)
    steps, V = 3 if cfg.smoke else PUBLISHED[cfg.model]["steps"], len(corpus.tokenizer) + 1
    how = replace(PLAIN, steps=steps, seed=cfg.seed, checkpoints=20, evals=10, compile=cfg.compile, **changes)
    how = replace(how, **RATES[cfg.model]) if name == "ours" else how
    how = replace(how, batch_size=4) if cfg.smoke else how
    state = State(MODELS[cfg.model](V, torch.Generator().manual_seed(cfg.seed)), how, device)
    folder = cfg.runs / f"{cfg.model}-{name}-{cfg.seed}"
    asked = {"model": cfg.model, "recipe": name, "training": vars(how), "corpus": corpus.sha256}
    going = Run.open(folder, asked, resume=(folder / "config.json").exists())
    state.restore(going)
    x_0, read = (c.windows(L, cfg.windows).to(device) for c in (corpus, seen(corpus)))
    some = corpus.windows(L, min(64, cfg.windows)).to(device)

    def score(model, x_0=some, masks=cfg.samples):
        return estimate_nelbo(model, x_0, V - 1, masks, torch.Generator().manual_seed(0), given=1)

    records = training.train(state, how, loss, corpus.batch, score, going)
    for _ in track(records, f"{cfg.model}, {name}", total=steps - state.step, console=console, transient=True):
        pass
    if isinstance(state.model, Transformer):  # the MLP is of this file alone
        loadable(going, state, how, corpus)
    if cfg.only:
        return {}
    bound = score(state.weights.eval(), x_0, cfg.masks)
    held_out, training_text = (exam(state.weights, x, cfg.samples) for x in (x_0, read))
    curve = [(r["step"], r["val"]) for r in going.metrics() if r["val"]]
    found = {"bound": bound.mean, "bound_stderr": bound.stderr, "exam": held_out.mean, "exam_stderr": held_out.stderr}
    found |= {"exam_training": training_text.mean, "exam_training_stderr": training_text.stderr}
    found |= {"masks": cfg.masks, "given": 1}
    found |= {"bfloat16": training.wants_bfloat16(how.precision, device), "compiled": how.compile}
    parameters = sum(p.numel() for p in state.model.parameters())
    return {"recipe": name, "steps": steps, "parameters": parameters, **found, "curve": curve}


def main(cfg: Config) -> None:
    cli.one_of(cfg.model, MODELS, "model")
    if cfg.only:
        cli.one_of(cfg.only, RECIPES, "recipe")
    cfg = replace(cfg, windows=2, samples=2, masks=2, device="cpu") if cfg.smoke else cfg
    corpus = load_corpus("playlets" if cfg.smoke else "shakespeare", min_length=L)
    known = read_json(cfg.out) if cfg.out.exists() else {}
    rows = [run(name, cfg, corpus) for name in RECIPES if cfg.only in (None, name)]
    if cfg.only:
        return
    floors = {"unigram": unigram(corpus), "unigram_training": unigram(seen(corpus))}
    mine = {"published": PUBLISHED[cfg.model], **floors, "runs": rows, "made_by": provenance()}
    models = known.get("models", {}) | {cfg.model: mine}
    what = {"batch": B, "length": L, "seed": cfg.seed, "not_run": [name for name in MODELS if name not in models]}
    write_json(cfg.out, {**what, "models": models, "made_by": mine["made_by"]})
    table = Table("recipe", "bound", "exam, held-out", "published", "exam, training text", "published")
    for r in rows:
        said = PUBLISHED[cfg.model] if r["recipe"] == "published" else {"held_out": "", "training": ""}
        graded = f"{r['exam']:.4f}", f"{said['held_out']}", f"{r['exam_training']:.4f}", f"{said['training']}"
        table.add_row(r["recipe"], f"≤ {r['bound']:.4f} ± {r['bound_stderr']:.4f}", *graded)
    console.print(table)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
