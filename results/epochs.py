"""How often can a text be read? Likelihood against epochs for both twins, each regularised as well as we can.

    python results/epochs.py        a GPU, or days, even on a tenth of the text; stopped, it goes on where it was

Two cores: --size nano --share 0.05 --windows 64 --samples 4 --evals 10 --compile, once with --only diffusion
--epochs 10 30 100 300 and once, at the same time, with --only gpt --epochs 10 30: both write to the same file. Then
with --evals 100 --patience 25 --epochs 10 30 100 300 1000: whoever reads on for long passes his best moment early, a
GPT from 100 epochs on. The same with --tries and the names in RATES asks whether another rate had been better.

For every number of epochs, each twin tries its regularisers with the first seed. Which is best, and after which step
a run was best, some of the held-out windows decide. Then the best runs with every seed, and what counts is measured on
all the other windows, at its best moment. A GPT's value is exact, a diffusion model's is a bound.
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
from torch import Tensor, nn

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
    rate: float = 1.0  # times the twin's learning rate


REGULARISERS = {
    "none": Regulariser(),
    "dropout 0.1": Regulariser(dropout=0.1),
    "dropout 0.3": Regulariser(dropout=0.3),
    "weight decay 1": Regulariser(weight_decay=1.0),
    "dropout 0.3, weight decay 1": Regulariser(dropout=0.3, weight_decay=1.0),
}
MASKED = {
    "masked inputs": Regulariser(masked_inputs=0.3),
    "both": Regulariser(dropout=0.2, masked_inputs=0.3),
    "masked inputs, weight decay 1": Regulariser(weight_decay=1.0, masked_inputs=0.3),
}
TRIED = {"diffusion": REGULARISERS, "gpt": REGULARISERS | MASKED}
BEST = {"diffusion": "weight decay 1", "gpt": "masked inputs, weight decay 1"}  # where each twin loses least
RATES = {  # asked for by name only
    f"{name}, rate {word}": replace(TRIED[kind][name], rate=rate)
    for kind, name in BEST.items()
    for word, rate in (("halved", 0.5), ("doubled", 2.0))
}


@dataclass(frozen=True)
class Config:
    epochs: tuple[int, ...] = (10, 30, 100, 300, 1000)  # how often the text is read
    share: float = 0.1  # of the training text that is used; 1: all of it
    size: str = "small"  # nano, small, or full: 10.7M, wants a GPU
    lr: tuple[float, ...] = (6e-3, 3e-3)  # of diffusion, of GPT: the peak, with Muon
    evals: int = 20  # chances to be the best of a run
    patience: int = 0  # a run ends after so many chances without a new best; 0: never. With no regulariser it goes on
    windows: int = 128  # held out, that choose; all the others count
    samples: int = 16  # masks of each that chooses; those that count have 16
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
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)  # step, nats on the windows that choose

    def see(self, step: int, nats: float, model: nn.Module) -> None:
        self.curve.append((step, nats))
        if nats < self.chosen_by:
            self.chosen_by, self.step = nats, step
            self.weights = {name: w.clone() for name, w in model.state_dict().items()}

    def missed(self) -> int:
        """Chances since the best moment."""
        return sum(step > self.step for step, _ in self.curve)


def split(corpus: Corpus, n: int) -> tuple[Tensor, Tensor]:
    """The n held-out windows that choose, and all that do not: they count."""
    every, chooses = corpus.windows(L), corpus.windows(L, n)
    return chooses, every[~(every[:, None] == chooses).all(-1).any(1)]


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
    how, sizes = (TRIED[kind] | RATES)[name], dict(n_layer=1, n_head=2, d_model=16) if cfg.smoke else SIZES[cfg.size]
    steps = max(1, round(epochs * len(corpus.train) / (BATCH * L)))
    lr = cfg.lr[kind == "gpt"] * how.rate
    train = TrainConfig(steps, BATCH, optimizer="muon", lr=lr, weight_decay=how.weight_decay, seed=seed)
    net = TransformerConfig(len(corpus.tokenizer) + 1, L, **sizes, causal=kind == "gpt", dropout=how.dropout)
    state = State(Transformer(net, torch.Generator().manual_seed(seed)), train, device)
    if cfg.compile:
        torch.compiler.reset()  # of the run before, whose graphs would count against this one
        state.model.compile()
    chooses, counts = (x_0.to(device) for x_0 in split(corpus, cfg.windows))
    best, loss, start = Best(), loss_of(kind, how), time.perf_counter()
    title = f"{kind}, {epochs} epochs, {name}, seed {seed}"
    for step in track(range(1, steps + 1), title, console=console, transient=True):
        update(state, train, loss, corpus.batch(BATCH, L, state.rng).to(device))
        if due(step, steps, cfg.evals):
            best.see(step, score(state.weights.eval(), kind, chooses, cfg.samples).mean, state.weights)
            if cfg.patience and best.missed() >= cfg.patience and how != Regulariser():
                break  # who goes on without any regulariser shows what reading on costs
    state.weights.load_state_dict(best.weights)
    counted = score(state.weights.eval(), kind, counts, 16)
    found = {"nats_per_char": counted.mean, "stderr": counted.stderr, "chosen_by": best.chosen_by}
    found |= {"best_step": best.step, "steps": steps, "seconds": time.perf_counter() - start, "curve": best.curve}
    found |= {"windows": [round(nats, 4) for nats in counted.per_sequence.tolist()]}
    what = {"kind": kind, "epochs": epochs, "regulariser": name, "seed": seed, "compiled": cfg.compile}
    return {**what, **found, "how": asdict(how)}


def nats_of(run: dict) -> float:
    """By which a run is chosen: at its best moment, on all windows that choose (some wrote down two halves of them)."""
    return min(statistics.mean(halves) for _, *halves in run["curve"])


def chosen(runs: list[dict], kind: str, epochs: int, seed: int) -> tuple[str | None, list[str]]:
    """The regulariser that was best with this seed, by the windows that choose, None before any has been tried;
    and those that have not been tried. Another rate is a question of one plan, and no candidate at any."""
    tried = [r for r in runs if (r["kind"], r["epochs"], r["seed"]) == (kind, epochs, seed)]
    tried = [r for r in tried if r["regulariser"] in TRIED[kind]]
    best = min(tried, key=nats_of)["regulariser"] if tried else None
    return best, [name for name in TRIED[kind] if name not in {r["regulariser"] for r in tried}]


def summary(runs: list[dict], cfg: Config) -> list[dict]:
    """For each twin and number of epochs: the chosen regulariser, mean and standard error over the seeds that count."""
    rows = []
    for kind, epochs in ((kind, epochs) for kind in TRIED for epochs in cfg.epochs):
        name, untried = chosen(runs, kind, epochs, cfg.seeds[0])
        mine = [r for r in runs if (r["kind"], r["epochs"], r["regulariser"]) == (kind, epochs, name)]
        if mine := [r for r in mine if "windows" in r]:
            values = [r["nats_per_char"] for r in mine]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else mine[0]["stderr"]
            over = "seeds" if len(values) > 1 else "windows"
            row = {"kind": kind, "epochs": epochs, "regulariser": name, "nats_per_char": statistics.mean(values)}
            row |= {"best_epoch": statistics.mean(epochs * r["best_step"] / r["steps"] for r in mine)}
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
        cli.one_of(name, TRIED[cfg.only or "diffusion"] | RATES, "regulariser")
    cfg, device = small(cfg) if cfg.smoke else cfg, pick_device(cfg.device)
    corpus = load_corpus("playlets" if cfg.smoke else "shakespeare", min_length=L)
    n = 2 * BATCH * L if cfg.smoke else round(cfg.share * len(corpus.train))
    corpus = replace(corpus, train=corpus.train[:n], val=corpus.val[: 8 * L] if cfg.smoke else corpus.val)
    setting = {"characters": n, "size": cfg.size, "batch": BATCH, "length": L, "seed": cfg.seeds[0]}
    setting["choose"], setting["count"] = (len(x_0) for x_0 in split(corpus, cfg.windows))
    made = {"made_by": provenance()}

    def known() -> list[dict]:
        return read_json(cfg.out)["runs"] if cfg.out.exists() else []

    def key(r: dict) -> tuple:
        return r["kind"], r["epochs"], r["regulariser"], r["seed"]

    def once(*what, count: bool) -> None:
        """A run that was searched before the other windows counted runs again, if now it has to count."""
        if any(key(r) == what and ("windows" in r or not count) for r in known()):
            return
        found = run(*what, cfg, corpus, device) | made
        kind, epochs, name, seed = what
        console.print(f"{kind}, {epochs} epochs, {name}, seed {seed}: {found['nats_per_char']:.4f}")
        keep(found)

    def keep(*found: dict) -> None:
        with FileLock(cfg.out.with_suffix(".lock")):  # another process may have added to it meanwhile
            runs = [*(r for r in known() if key(r) not in map(key, found)), *found]
            rows = summary(runs, cfg)
            write_json(cfg.out, {**setting, "not_run": left(rows, cfg), "summary": rows, "runs": runs, **made})

    for epochs, kind in ((epochs, kind) for epochs in cfg.epochs for kind in TRIED if cfg.only in (None, kind)):
        for seed in cfg.seeds if cfg.tries else cfg.seeds[:1]:
            for name in cfg.tries or TRIED[kind]:
                once(kind, epochs, name, seed, count=False)
        for seed in () if cfg.tries else (*cfg.seeds, *cfg.seeds):
            # The first may come out otherwise the second time, and another be chosen: that is why all come twice.
            once(kind, epochs, chosen(known(), kind, epochs, cfg.seeds[0])[0], seed, count=True)
    keep()  # whoever ends last has the last word on what is left
    console.print(table(summary(known(), cfg)))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
