"""What does it cost to go longer, wider, or more at once? Time and memory of training and of writing.

    python results/growth.py        writes results/growth.json; wants a machine that does nothing else

Every point is measured in a process of its own, so that memory is only its own: how far the process rose above what it
held before. Along each axis, time and memory are fitted as c + a·x + b·x², none of them below zero, in relative error.
Where the linear and the quadratic part are equal the latter takes over; counting operations says where that should be.
"""

import itertools
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from rich.table import Table
from scipy.optimize import nnls

from microdlm import cli
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.samplers import SAMPLERS
from microdlm.search import in_counts, left_to_right
from microdlm.state import State, TrainConfig
from microdlm.terminal import console
from microdlm.training import pick_device, update
from microdlm.transformer import Transformer, TransformerConfig

V, HEAD, LAYERS = 66, 32, 4  # Tiny Shakespeare's characters and MASK; K; as in the preset small
WRITES = {"diffusion": ("confidence", {"num_steps": 32}), "gpt": ("left_to_right", {})}


@dataclass(frozen=True)
class Size:
    """One point. The defaults are where the axes meet."""

    L: int = 256
    D: int = 128
    B: int = 4


AXES = {
    "L": (64, 128, 256, 512, 1024, 2048),
    "D": (64, 128, 256, 512),
    "B": (1, 2, 4, 8, 16, 32),
}


@dataclass(frozen=True)
class Config:
    turns: int = 3  # how often each is timed after a first time; the median counts
    device: str = "auto"
    seed: int = 0
    smoke: bool = False  # three lengths, once: does it run?
    fit_only: bool = False  # measure nothing: fit what stands in --out anew
    out: Path = ROOT / "results" / "growth.json"


def training(kind: str, model: Transformer, size: Size, device: str, seed: int):
    """One whole step."""
    how = TrainConfig(10_000, size.B, precision="float32", seed=seed)
    state = State(model, how, device)
    x_0 = torch.randint(V - 1, (size.B, size.L), generator=torch.Generator().manual_seed(seed)).to(device)

    loss = {"diffusion": in_counts, "gpt": left_to_right}[kind]
    return lambda: update(state, how, loss, x_0)


def writing(kind: str, model: Transformer, size: Size, device: str, seed: int):
    """B whole texts: 32 passes for the diffusion model, one token after the other with a cache for the GPT."""
    (sampler, how), x = WRITES[kind], torch.full((size.B, size.L), V - 1, device=device)
    x[:, 0] = 0  # a GPT needs something to go on from

    def write():
        *_, x_0 = SAMPLERS[sampler](model.eval(), x, V - 1, rng=torch.Generator().manual_seed(seed), **how)
        return x_0

    return write


TASKS = {"training": training, "writing": writing}


def held(device: str, status: Path = Path("/proc/self/status")) -> int:
    """Bytes that the process, or the device, has held at most since `forget`; 0 where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def forget(device: str, references: Path = Path("/proc/self/clear_refs")) -> None:
    """From now on, what is held at most is counted anew."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif references.exists():
        references.write_text("5")


def measure(task: str, kind: str, size: Size, cfg: Config, device: str) -> dict:
    """In a process of its own: seconds of one go (the median), and MiB above what was held before the model."""
    torch.set_num_threads(1)
    forget(device)
    before = held(device)
    net = TransformerConfig(V, size.L, LAYERS, size.D // HEAD, size.D, causal=kind == "gpt")
    go = TASKS[task](kind, Transformer(net, torch.Generator().manual_seed(cfg.seed)).to(device), size, device, cfg.seed)
    go()
    seconds = []
    for _ in range(cfg.turns):
        start = time.perf_counter()
        go()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "all_seconds": seconds, "mib": (held(device) - before) / 2**20}


def fit(xs: list[float], ys: list[float]) -> dict:
    """y = c + a x + b x², no term below 0, least squares of the relative error. `equal_at`: where linear and quadratic
    part are equal."""
    x = np.array(xs, dtype=float)
    terms = np.stack([x**0, x, x**2], 1) / np.array(ys)[:, None]
    scale = terms.max(0)  # x² is a million times x**0
    found = nnls(terms / scale, np.ones(len(x)))[0]
    c, a, b = (np.where(found < 1e-9, 0, found) / scale).tolist()  # less than that is rounding
    wrong = np.abs(terms @ [c, a, b] - 1).max()
    return {"c": c, "a": a, "b": b, "equal_at": a / b if a > 0 and b > 0 else None, "largest_error": float(wrong)}


def expected(task: str, kind: str, axis: str) -> float | None:
    """Where counting operations puts `equal_at`. A layer's 12 D² weights take 24 D² operations a token, its attention
    4 L D where all is seen and half of that where only the left is. Head and embedding are left out."""
    at = Size()
    if axis == "B":
        return None  # linear: no sequence looks at another
    if axis == "L":
        return 6 * at.D * (2 if kind == "gpt" else 1)
    return at.L / 6 / (2 if kind == "gpt" else 1)


def sizes(cfg: Config):
    """(axis, size), without repeating the point where the axes meet."""
    for axis, values in AXES.items():
        for value in values[: 3 if cfg.smoke else None]:
            yield axis, replace(Size(), **{axis: value} | ({"B": 1} if cfg.smoke and axis != "B" else {}))


def table(fits: list[dict]) -> Table:
    t = Table("task", "model", "along", "linear = quadratic at", "by operations", "largest error of the fit")
    for f in fits:
        equal = f"{f['equal_at']:,.0f}" if f["equal_at"] else "–"
        by = f"{f['expected']:,.0f}" if f["expected"] else "–"
        t.add_row(f["task"], f["kind"], f["axis"], equal, by, f"{f['largest_error']:.0%}")
    return t


def measured(cfg: Config, device: str) -> list[dict]:
    rows, todo = [], list(itertools.product(TASKS, WRITES, sizes(cfg)))
    start = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    with ProcessPoolExecutor(1, start, max_tasks_per_child=1) as processes:
        for task, kind, (axis, size) in track(todo, "growing", console=console, transient=True):
            found = processes.submit(measure, task, kind, size, cfg, device).result()
            rows.append({"task": task, "kind": kind, "axis": axis, **asdict(size), **found})
    return rows


def fitted(rows: list[dict]) -> list[dict]:
    fits = []
    for task, kind, axis in itertools.product(TASKS, WRITES, AXES):
        mine = [r for r in rows if (r["task"], r["kind"], r["axis"]) == (task, kind, axis)]
        what = {"task": task, "kind": kind, "axis": axis, "expected": expected(task, kind, axis)}
        for of in ("seconds", "mib"):
            whole = [r for r in mine if r[of] > 0]
            fits.append({**what, "of": of, **fit([r[axis] for r in whole], [r[of] for r in whole])})
    return fits


def main(cfg: Config) -> None:
    if cfg.fit_only:
        numbers = read_json(cfg.out) | {"fitted_by": provenance()}
    else:
        cfg = replace(cfg, turns=1) if cfg.smoke else cfg
        numbers = {"turns": cfg.turns, "layers": LAYERS, "head": HEAD, "writes": WRITES, "seed": cfg.seed}
        numbers |= {"rows": measured(cfg, pick_device(cfg.device)), "made_by": provenance()}
    numbers["fits"] = fitted(numbers["rows"])
    write_json(cfg.out, numbers)
    console.print(table([f for f in numbers["fits"] if f["of"] == "seconds"]))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
