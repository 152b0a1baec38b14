"""How fast we write, beside the loop one would write first: same weights, same settings, in turn in one run.

python results/sampling_speed.py            wants an idle machine; writes results/sampling_speed.json

The straightforward loop asks for the whole page at every step, then softmax, top-k and multinomial over every position.
It has no cache, and makes a pass even if nothing opens. Ours draws where something opens, reads only the texts in which
it does, gives a GPT its KV cache, and may use bfloat16 and torch.compile.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from microdlm import cli, load
from microdlm.pacing import step_counts
from microdlm.runs import ROOT, provenance, write_json
from microdlm.terminal import console
from microdlm.training import has_bfloat16

TEMPERATURE, TOP_K = 0.8, 20


@dataclass(frozen=True)
class Config:
    turns: int = 3  # how often each is timed, one after the other; the median counts
    length: int = 256  # characters of each text; the first is given
    seed: int = 0
    compile: bool = True  # also with torch.compile, which takes a minute to start
    out: Path = ROOT / "results" / "sampling_speed.json"


def everywhere(model, x: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """A token and its probability at every position of the page."""
    logits = model(x)[..., : mask_id + 1] / TEMPERATURE
    if logits.size(-1) > mask_id:
        logits[..., mask_id] = -torch.inf
    top = logits.topk(TOP_K, dim=-1)
    p = top.values.softmax(-1)
    choice = torch.multinomial(p.flatten(0, 1), 1).view(*x.shape, 1)
    return top.indices.gather(-1, choice).squeeze(-1), p.gather(-1, choice).squeeze(-1)


@torch.no_grad()
def surest_loop(model, x: Tensor, mask_id: int, num_steps: int) -> Tensor:
    for k in step_counts("linear", num_steps, int((x[0] == mask_id).sum())):
        token, p = everywhere(model, x, mask_id)
        best = p.masked_fill(x != mask_id, -1).topk(k, dim=-1).indices
        x = x.scatter(1, best, token.gather(1, best))
    return x


@torch.no_grad()
def ancestral_loop(model, x: Tensor, mask_id: int, num_steps: int) -> Tensor:
    for left in range(num_steps, 0, -1):
        token, _ = everywhere(model, x, mask_id)
        opens = (x == mask_id) & (torch.rand(x.shape) < 1 / left)
        x = torch.where(opens, token, x)
    return x


@torch.no_grad()
def gpt_loop(model, x: Tensor, mask_id: int, num_steps: int) -> Tensor:
    for i in range(1, x.size(1)):
        token, _ = everywhere(model, x[:, :i], mask_id)
        x = x.clone()
        x[:, i] = token[:, -1]
    return x


# model, its straightforward loop, our sampler, number of steps
WRITERS = {
    "diffusion, surest first, 32 steps": ("diffusion", surest_loop, "confidence", 32),
    "diffusion, ancestral, 1,000 steps": ("diffusion", ancestral_loop, "ancestral", 1000),
    "GPT": ("gpt", gpt_loop, "left_to_right", 0),
}


def ours(lm, sampler: str, x: Tensor, cfg: Config, num_steps: int) -> Tensor:
    more = {"pace": "linear"} if sampler == "confidence" else {}
    more |= {"num_steps": num_steps} if num_steps else {}
    *_, x = lm.write(x, sampler, seed=cfg.seed, temperature=TEMPERATURE, top_k=TOP_K, **more)
    return x


def variants(cfg: Config, writer: str, batch: int) -> dict[str, Callable[[], Tensor]]:
    """The contestants of one row: the loop, ours, ours in bfloat16, ours compiled."""
    kind, loop, sampler, num_steps = WRITERS[writer]
    low = "auto" if has_bfloat16("cpu") else "float32"
    models = {"ours": load(f"shakespeare-{kind}")}
    models |= {"ours, bfloat16": load(f"shakespeare-{kind}", precision="bfloat16")} if low == "auto" else {}
    if cfg.compile and kind == "diffusion":  # a cached GPT reads one token a pass, each time with more behind it
        models["ours, fastest, compiled"] = load(f"shakespeare-{kind}", precision=low, compile=True)
    lm = models["ours"]
    x = lm.canvas("\n", cfg.length, batch)
    found = {"loop": lambda: loop(lm.model, x, lm.mask_id, num_steps)}
    return found | {name: lambda m=m: ours(m, sampler, x, cfg, num_steps) for name, m in models.items()}


def products(cfg, batch: int, L: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of the matrix products in one layer of a pass: every weight meets every token, every query every key
    and value. The head is left out: it is asked where something opens only."""
    N, D, H, K = batch * L, cfg.d_model, cfg.n_head, cfg.d_model // cfg.n_head
    weights = [((N, D), (D, 3 * D)), ((N, D), (D, D)), ((N, D), (D, 4 * D)), ((N, 4 * D), (4 * D, D))]
    return [*weights, ((batch, H, L, K), (batch, H, K, L)), ((batch, H, L, L), (batch, H, L, K))]


