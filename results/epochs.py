"""How often can a text be read? Likelihood against epochs for both twins, each regularised as well as we can.

    python results/epochs.py        a GPU, or days, even on a tenth of the text; stopped, it goes on where it was

Two cores: --size nano --share 0.05 --windows 64 --samples 4 --evals 10 --compile, once with --only diffusion
--epochs 10 30 100 300 and once, at the same time, with --only gpt --epochs 10 30: both write to the same file. Then
with --evals 100 --patience 25 --epochs 10 30 100 300 1000: whoever reads on for long passes his best moment early, a
GPT from 100 epochs on.

For every number of epochs, each twin tries its regularisers with the first seed. Which is best, and after which step
a run was best, one half of the held-out windows decides; the number that counts comes from the other half. The best
then runs with the other seeds. A GPT's value is exact, a diffusion model's is a bound.
"""

import math
import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from filelock import FileLock
from rich.progress import track
from rich.table import Table
from torch import Tensor

from microdlm import cli
from microdlm.corpus import Corpus, load_corpus
from microdlm.likelihood import Estimate, estimate_nelbo
from microdlm.masking import mask_tokens, uniform
from microdlm.objectives import next_token_nll, without_mask
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.search import in_counts
from microdlm.state import State, TrainConfig
from microdlm.terminal import console
from microdlm.training import due, pick_device, update
from microdlm.transformer import Transformer, TransformerConfig

BATCH, L = 16, 256
SIZES = {
    "nano": dict(n_layer=3, n_head=2, d_model=96),
    "small": dict(n_layer=4, n_head=4, d_model=128),
    "full": dict(n_layer=6, n_head=6, d_model=384),
}


@dataclass(frozen=True)
class Regulariser:
    """What keeps a model from learning its text by heart. Early stopping comes with every one of them."""

    dropout: float = 0.0
    weight_decay: float = 0.1
    masked_inputs: float = 0.0  # GPT: the largest share of its input that is hidden (each text draws its own)


REGULARISERS = {
    "none": Regulariser(),
    "dropout 0.1": Regulariser(dropout=0.1),
    "dropout 0.3": Regulariser(dropout=0.3),
    "weight decay 1": Regulariser(weight_decay=1.0),
    "dropout 0.3, weight decay 1": Regulariser(dropout=0.3, weight_decay=1.0),
}
MASKED = {"masked inputs": Regulariser(masked_inputs=0.3), "both": Regulariser(dropout=0.2, masked_inputs=0.3)}
TRIED = {"diffusion": REGULARISERS, "gpt": REGULARISERS | MASKED}


@dataclass(frozen=True)
class Config:
    epochs: tuple[int, ...] = (10, 30, 100, 300, 1000)  # how often the text is read
    share: float = 0.1  # of the training text that is used; 1: all of it
    size: str = "small"  # nano, small, or full: 10.7M, wants a GPU
    lr: tuple[float, ...] = (6e-3, 3e-3)  # of diffusion, of GPT: the peak, with Muon
    evals: int = 20  # chances to be the best of a run
    patience: int = 0  # a run ends after so many chances without a new best; 0: never. With no regulariser it goes on
    windows: int = 128  # held out; the even ones choose, the odd ones count
    samples: int = 16  # masks of each
    seeds: tuple[int, ...] = (0, 1, 2)
    only: str | None = None  # diffusion or gpt; the other is left to another process
    tries: tuple[str, ...] = ()  # these regularisers only, with every seed; the others are left to another process
    compile: bool = False  # torch.compile: a minute to start each run, then faster
    device: str = "auto"
    smoke: bool = False  # a tiny network for a few steps: does it run?
    out: Path = ROOT / "results" / "epochs.json"


@dataclass
class Best:
    """The best moment of a run so far, by the windows that choose."""

    chosen_by: float = math.inf
    score: Estimate | None = None  # on the windows that count
    step: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # step, choosing half, counting half

    def see(self, step: int, chooses: Estimate, counts: Estimate) -> None:
        self.curve.append((step, chooses.mean, counts.mean))
        if chooses.mean < self.chosen_by:
            self.chosen_by, self.score, self.step = chooses.mean, counts, step

    def missed(self) -> int:
        """Chances since the best moment."""
        return sum(step > self.step for step, *_ in self.curve)


