"""How fast we train: whole steps of both twins, beside a textbook model of the same shapes, in turns in one process.

    python results/training_speed.py        writes results/training_speed.json

A step is everything: batch, masks, loss, gradients, clipping, AdamW. The textbook is torch's own encoder with
LayerNorm and learned positions, logits everywhere, and a loss averaged over what is asked. The share of the peak is
what the task needs to compute over what this machine's large matrix products reach, in the same precision.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from microdlm import cli
from microdlm.masking import mask_tokens
from microdlm.runs import ROOT, provenance, write_json
from microdlm.search import in_counts, left_to_right
from microdlm.state import State, TrainConfig
from microdlm.terminal import console
from microdlm.training import has_bfloat16, pick_device, update
from microdlm.transformer import Transformer, TransformerConfig

V = 66  # Tiny Shakespeare's characters and MASK
SHAPES = {  # L, batch on a CPU, batch on a GPU, sizes
    "nano": (128, 8, 64, dict(n_layer=3, n_head=2, d_model=96)),
    "small": (256, 16, 64, dict(n_layer=4, n_head=4, d_model=128)),
    "full": (256, 16, 64, dict(n_layer=6, n_head=6, d_model=384)),
}


@dataclass(frozen=True)
class Config:
    turns: int = 3  # how often each is timed, one after the other; the median counts
    steps: int = 2  # timed at once
    compile: bool = True  # also with torch.compile
    device: str = "auto"
    seed: int = 0
    smoke: bool = False  # nano only, a turn of one step: does it run?
    out: Path = ROOT / "results" / "training_speed.json"


class Textbook(nn.Module):
    """Embedding, learned positions, torch's encoder layers, LayerNorm, head. (B, L) -> logits (B, L, V)."""

    def __init__(self, L: int, n_layer: int, n_head: int, d_model: int, causal: bool):
        super().__init__()
        self.embedding, self.position = nn.Embedding(V, d_model), nn.Embedding(L, d_model)
        how = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        layer = nn.TransformerEncoderLayer(d_model, n_head, 4 * d_model, **how)
        self.encoder = nn.TransformerEncoder(layer, n_layer, nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.head = nn.Linear(d_model, V)
        hidden = nn.Transformer.generate_square_subsequent_mask(L) if causal else None
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.position.weight[: x.size(1)]
        return self.head(self.encoder(h, self.hidden, is_causal=self.hidden is not None))


def textbook_diffusion(model, x_0: Tensor, rng) -> Tensor:
    x_t, is_masked = mask_tokens(x_0, torch.rand(len(x_0), device=x_0.device), V - 1, rng)
    nll = F.cross_entropy(model(x_t).transpose(1, 2), x_0, reduction="none")
    return (nll * is_masked).sum() / is_masked.sum()


def textbook_gpt(model, x_0: Tensor, rng) -> Tensor:
    return F.cross_entropy(model(x_0)[:, :-1].transpose(1, 2), x_0[:, 1:])


LOSSES = {"diffusion": (textbook_diffusion, in_counts), "gpt": (textbook_gpt, left_to_right)}


def step(model: nn.Module, loss: Callable, x_0: Tensor, how: TrainConfig, device: str) -> Callable[[], tuple]:
    """One whole training step, to be called again and again."""
    state = State(model, how, device)
    if how.compile:
        model.compile()
    return lambda: update(state, how, loss, x_0)


def contestants(kind: str, size: str, cfg: Config, precision: str, device: str) -> dict[str, Callable]:
    """The textbook and ours, each as it is and compiled."""
    L, *batches, sizes = SHAPES[size]
    x_0 = torch.randint(V - 1, (batches[device != "cpu"], L), generator=torch.Generator().manual_seed(cfg.seed))
    how, causal, found = TrainConfig(10_000, len(x_0), precision=precision, seed=cfg.seed), kind == "gpt", {}
    for compiled in (False, True)[: 1 + cfg.compile]:
        rng = torch.Generator().manual_seed(cfg.seed)
        models = Textbook(L, **sizes, causal=causal), Transformer(TransformerConfig(V, L, **sizes, causal=causal), rng)
        for name, model, loss in zip(("textbook", "ours"), models, LOSSES[kind], strict=True):
            done = replace(how, compile=compiled)
            found[name + ", compiled" * compiled] = step(model, loss, x_0.to(device), done, device)
    return found


def needed(kind: str, size: str) -> float:
    """Operations that one character of a training step asks for: three passes' worth of two a weight, the head's where
    something is asked, and attention's two products over what is seen."""
    L, *_, sizes = SHAPES[size]
    D, layers, gpt = sizes["d_model"], sizes["n_layer"], kind == "gpt"
    return 3 * (2 * layers * 12 * D**2 + 2 * D * V * (1.0 if gpt else 0.5) + 4 * layers * D * L * (0.5 if gpt else 1.0))


def peak(precision: str, device: str, n: int = 2048, seconds: float = 1.0) -> float:
    """Operations a second of a large matrix product here."""
    a, b = torch.randn(2, n, n, device=device, dtype=getattr(torch, precision))
    timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    return 2 * n**3 / timer.blocked_autorange(min_run_time=seconds).median


def clock(steps: dict[str, Callable], cfg: Config) -> dict[str, list[float]]:
    """Seconds a step of each contestant, turn by turn; a first time, in which torch compiles, is left out."""
    threads = torch.get_num_threads()
    timers = {name: Timer("step()", globals={"step": f}, num_threads=threads) for name, f in steps.items()}
    for timer in timers.values():
        timer.timeit(2)
    seconds = {name: [] for name in timers}
    for _ in range(cfg.turns):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(cfg.steps).mean)
    return seconds


