"""Run every step of the ladder with three seeds, and keep what they measured: the cards of what to expect.

python results/steps.py             all of them, about an hour on two cores
python results/steps.py 3 4         these two; the others stay as they are
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from microdlm import cli
from microdlm.errors import UserError
from microdlm.lesson import EXPECTED
from microdlm.runs import ROOT, provenance, read_json, write_json

WIDTH = 100  # columns of the transcripts


@dataclass(frozen=True)
class Config:
    which: Annotated[tuple[int, ...], tyro.conf.Positional] = ()  # numbers of steps; none: all
    seeds: tuple[int, ...] = (0, 1, 2)  # the first one's output and figure are kept


def run(path: Path, seed: int, out: Path | None) -> tuple[dict, str]:
    """One run of a step: what it measured, and what it printed. UserError if one of its claims fails."""
    where = [] if out is None else ["--out", str(out)]
    command = [sys.executable, str(path), "--seed", str(seed), *where]
    env = os.environ | {"COLUMNS": str(WIDTH), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise UserError(f"{path.name} --seed {seed} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    folder = out or ROOT / "runs" / "steps"
    printed = re.sub(r"\n(\s*\n){2,}", "\n\n", done.stdout)  # where progress bars were
    return read_json(folder / f"{path.stem}-playlets-{seed}.json"), printed


def summary(runs: list[dict], seeds: tuple[int, ...]) -> dict:
    """Mean and standard deviation over seeds of each number; seconds are those of this machine."""
    numbers = {}
    for name, first in runs[0]["numbers"].items():
        values = [r["numbers"][name]["value"] for r in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        numbers[name] = {"label": first["label"], "mean": statistics.mean(values), "sd": spread, "values": values}
    made = {"seeds": list(seeds), "seconds": statistics.mean(r["seconds"] for r in runs)}
    return made | {"numbers": numbers, "made_by": runs[0]["made_by"]}


def main(cfg: Config) -> None:
    console = Console(stderr=True)
    known = read_json(EXPECTED)["steps"] if EXPECTED.exists() else {}
    for path in sorted((ROOT / "steps").glob("step*.py")):
        if cfg.which and int(path.stem[4]) not in cfg.which:
            continue
        runs, transcript = [], ""
        with tempfile.TemporaryDirectory() as out:
            for seed in cfg.seeds:
                console.print(f"{path.name}, seed {seed}")
                found, printed = run(path, seed, None if not runs else Path(out))
                transcript = transcript if runs else printed
                runs.append(found)
        kept = ROOT / "results" / "steps" / f"{path.stem}.txt"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(transcript, encoding="utf-8")
        known[path.stem] = summary(runs, cfg.seeds)
        write_json(EXPECTED, {"steps": known, "seed": cfg.seeds[0], "made_by": provenance()})


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