def loss_of(kind: str, how: Regulariser):
    """Both vocabularies have MASK, so that a GPT may have hidden inputs too. It never answers MASK."""

    def gpt(model, x_0, rng):
        hidden = how.masked_inputs * uniform((len(x_0),), x_0.device, rng) if how.masked_inputs else None
        x = x_0 if hidden is None else mask_tokens(x_0, 1 - hidden, model.cfg.vocab_size - 1, rng)[0]
        return next_token_nll(without_mask(model(x), model.cfg.vocab_size - 1), x_0).mean()

    return {"diffusion": in_counts, "gpt": gpt}[kind]


@torch.no_grad()
def score(model: Transformer, kind: str, x_0: Tensor, samples: int) -> Estimate:
    """Nats per character, the first one given: exact for a GPT, a bound for diffusion."""
    mask_id = model.cfg.vocab_size - 1
    if kind == "gpt":
        nll = [next_token_nll(without_mask(model(rows), mask_id), rows) for rows in x_0.split(64)]
        return Estimate.of(torch.cat(nll))
    return estimate_nelbo(model, x_0, mask_id, samples, torch.Generator().manual_seed(0), given=1)


def run(kind: str, epochs: int, name: str, seed: int, cfg: Config, corpus: Corpus, device: str) -> dict:
    """One training: the best moment of it, and the whole curve."""
    how, sizes = TRIED[kind][name], dict(n_layer=1, n_head=2, d_model=16) if cfg.smoke else SIZES[cfg.size]
    steps = max(1, round(epochs * len(corpus.train) / (BATCH * L)))
    lr = cfg.lr[kind == "gpt"]
    train = TrainConfig(steps, BATCH, optimizer="muon", lr=lr, weight_decay=how.weight_decay, seed=seed)
    net = TransformerConfig(len(corpus.tokenizer) + 1, L, **sizes, causal=kind == "gpt", dropout=how.dropout)
    state = State(Transformer(net, torch.Generator().manual_seed(seed)), train, device)
    if cfg.compile:
        torch.compiler.reset()  # of the run before, whose graphs would count against this one
        state.model.compile()
    x_0, best, loss, start = corpus.windows(L, cfg.windows).to(device), Best(), loss_of(kind, how), time.perf_counter()
    title = f"{kind}, {epochs} epochs, {name}, seed {seed}"
    for step in track(range(1, steps + 1), title, console=console, transient=True):
        update(state, train, loss, corpus.batch(BATCH, L, state.rng).to(device))
        if due(step, steps, cfg.evals):
            both = [score(state.weights.eval(), kind, half, cfg.samples) for half in (x_0[::2], x_0[1::2])]
            best.see(step, *both)
            if cfg.patience and best.missed() >= cfg.patience and how != Regulariser():
                break  # who goes on without any regulariser shows what reading on costs
    found = {"nats_per_char": best.score.mean, "stderr": best.score.stderr, "chosen_by": best.chosen_by}
    found |= {"best_step": best.step, "steps": steps, "seconds": time.perf_counter() - start, "curve": best.curve}
    what = {"kind": kind, "epochs": epochs, "regulariser": name, "seed": seed, "compiled": cfg.compile}
    return {**what, **found, "how": asdict(how)}


def chosen(runs: list[dict], kind: str, epochs: int, seed: int) -> tuple[str | None, list[str]]:
    """The regulariser that was best with this seed, by the windows that choose, None before any has been tried;
    and those that have not been tried."""
    tried = [r for r in runs if (r["kind"], r["epochs"], r["seed"]) == (kind, epochs, seed)]
    best = min(tried, key=lambda r: r["chosen_by"], default={"regulariser": None})["regulariser"]
    return best, [name for name in TRIED[kind] if name not in {r["regulariser"] for r in tried}]