def seconds_of(left: tuple[int, ...], right: tuple[int, ...], precision: torch.dtype, times: int = 30) -> float:
    """One product, the median of some."""
    a, b, seconds = torch.randn(left, dtype=precision), torch.randn(right, dtype=precision), []
    for _ in range(times):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def most(writer: str, batch: int, cfg: Config, loop: list[float], precision: torch.dtype) -> dict[str, float]:
    """Times the loop, if a pass were nothing but its products: for the writer that cannot leave out a pass."""
    if "surest" not in writer:
        return {}
    kind, *_, num_steps = WRITERS[writer]
    net = load(f"shakespeare-{kind}").model.cfg
    layer = sum(seconds_of(*shapes, precision) for shapes in products(net, batch, cfg.length))
    return {"most": statistics.median(loop) / (num_steps * net.n_layer * layer)}


def clock(contestants: dict[str, Callable], turns: int) -> dict[str, list[float]]:
    """Seconds of each, turn by turn; what a first time costs is left out."""
    seconds = {name: [] for name in contestants}
    for turn in range(turns + 1):
        for name, write in contestants.items():
            torch.manual_seed(turn)
            start = time.perf_counter()
            assert write().min() >= 0
            seconds[name] += [time.perf_counter() - start] if turn else []
    return seconds


def measure(cfg: Config) -> dict:
    rows, precision = [], torch.bfloat16 if has_bfloat16("cpu") else torch.float32
    pairs = [(writer, batch) for writer in WRITERS for batch in (1, 16)]
    for writer, batch in track(pairs, "writing", console=console, transient=True):
        torch._dynamo.reset()
        seconds = clock(variants(cfg, writer, batch), cfg.turns)
        ceiling = most(writer, batch, cfg, seconds["loop"], precision)
        for name, times in seconds.items():
            ratios = [loop / own for loop, own in zip(seconds["loop"], times, strict=True)]
            speed = batch * (cfg.length - 1) / statistics.median(times)
            ratio = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
            rows.append({"writer": writer, "batch": batch, "way": name, "chars_per_second": speed, **ratio, **ceiling})
    setting = {"length": cfg.length, "temperature": TEMPERATURE, "top_k": TOP_K, "turns": cfg.turns, "seed": cfg.seed}
    return {**setting, "rows": rows, "made_by": provenance()}


def table(numbers: dict) -> Table:
    t = Table("writes", "batch", "way", "characters/s", "times the loop", "at most")
    for r in numbers["rows"]:
        spread = f"{r['ratio']:.1f} ({r['lowest']:.1f} to {r['highest']:.1f})"
        ceiling = f"{r['most']:.1f}" if "most" in r else ""
        t.add_row(r["writer"], str(r["batch"]), r["way"], f"{r['chars_per_second']:,.0f}", spread, ceiling)
    return t


def main(cfg: Config) -> None:
    numbers = measure(cfg)
    write_json(cfg.out, numbers)
    console.print(table(numbers))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
