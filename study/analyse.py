"""From the folders of the runs to effects with intervals, as PLAN.md says. It reads done.json and nothing else."""

from dataclasses import dataclass
from pathlib import Path

import torch
from scipy.stats import t as student
from torch import Tensor

from microdlm.errors import UserError
from microdlm.runs import Run, read_json
from study.grid import Job, jobs

LEVEL = 0.95  # of each family of intervals together
Scores = dict[tuple[str, str], Tensor]  # (schedule, masking) -> (S, N): seeds, windows


@dataclass(frozen=True)
class Effect:
    """How much worse `of` is than `than`, nats per token: mean over seeds, and its simultaneous interval."""

    of: str
    than: str
    mean: float
    stderr: float  # pooled over arms, and of the windows
    low: float
    high: float
    own_low: float | None  # t interval of this pair alone, from its own seeds; not simultaneous
    own_high: float | None
    found: bool

    @property
    def words(self) -> str:
        if self.found:
            return f"found: {abs(self.mean):.4f} nats {'worse' if self.mean > 0 else 'better'}"
        return f"not found; the interval allows up to {max(abs(self.low), abs(self.high)):.4f}"


def collect(grid: list[Job], out: Path) -> tuple[dict[Job, dict], dict[str, str]]:
    """What finished runs have found, and why the others have not."""
    found, lost = {}, {}
    for job in grid:
        folder = job.folder(out)
        done = read_json(folder / "done.json") if (folder / "done.json").exists() else {}
        if "nelbo" in done:
            found[job] = done
        else:
            records = Run(folder).metrics()
            at = records[-1]["step"] if records else 0
            lost[folder.name] = done.get("failed") or f"not finished: {at:,} of {job.how.steps:,} steps"
    return found, lost


def by_arm(found: dict[Job, dict]) -> Scores:
    """The arms of which every seed is there."""
    seeds = sorted({job.seed for job in found})
    at = {(job.arm, job.seed): done["per_window"] for job, done in found.items()}
    arms = dict.fromkeys(job.arm for job in found)
    whole = [arm for arm in arms if all((arm, seed) in at for seed in seeds)]
    return {(a.schedule, a.masking): torch.tensor([at[a, s] for s in seeds], dtype=torch.float64) for a in whole}


def noise(scores: Scores) -> tuple[float, int]:
    """Residual standard deviation of the table arms x seeds, without the means of rows and columns; its degrees of
    freedom. Of a single seed nothing can be said."""
    y = torch.stack([score.mean(1) for score in scores.values()])  # (arms, seeds)
    left = y - y.mean(0) - y.mean(1, keepdim=True) + y.mean()
    df = (y.size(0) - 1) * (y.size(1) - 1)
    return (left.square().sum().item() / df) ** 0.5 if df else 0.0, df


def noise_floor(scores: Scores) -> float:
    """The largest difference between linear and loglinear, which are equal."""
    pairs = [
        (scores["loglinear", m], scores["linear", m]) for s, m in scores if s == "loglinear" and ("linear", m) in scores
    ]
    return max((a.mean(1) - b.mean(1)).abs().max().item() for a, b in pairs)


def effect(scores: Scores, of: tuple, than: tuple, family: int, floor: float) -> Effect:
    gap = scores[of] - scores[than]  # (S, N): same seed, same window, same masks
    (sd, df), S, by_seed = noise(scores), len(gap), gap.mean(1)
    windows = gap.mean(0).std().item() / gap.size(1) ** 0.5
    stderr = (2 / S * sd**2 + windows**2) ** 0.5
    reach = float(stderr * student.ppf(1 - (1 - LEVEL) / 2 / family, df or float("inf")))
    alone = float(by_seed.std().item() / S**0.5 * student.ppf((1 + LEVEL) / 2, S - 1)) if S > 1 else None
    mean = by_seed.mean().item()
    own = (None, None) if alone is None else (mean - alone, mean + alone)
    found = S > 1 and abs(mean) > reach and abs(mean) > floor
    return Effect("-".join(of), "-".join(than), mean, stderr, mean - reach, mean + reach, *own, found)


def families(scores: Scores) -> dict[str, list[Effect]]:
    """All comparisons of the plan: proposals against linear, and masking by type against uniform masking."""
    floor = noise_floor(scores)
    proposal = [((s, m), ("linear", m)) for s, m in scores if s != "linear" and ("linear", m) in scores]
    masking = [((s, m), (s, "uniform")) for s, m in scores if m != "uniform" and (s, "uniform") in scores]
    judged = sum(of[0] != "loglinear" for of, _ in proposal)  # loglinear is the floor, not a question
    return {
        "proposal": [effect(scores, of, than, max(1, judged), floor) for of, than in proposal],
        "masking": [effect(scores, of, than, max(1, len(masking)), floor) for of, than in masking],
    }


def analysis(preset: str, grid: str, seeds: tuple[int, ...], out: Path) -> dict:
    """Everything that can be said of a grid. UserError if too little of it is there."""
    found, lost = collect(jobs(preset, grid, seeds), out)
    scores = by_arm(found)
    if not {("linear", "uniform"), ("loglinear", "uniform")} <= scores.keys():
        raise UserError(
            f"{out / preset} has no finished linear and loglinear run: python -m study run --preset {preset}"
        )
    sd, df = noise(scores)
    return {
        "preset": preset,
        "grid": grid,
        "seeds": sorted({job.seed for job in found}),
        "windows": next(iter(scores.values())).size(1),
        "noise_floor": noise_floor(scores),
        "residual_sd": sd,
        "degrees_of_freedom": df,
        "arms": [summary(key, score, found) for key, score in scores.items()],
        "effects": {name: [vars(e) | {"words": e.words} for e in of] for name, of in families(scores).items()},
        "lost": lost,
        "trained_by": trained_by([job.folder(out) for job in found]),
    }


def trained_by(folders: list[Path]) -> list[dict]:
    """Of what code and on what machine the runs came: one entry, unless they were moved."""
    made = [Run(folder).config["made_by"] for folder in folders]
    told = [{k: m[k] for k in ("commit", "uncommitted_changes", "torch", "device", "threads")} for m in made]
    return [dict(one) for one in dict.fromkeys(tuple(t.items()) for t in told)]


def summary(key: tuple[str, str], score: Tensor, found: dict[Job, dict]) -> dict:
    """One line of the table. `stderr` is over windows; `seeds` has the score of each training."""
    mine = [done for job, done in found.items() if (job.arm.schedule, job.arm.masking) == key]
    text = score.mean(0)
    extra = {name: sum(d[name] for d in mine) / len(mine) for name in ("own_exam", "own_bound") if name in mine[0]}
    curve = torch.tensor([d["curve"]["mean"] for d in mine]).mean(0).tolist()
    return {
        "schedule": key[0],
        "masking": key[1],
        "nelbo": text.mean().item(),
        "stderr": text.std().item() / len(text) ** 0.5,
        "seeds": score.mean(1).tolist(),
        **extra,
        "curve": {"k": mine[0]["curve"]["k"], "mean": curve},
    }
