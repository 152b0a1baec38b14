"""A stranger's first hour, with a stopwatch: clone, environment, and the first steps, in a home folder that is empty.

    python results/first_hour.py    wants a network and an idle machine; writes results/first_hour.json

The clone is of the last commit, and knows nothing of this environment. docs/first_hour.md is what `make results` makes
of it, and what a person stumbled over.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from microdlm import cli
from microdlm.runs import ROOT, provenance, write_json
from microdlm.terminal import console

CLONE = "git clone <the address of this repository> microDLM && cd microDLM"
STEPS = ("step0_masking", "step1_denoise_mlp", "step2_transformer")
KEPT = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")  # and what pip is told


@dataclass(frozen=True)
class Config:
    smoke: bool = False  # clone alone: does it run?
    out: Path = ROOT / "results" / "first_hour.json"


def stranger(home: Path) -> dict[str, str]:
    """The environment of somebody who has never been here."""
    mine = {key: value for key, value in os.environ.items() if key in KEPT or key.startswith("PIP_")}
    return mine | {"HOME": str(home), "TERM": "dumb"}


def timed(shown: str, argv: list[str], folder: Path, env: dict[str, str]) -> dict:
    """Seconds, exit code, and what it claims."""
    start = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True)
    claims = [line for line in done.stdout.splitlines() if line.startswith(("✓", "✗"))]
    return {"command": shown, "seconds": time.perf_counter() - start, "code": done.returncode, "claims": claims}


def main(cfg: Config) -> None:
    made_by, load = provenance(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        home, env = Path(folder), stranger(Path(folder))
        clone, bash = home / "microDLM", shutil.which("bash")
        todo = [(CLONE, ["git", "clone", "-q", str(ROOT), str(clone)], home)]
        if not cfg.smoke:
            todo.append(("make install", ["make", "install"], clone))
            for step in STEPS:
                shown = f"python steps/{step}.py"
                todo.append((shown, [bash, "-c", f"source .venv/bin/activate && {shown}"], clone))
        rows = [timed(*one, env) for one in track(todo, "the first hour", console=console, transient=True)]
    what = {"load_before": load, "processors": os.cpu_count(), "rows": rows, "seed": 0}
    write_json(cfg.out, {**what, "made_by": made_by})
    for row in rows:
        console.print(f"{row['seconds']:8.0f} s  exit code {row['code']}  {row['command']}")
    sys.exit(0 if not any(row["code"] for row in rows) else 1)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
