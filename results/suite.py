"""The whole suite again and again: is it green every time, in the order of its files and in any other?

    python results/suite.py --times 10    adds runs to results/suite.json, which says how long each took

Each is the pytest of `make test`, every other one in a random order. `in_a_row` counts the green ones since the last
that was not; all stay in the file.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from microdlm import cli
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.terminal import console


@dataclass(frozen=True)
class Config:
    times: int = 10  # how often
    tests: tuple[str, ...] = ()  # files, if not all
    out: Path = ROOT / "results" / "suite.json"


def order(n: int) -> list[str]:
    """The n-th run's: every other one as files stand, the others shuffled by their number."""
    return ["--random-order", f"--random-order-seed={n}"] if n % 2 else []


def run(n: int, tests: tuple[str, ...]) -> dict:
    argv = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *order(n), *tests]
    start = time.perf_counter()
    done = subprocess.run(argv, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    said = (done.stdout or done.stderr).strip().splitlines()
    red = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    row = {"order": " ".join(order(n)) or "of files", "code": done.returncode, "red": red, "said": said[-1]}
    return row | {"seconds": round(time.perf_counter() - start), "made_by": provenance()}


def in_a_row(runs: list[dict]) -> int:
    """Green runs since the last that was not."""
    green = 0
    for row in runs:
        green = 0 if row["code"] else green + 1
    return green


def main(cfg: Config) -> None:
    runs = read_json(cfg.out)["runs"] if cfg.out.exists() else []
    for _ in range(cfg.times):
        with console.status(f"run {len(runs) + 1}"):
            runs.append(run(len(runs), cfg.tests))
        green = in_a_row(runs)
        write_json(cfg.out, {"in_a_row": green, "runs": runs, "seed": 0, "made_by": provenance()})
        console.print(f"run {len(runs)}: {runs[-1]['said']}, {runs[-1]['seconds']} s; green in a row: {green}")
        if runs[-1]["code"]:
            sys.exit(1)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
