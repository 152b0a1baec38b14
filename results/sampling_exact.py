"""What a sampler itself loses: every way to write, with the exact denoiser of Playlets in place of a network.

python results/sampling_exact.py     half an hour on one thread; writes results/sampling_exact.json

Two measurements, because one will not do for all.

1. Nats lost. A held-out text x is put into the sampler's mouth: it chooses where to open by its own rule, what it opens
   is the text. The sum of -log p(x_i | what was visible) is then -log q(x) of the sampler, exactly if the positions
   depend on what is visible alone, and an upper bound on it if they are drawn (an average over orders). Minus the exact
   -log p(x), per character, that is KL(language || sampler), or a bound on it. "confidence" and "threshold" look at the
   very token they draw, which leaves no such sum: here they look at the most probable token instead.
2. Lines valid. All samplers as they are, at temperature 1: the share of whole lines that the language accepts. (A page
   that went wrong has no posterior: the denoiser then answers with frequencies, unsure of everything, and samplers
   that wait until they are sure grow slow.)
"""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from microdlm import cli
from microdlm.cost import CountForwards
from microdlm.likelihood import Estimate, cross_entropy_curve
from microdlm.pacing import masked_shares, optimal_pace, parallel_bound, step_counts
from microdlm.playlets import Playlets
from microdlm.runs import ROOT, provenance, write_json
from microdlm.samplers import SAMPLERS
from microdlm.terminal import console

STEPS = (1, 2, 4, 8, 16, 32)
NUM_STEPS = [dict(num_steps=n) for n in STEPS]
TAUS, GAMMAS = [dict(tau=t) for t in (0.99, 0.9, 0.7, 0.5)], [dict(gamma=g) for g in (0.03, 0.1, 0.3, 1.0, 3.0)]
# name: (sampler, its options, what is swept, whether a text can be put into its mouth)
WAYS = {
    "one at a time": ("first_hitting", {}, [{}], True),
    "ancestral": ("ancestral", {}, NUM_STEPS, True),
    "random, linear pace": ("confidence", dict(order="random", pace="linear"), NUM_STEPS, True),
    "random, cosine pace": ("confidence", dict(order="random", pace="cosine"), NUM_STEPS, True),
    "random, optimal pace": ("confidence", dict(order="random", pace="optimal"), NUM_STEPS, True),
    "confidence": ("confidence", dict(order="confidence", pace="linear"), NUM_STEPS, True),
    "margin": ("confidence", dict(order="margin", pace="linear"), NUM_STEPS, True),
    "entropy": ("confidence", dict(order="entropy", pace="linear"), NUM_STEPS, True),
    "threshold": ("threshold", {}, TAUS, True),
    "entropy-bounded": ("entropy_bounded", {}, GAMMAS, True),
    "blocks of 8": ("block", dict(block_length=8, inside="ancestral"), [dict(num_steps=n) for n in (8, 16, 32)], True),
    "remask": ("remask", {}, NUM_STEPS[2:], False),
    "forward-backward": ("forward_backward", {}, [dict(num_steps=n) for n in (2, 4, 8, 16)], False),
    "refine": ("refine", dict(share=0.1), [dict(num_steps=n) for n in (1, 3, 7, 15, 31)], False),
}


@dataclass(frozen=True)
class Config:
    texts: int = 64  # held-out texts, and texts written, at each point
    length: int = 64  # their characters; the first is given
    seed: int = 0  # of texts, masks and draws
    out: Path = ROOT / "results" / "sampling_exact.json"


class Mouth:
    """An exact denoiser that opens nothing but the text x_0. It keeps what it would have said of it; asked at
    temperature 0, it names the true token.

    The truth changes places with the most probable token, so every measure of sureness is what it was.
    """

    takes_at = every_row = True

    def __init__(self, denoiser, x_0: Tensor):
        self.denoiser, self.x_0 = denoiser, x_0

    def __call__(self, x_t: Tensor, at: Tensor) -> Tensor:
        log_p = self.denoiser(x_t)
        truth = self.x_0[..., None]
        self.nats = -log_p.gather(-1, truth).squeeze(-1)
        best, top = log_p.max(-1, keepdim=True)
        swapped = log_p.scatter(-1, top, log_p.gather(-1, truth)).scatter(-1, truth, best + 1e-9)
        return swapped.flatten(0, 1)[at]


def nats_lost(write, denoiser, x: Tensor, x_0: Tensor) -> tuple[Tensor, float]:
    """(B,) -log q(x_0 | what x shows) in nats, and how many passes it took a text."""
    mouth = CountForwards(Mouth(denoiser, x_0))
    nats = torch.zeros(len(x), dtype=torch.float64)
    rows = 0
    for after in write(mouth, x, denoiser.mask_id, temperature=0.0):
        new = after != x
        assert torch.equal(after[new], x_0[new])
        nats += torch.where(new, mouth.nats, 0.0).sum(1)
        rows, x = rows + new.any(1).sum().item(), after
    return nats, rows / len(x)