def summary(runs: list[dict], cfg: Config) -> list[dict]:
    """For each twin and number of epochs: the chosen regulariser, mean and standard error over seeds."""
    rows = []
    for kind, epochs in ((kind, epochs) for kind in TRIED for epochs in cfg.epochs):
        name, untried = chosen(runs, kind, epochs, cfg.seeds[0])
        if name:
            mine = [r for r in runs if (r["kind"], r["epochs"], r["regulariser"]) == (kind, epochs, name)]
            values = [r["nats_per_char"] for r in mine]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else mine[0]["stderr"]
            over = "seeds" if len(values) > 1 else "windows"
            row = {"kind": kind, "epochs": epochs, "regulariser": name, "nats_per_char": statistics.mean(values)}
            rows.append(row | {"stderr": error, "stderr_over": over, "runs": len(values), "untried": untried})
    return rows


def left(rows: list[dict], cfg: Config) -> list[str]:
    """The pairs of model and epochs that have not run with every regulariser and every seed."""
    done = {(r["kind"], r["epochs"]) for r in rows if r["runs"] == len(cfg.seeds) and not r["untried"]}
    return [f"{kind}, {epochs} epochs" for epochs in cfg.epochs for kind in TRIED if (kind, epochs) not in done]


def table(rows: list[dict]) -> Table:
    t = Table("model", "epochs", "nats per character", "regulariser", "seeds")
    for r in rows:
        value = f"{'≤ ' * (r['kind'] == 'diffusion')}{r['nats_per_char']:.3f} ± {r['stderr']:.3f}"
        t.add_row(r["kind"], str(r["epochs"]), value, r["regulariser"], str(r["runs"]))
    return t


def small(cfg: Config) -> Config:
    return replace(cfg, epochs=(1, 2), evals=2, windows=4, samples=2, seeds=(0, 1), device="cpu")


def main(cfg: Config) -> None:
    cli.one_of(cfg.size, SIZES, "size")
    if cfg.only:
        cli.one_of(cfg.only, TRIED, "model")
    for name in cfg.tries:
        cli.one_of(name, TRIED[cfg.only or "diffusion"], "regulariser")
    cfg, device = small(cfg) if cfg.smoke else cfg, pick_device(cfg.device)
    corpus = load_corpus("playlets" if cfg.smoke else "shakespeare", min_length=L)
    n = 2 * BATCH * L if cfg.smoke else round(cfg.share * len(corpus.train))
    corpus = replace(corpus, train=corpus.train[:n])
    setting = {"characters": n, "size": cfg.size, "batch": BATCH, "length": L, "seed": cfg.seeds[0]}
    made = {"made_by": provenance()}

    def known() -> list[dict]:
        return read_json(cfg.out)["runs"] if cfg.out.exists() else []

    def once(kind: str, epochs: int, name: str, seed: int) -> None:
        if (kind, epochs, name, seed) in {(r["kind"], r["epochs"], r["regulariser"], r["seed"]) for r in known()}:
            return
        found = run(kind, epochs, name, seed, cfg, corpus, device) | made
        console.print(f"{kind}, {epochs} epochs, {name}, seed {seed}: {found['nats_per_char']:.4f}")
        keep(found)

    def keep(*found: dict) -> None:
        with FileLock(cfg.out.with_suffix(".lock")):  # another process may have added to it meanwhile
            runs = [*known(), *found]
            rows = summary(runs, cfg)
            write_json(cfg.out, {**setting, "not_run": left(rows, cfg), "summary": rows, "runs": runs, **made})

    for epochs, kind in ((epochs, kind) for epochs in cfg.epochs for kind in TRIED if cfg.only in (None, kind)):
        for name in cfg.tries or TRIED[kind]:
            once(kind, epochs, name, cfg.seeds[0])
        for seed in cfg.seeds[1:]:
            for name in cfg.tries or [chosen(known(), kind, epochs, cfg.seeds[0])[0]]:
                once(kind, epochs, name, seed)
    keep()  # whoever ends last has the last word on what is left
    console.print(table(summary(known(), cfg)))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
