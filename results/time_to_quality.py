"""How much text must a model read to reach a given quality? A plain recipe, AdamW tuned, and ours: one network, one
estimator.

    python results/time_to_quality.py       half an hour on one thread; stopped, it goes on where it was
    python results/time_to_quality.py --pilot       which batch and rate suit AdamW; a few minutes

A larger network: --size small --chars 8192000 --compile --out results/time_to_quality_small.json.

The plain recipe never changes its rate, so every point of its curve counts. The others bring the rate down to zero, so
a point of theirs is a run of its own, with a schedule of that length. What is compared is where curves are equal. What
is left of our lead over the plain recipe when AdamW has as good a rate and batch is what Muon is worth.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from rich.progress import track
from rich.table import Table

from microdlm import cli
from microdlm.corpus import Corpus, load_corpus
from microdlm.errors import UserError
from microdlm.likelihood import estimate_nelbo
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.search import ratio_in_counts, ratio_in_time, unigram
from microdlm.state import State, TrainConfig
from microdlm.terminal import console
from microdlm.training import due, pick_device, update
from microdlm.transformer import Transformer, TransformerConfig

SIZES = {
    "tiny": (64, 1, 2, 16),
    "nano": (128, 3, 2, 96),
    "small": (256, 4, 4, 128),
    "full": (256, 6, 6, 384),
}  # L, layers, heads, D
MARKS = (3.2, 3.1, 3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 2.3, 2.2, 2.1, 2.0)  # nats per character


@dataclass(frozen=True)
class Config:
    size: str = "nano"  # nano, small, or full: 10.7M, wants a GPU
    chars: int = 1_024_000  # that the plain recipe reads
    shares: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4)  # of it that ours reads, a run for each
    tuned: tuple[float, ...] = (1 / 8, 1 / 4, 1 / 2)  # of it that AdamW reads when it is tuned, likewise
    points: int = 4  # of the plain recipe's curve
    windows: int = 64  # held out, for the score
    samples: int = 8  # masks of each
    seeds: tuple[int, ...] = (0, 1, 2)
    compile: bool = False  # torch.compile: a minute to start each run, then faster
    pilot: bool = False  # only try the pairs of batch and rate of tuned AdamW, with a seed that no curve has
    smoke: bool = False  # a tiny network for a few steps: does it run?
    out: Path = ROOT / "results" / "time_to_quality.json"


PLAIN = TrainConfig(1, 16, lr=3e-4, warmup=0.0, final_lr=1.0, weight_decay=0.01, grad_clip=math.inf)
OURS = TrainConfig(1, 4, optimizer="muon", lr=6e-3)
TUNED = "AdamW, tuned"  # its batch and rate: the best pair of the pilot
PAIRS = [(batch, lr) for batch in (4, 8, 16) for lr in (1.5e-3, 3e-3, 6e-3)]
LARGE = "ours, batch 16"  # with the plain recipe's batch, too few steps in so little text: one seed
RECIPES: dict[str, tuple[TrainConfig, Callable]] = {
    "plain": (PLAIN, ratio_in_time),
    "ours": (OURS, ratio_in_counts),
    TUNED: (TrainConfig(1, 4, lr=3e-3), ratio_in_counts),
    LARGE: (replace(OURS, batch_size=16), ratio_in_counts),
}


COMPARED = ("plain", TUNED, "ours")


def run(recipe: str, chars: int, points: int, seed: int, cfg: Config, corpus: Corpus) -> list[dict]:
    """Train once, and score `points` times, the last time at the end."""
    (how, loss), mask_id = RECIPES[recipe], len(corpus.tokenizer)
    model = Transformer(TransformerConfig(mask_id + 1, *SIZES[cfg.size]), torch.Generator().manual_seed(seed))
    how = replace(how, steps=max(points, chars // (how.batch_size * (L := model.cfg.seq_len))), seed=seed)
    state, rows = State(model, how, pick_device()), []
    if cfg.compile:
        torch.compiler.reset()  # of the run before, whose graphs would count against this one
        model.compile()
    for step in track(range(1, how.steps + 1), f"{recipe}, {chars:,}, seed {seed}", console=console, transient=True):
        update(state, how, loss, corpus.batch(how.batch_size, L, state.rng).to(state.device))
        if due(step, how.steps, points):
            x_0, rng = corpus.windows(L, cfg.windows).to(state.device), torch.Generator().manual_seed(0)
            score = estimate_nelbo(state.weights.eval(), x_0, mask_id, cfg.samples, rng, given=1)
            read = {"chars": step * how.batch_size * L, "flops": flops(model, step, how)}
            rows.append({**read, "nelbo": score.mean, "stderr_over_windows": score.stderr})
    return rows


def pilot(cfg: Config, corpus: Corpus) -> list[dict]:
    """Which batch and rate suit AdamW, where ours reads most: one run each, the best one first."""
    chars, seed = int(cfg.chars * cfg.shares[-1]), max(cfg.seeds) + 1
    found = []
    for batch, lr in PAIRS:
        with mock.patch.dict(RECIPES, {TUNED: (TrainConfig(1, batch, lr=lr), ratio_in_counts)}):
            (row,) = run(TUNED, chars, 1, seed, cfg, corpus)
        found.append({"batch": batch, "lr": lr, "seed": seed, **row})
        console.print(f"batch {batch}, rate {lr:g}: ≤ {row['nelbo']:.4f}")
    return sorted(found, key=lambda row: row["nelbo"])


def flops(model: Transformer, steps: int, how: TrainConfig) -> float:
    """Operations of `steps` training steps: six a weight and character (the head's for the half that is hidden),
    attention's two products, and what Muon takes to make its steps orthogonal."""
    cfg, blocks = model.cfg, list(model.blocks.parameters())
    weights = sum(p.numel() for p in blocks) + cfg.d_model * cfg.vocab_size / 2
    whole = how.batch_size * cfg.seq_len * (6 * weights + 12 * cfg.n_layer * cfg.seq_len * cfg.d_model)
    sides = [sorted(p.shape) for p in blocks]
    return steps * (whole + (how.optimizer == "muon") * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in sides))


