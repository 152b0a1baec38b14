"""How far runs are, how fast, and what they cost, from what they have recorded themselves. Nothing here is a guess."""

import statistics
import time
from pathlib import Path

import torch

from microdlm.runs import Run, read_json
from microdlm.transformer import Transformer, TransformerConfig
from study.cluster import ticket
from study.grid import PRESETS, Job


def score(job: Job, out: Path) -> str:
    """The score of a run that is done, the reason of one that failed; else nothing."""
    done = job.folder(out) / "done.json"
    found = read_json(done) if done.exists() else {"failed": ""}
    return found["failed"] if "failed" in found else f"≤ {found['nelbo']:.4f} ± {found['stderr']:.4f}"


def progress(job: Job, out: Path) -> tuple[str, str]:
    """Steps done of those asked for, and the score."""
    records = Run(job.folder(out)).metrics()
    return f"{records[-1]['step'] if records else 0:,} of {job.how.steps:,}", score(job, out)


def speed(job: Job, out: Path, last: int = 200) -> tuple[int, float | None, float | None]:
    """Steps done, tokens a second over the last steps, and hours still to go at that."""
    records = Run(job.folder(out)).metrics()
    seconds = sum(r["seconds"] for r in records[-last:])
    if not seconds:
        return 0, None, None
    size = records[-1]["tokens"] / records[-1]["step"]
    left = (job.how.steps - records[-1]["step"]) * seconds / len(records[-last:])
    return records[-1]["step"], size * len(records[-last:]) / seconds, left / 3600


def devices(job: Job, out: Path) -> int:
    """How many GPUs the run has; a run that no job of a cluster has had trains on one device."""
    return max(1, ticket(job, out).get("gpus", 1))


def device_speed(todo: list[Job], out: Path) -> float | None:
    """Tokens a second of one device: the median of the runs that were begun."""
    found = [rate / devices(job, out) for job in todo if (rate := speed(job, out)[1])]
    return statistics.median(found) if found else None


def device_hours(job: Job, out: Path, tokens_per_second: float) -> tuple[float, float]:
    """What the run's training costs, all of it and what is still to be done. Validation and score come on top."""
    tokens = job.how.batch_size * PRESETS[job.preset].net["seq_len"]
    left = 0 if (job.folder(out) / "done.json").exists() else job.how.steps - speed(job, out)[0]
    return tuple(steps * tokens / tokens_per_second / 3600 for steps in (job.how.steps, left))


def utilisation(tokens_per_second: float, parameters: int, peak: float) -> float:
    """MFU: the share of `peak` floating-point operations a second that 6 N of them for each token make up."""
    return 6 * parameters * tokens_per_second / peak


def parameters(job: Job, out: Path) -> int:
    """How many weights the run's network has."""
    with torch.device("meta"):
        return Transformer(TransformerConfig(**Run(job.folder(out)).config["model"])).num_parameters()


def silence(job: Job, out: Path) -> str:
    """How long ago the run recorded its last step. One that runs and is silent for long hangs."""
    path = job.folder(out) / "metrics.jsonl"
    if not path.exists():
        return ""
    seconds = time.time() - path.stat().st_mtime
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