def lines_valid(write, language: Playlets, x: Tensor, decode) -> dict:
    """All samplers as they are: whole lines, how many of them are the language's, and what a text costs."""
    counted = CountForwards(language.denoiser())
    *_, texts = write(counted, x, language.mask_id)
    lines = [line for text in map(decode, texts) for line in text.split("\n")[1:-1] if line]
    valid = sum(map(language.accepts, lines))
    p = valid / max(1, len(lines))
    found = {"lines": len(lines), "lines_valid": p, "stderr": math.sqrt(p * (1 - p) / max(1, len(lines)))}
    return found | {"passes": counted.token_forwards / x.numel()}


def predicted(curve: Tensor, sampler: str, how: dict) -> float | None:
    """Nats per character by the right Riemann sum of the curve; of samplers that open positions at random."""
    n = len(curve)
    if sampler == "first_hitting":
        return curve.mean().item()
    if sampler == "confidence" and how["order"] == "random":
        return parallel_bound(curve, step_counts(how["pace"], how.get("num_steps", 0), n))
    if sampler != "ancestral":
        return None
    total = 0.0
    for u_t, u_s in pairwise(masked_shares("linear", how["num_steps"]).tolist()):
        for k, c in enumerate(curve.tolist(), 1):  # k are masked at t, and each of them opens with 1 - u_s / u_t
            total += math.comb(n, k) * u_t**k * (1 - u_t) ** (n - k) * k * (1 - u_s / u_t) * c
    return total / n


def options(how: dict, curve: Tensor) -> dict:
    """The optimal pace is a list of counts, the best for this curve and number of steps."""
    best = how.get("pace") == "optimal"
    return how | {"pace": optimal_pace(curve, how["num_steps"])} if best else how


def measure(cfg: Config) -> dict:
    language = Playlets()
    denoiser, rng = language.denoiser(), torch.Generator().manual_seed(cfg.seed)
    x_0, n = denoiser.sample(cfg.texts, cfg.length, rng), cfg.length - 1
    page = torch.full_like(x_0, denoiser.mask_id)
    told, blank = page.clone(), page.clone()
    told[:, 0], blank[:, 0] = x_0[:, 0], language.alphabet.index("\n")
    exact, found = denoiser.nll(x_0, given=1), []
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("exact curve", total=1 + sum(len(way[2]) for way in WAYS.values()))
        curve = cross_entropy_curve(denoiser, x_0, denoiser.mask_id, samples=1, rng=rng, given=1).mean.double()
        for name, (sampler, fixed, sweep, can_be_told) in WAYS.items():
            for changed in sweep:
                bar.update(task, advance=1, description=f"{name} {changed}")
                how = options(fixed | changed, curve)
                write = partial(SAMPLERS[sampler], rng=rng, **how)
                point = {"way": name, **changed}
                if can_be_told:
                    nats, passes = nats_lost(write, denoiser, told, x_0)
                    lost = Estimate.of(nats / n - exact)
                    point |= {"nats_lost": lost.mean, "nats_lost_stderr": lost.stderr, "passes_told": passes}
                    if (right := predicted(curve, sampler, how)) is not None:
                        point["predicted"] = right - exact.mean().item()
                point |= lines_valid(write, language, blank, lambda row: "".join(language.alphabet[i] for i in row))
                found.append(point)
    truth = {"nats_per_char": exact.mean().item(), "stderr": Estimate.of(exact).stderr}
    setting = {"texts": cfg.texts, "length": cfg.length, "seed": cfg.seed}
    return {**setting, "exact": truth, "curve": curve.tolist(), "points": found, "made_by": provenance()}


def table(numbers: dict) -> Table:
    t = Table("way", "setting", "passes", "nats lost", "predicted", "lines valid")
    for p in numbers["points"]:
        setting = " ".join(f"{k} {p[k]}" for k in ("num_steps", "tau", "gamma") if k in p)
        lost = f"{p['nats_lost']:.3f} ± {p['nats_lost_stderr']:.3f}" if "nats_lost" in p else ""
        right = f"{p['predicted']:.3f}" if "predicted" in p else ""
        t.add_row(p["way"], setting, f"{p['passes']:.1f}", lost, right, f"{p['lines_valid']:.0%} of {p['lines']}")
    return t


def main(cfg: Config) -> None:
    numbers = measure(cfg)
    console.print(table(numbers))
    write_json(cfg.out, numbers)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