def reached(curve: list[dict], mark: float, what: str = "chars") -> float | None:
    """Where a curve comes down to `mark`, on a straight line in log(what) between its points. None: it never does, or
    starts below."""
    rows = sorted(curve, key=lambda r: r[what])
    for before, after in zip(rows, rows[1:], strict=False):
        if before["nelbo"] > mark >= after["nelbo"]:
            share = (before["nelbo"] - mark) / (before["nelbo"] - after["nelbo"])
            return math.exp((1 - share) * math.log(before[what]) + share * math.log(after[what]))
    return None


def of_seeds(values: list[float | None]) -> dict:
    """Mean and standard error over seeds; nothing where one of them has no value."""
    if None in values:
        return {}
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"value": statistics.mean(values), "stderr": error}


def compare(runs: list[dict], seeds: list[int], marks: tuple[float, ...] = MARKS) -> dict:
    """What each recipe takes to each mark, how many times less ours and tuned AdamW take to the plain recipe's end, and
    how many times less ours takes than tuned AdamW to there."""

    def curve(recipe: str, seed: int) -> list[dict]:
        return [p for r in runs if (r["recipe"], r["seed"]) == (recipe, seed) for p in r["points"]]

    rows = [{"mark": m} | {n: of_seeds([reached(curve(n, s), m) for s in seeds]) for n in COMPARED} for m in marks]
    ends = {s: max(curve("plain", s), key=lambda p: p["chars"]) for s in seeds}
    less: dict[str, dict] = {"times_less": {}, "times_less_tuned": {}, "times_less_than_tuned": {}}
    for what in ("chars", "flops"):
        ours, tuned = ([reached(curve(n, s), ends[s]["nelbo"], what) for s in seeds] for n in ("ours", TUNED))
        plain = [end[what] for end in ends.values()]
        for name, more, fewer in zip(less, (plain, plain, tuned), (ours, tuned, ours), strict=True):
            less[name][what] = of_seeds([a and b and a / b for a, b in zip(more, fewer, strict=True)])
    return {"marks": rows, "plain_end": of_seeds([end["nelbo"] for end in ends.values()]), **less}


def table(marks: list[dict]) -> Table:
    t = Table("nats per character", *(f"{name}: characters" for name in COMPARED))
    for row in marks:
        cells = [f"{row[n]['value']:,.0f} ± {row[n]['stderr']:,.0f}" if row[n] else "–" for n in COMPARED]
        t.add_row(f"≤ {row['mark']:.2f}", *cells)
    return t


def planned(cfg: Config) -> list[tuple[int, str, int, int]]:
    """Seed, recipe, characters, points."""
    jobs = [("plain", cfg.chars, cfg.points), *(("ours", int(cfg.chars * share), 1) for share in cfg.shares)]
    jobs += [(TUNED, int(cfg.chars * share), 1) for share in cfg.tuned]
    large = [(cfg.seeds[0], LARGE, int(cfg.chars * 2 * share), 1) for share in cfg.shares]
    return [(seed, *job) for seed in cfg.seeds for job in jobs] + large


def main(cfg: Config) -> None:
    cli.one_of(cfg.size, SIZES, "size")
    if cfg.smoke:
        cfg = replace(
            cfg,
            size="tiny",
            chars=8192,
            shares=(1 / 8, 1 / 2),
            tuned=(1 / 2,),
            points=2,
            windows=2,
            samples=2,
            seeds=(0, 1),
        )
    corpus = load_corpus("playlets" if cfg.smoke else "shakespeare", min_length=SIZES[cfg.size][0])
    setting = {"size": cfg.size, "chars": cfg.chars, "windows": cfg.windows, "samples": cfg.samples}
    here = replace(corpus, val=corpus.windows(SIZES[cfg.size][0], cfg.windows)[:, 1:].flatten())  # what is scored
    made = {"made_by": provenance()}
    known = read_json(cfg.out) if cfg.out.exists() else {**setting, "runs": []}
    if (runs := known["runs"]) and any(known.get(name, value) != value for name, value in setting.items()):
        raise UserError(f"{cfg.out} holds runs of another size or length: give another --out")
    if cfg.pilot:
        write_json(cfg.out, known | {"pilot": {"runs": pilot(cfg, corpus), **made}})
        return
    for seed, recipe, chars, points in planned(cfg):
        if (recipe, chars, seed) not in {(r["recipe"], r["chars"], r["seed"]) for r in runs}:
            found = run(recipe, chars, points, seed, cfg, corpus)
            runs.append(
                {"recipe": recipe, "chars": chars, "seed": seed, "compiled": cfg.compile, "points": found, **made}
            )
            console.print(f"{recipe}, {chars:,} characters, seed {seed}: ≤ {found[-1]['nelbo']:.4f}")
        done = {(r["recipe"], r["chars"], r["seed"]) for r in runs}
        whole = [s for s in cfg.seeds if done >= {job[1:3] + (s,) for job in planned(cfg) if job[1] in COMPARED}]
        found = compare(runs, whole) if whole else {}
        numbers = {**known, **setting, "unigram": unigram(here), "seed": cfg.seeds[0], **found, "runs": runs, **made}
        write_json(cfg.out, numbers)
    console.print(table(numbers["marks"]))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