def rows_of(kind: str, size: str, precision: str, cfg: Config, device: str) -> list[dict]:
    """Characters a second, the share of the peak, and how many times the textbook's speed, turn by turn."""
    torch._dynamo.reset()
    large = (256, 0.1) if cfg.smoke else ()
    most = peak(precision, device, *large)
    seconds = clock(contestants(kind, size, cfg, precision, device), cfg)
    most = max(most, peak(precision, device, *large))  # whoever disturbed one of them may have left the other alone
    L, *batches, _ = SHAPES[size]
    batch, rows = batches[device != "cpu"], []
    for way, own in seconds.items():
        speed = batch * L / statistics.median(own)
        ratios = [book / mine for book, mine in zip(seconds["textbook"], own, strict=True)]
        ratio = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        what = {"kind": kind, "size": size, "precision": precision, "way": way, "batch": batch, "length": L}
        rows.append({**what, "chars_per_second": speed, "share_of_peak": speed * needed(kind, size) / most, **ratio})
    return rows


def table(rows: list[dict]) -> Table:
    t = Table("model", "precision", "way", "characters/s", "share of peak", "times the textbook")
    for r in rows:
        spread = f"{r['ratio']:.2f} ({r['lowest']:.2f} to {r['highest']:.2f})"
        cells = f"{r['kind']}, {r['size']}", r["precision"], r["way"], f"{r['chars_per_second']:,.0f}"
        t.add_row(*cells, f"{r['share_of_peak']:.0%}", spread)
    return t


def main(cfg: Config) -> None:
    device = pick_device(cfg.device)
    if cfg.smoke:
        cfg = replace(cfg, turns=2, steps=1, compile=False)
    low = ["bfloat16"] if has_bfloat16(device) else []
    sizes = ["nano"] if cfg.smoke else SHAPES
    cases = [(kind, size, precision) for size in sizes for precision in ("float32", *low) for kind in LOSSES]
    rows = []
    for case in track(cases, "training", console=console, transient=True):
        rows += rows_of(*case, cfg, device)
    setting = {"turns": cfg.turns, "steps": cfg.steps, "seed": cfg.seed}
    write_json(cfg.out, {**setting, "rows": rows, "made_by": provenance()})
    console.print(table(rows))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
