"""What is promised of a run, put to the test: killed, out of disk, locked, at odd hours, and run twice.

    python results/reliability.py          the sections of results/reliability.json, which say how long each took
    python results/fuzz.py                 the section "fuzzing": nonsense given to every command

Each process is diffusion.py with a network so small that a run takes a second; it is forked from this one, where all
is imported, so that it can be killed at any moment of its life, its start included. A small disk is a tmpfs where this
command may mount one; elsewhere files are limited in size. Linux and macOS.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.progress import track
from safetensors.torch import load_file

from microdlm import cli
from microdlm.corpus import load_corpus
from microdlm.playlets import Playlets
from microdlm.runs import ROOT, provenance, read_json, read_tensors, write_json
from microdlm.state import TrainConfig
from microdlm.terminal import console

FORK, NUMBER = get_context("fork"), itertools.count()
HOW = TrainConfig(steps=30, batch_size=2, ema=0.9, evals=5, checkpoints=15)
FAST = "masking schedules objectives canvas tokenizers transformer pacing"


@dataclass(frozen=True)
class Config:
    seed: int = 0
    smoke: bool = False  # a few of each
    only: str = ""  # one section
    out: Path = ROOT / "results" / "reliability.json"


# One training, as a process


@cache
def program():
    """diffusion.py with a tiny preset. Its text is made once, here, and dropout draws on a generator of its own."""
    spec = importlib.util.spec_from_file_location("diffusion", ROOT / "diffusion.py")
    sys.modules["diffusion"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PRESETS["nano"] = (16, dict(n_layer=1, n_head=2, d_model=16), HOW)
    text = load_corpus("playlets", n_chars=3_000)
    module.load_corpus = lambda *args, **options: text
    return module


def life(argv: list[str], said: Path, before: Callable[[], None]) -> None:
    """What a child does: as if its command line had been typed."""
    with open(said, "w", encoding="utf-8") as sys.stderr, open(os.devnull, "w", encoding="utf-8") as sys.stdout:
        sys.argv = ["diffusion.py", "--train", "--dropout", "0.1", "--device", "cpu", *argv]
        before()
        cli.run(program().main, program().Config, "")


def start(folder: Path, *options: str, before: Callable[[], None] = lambda: None) -> BaseProcess:
    said = Path(f"{next(NUMBER)}.err").resolve()
    process = FORK.Process(target=life, args=(["--out", str(folder), *options], said, before))
    process.said = said
    process.start()
    return process


def ended(process: BaseProcess) -> tuple[int | None, str]:
    """Exit code and what was said; what hangs for a minute is killed."""
    process.join(60)
    process.kill()
    process.join()
    return process.exitcode, process.said.read_text(encoding="utf-8")


def go(folder: Path, *options: str, **how) -> tuple[int | None, str]:
    return ended(start(folder, *options, **how))


def bits(folder: Path) -> dict:
    """All that a run leaves behind but the clock: records, and every bit of every tensor."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = {"records": [json.loads(line) | {"seconds": 0} for line in lines]}
    for name in ("model", "checkpoint"):
        kept |= {f"{name} {key}": x.tolist() for key, x in load_file(folder / f"{name}.safetensors").items()}
    return kept | {"files": sorted(p.name for p in folder.iterdir())}


@cache
def never_stopped(folder: Path) -> tuple[dict, float, float]:
    """The bits of a run that nobody disturbed; its seconds until the first record and from there on."""
    begun = time.perf_counter()
    process = start(folder / "never")
    wait_for_training(folder / "never")
    trains = time.perf_counter()
    code, said = ended(process)
    assert code == 0, said
    return bits(folder / "never"), trains - begun, time.perf_counter() - trains


def wait_for_training(run: Path) -> None:
    while not (run / "metrics.jsonl").exists():
        time.sleep(0.005)


def refused(code: int, said: str) -> bool:
    return code == 2 and said.count("\n") == 1 and "Traceback" not in said


def loads(folder: Path) -> bool:
    """Whatever stands in a run's folder under its own name is whole."""
    with suppress(cli.UserError):
        return all(read_tensors(p) for p in folder.glob("[!.]*.safetensors"))
    return False


# The promises


def resumed(run: Path) -> list[str]:
    return ["--resume"] * (run / "config.json").exists()


def killed(folder: Path, rng: random.Random, few: bool) -> dict:
    """kill -9 at a random moment, one in five of its start and four of its training; resumed: the same bits."""
    (want, starting, training), counts, faults, n = never_stopped(folder), Counter(), [], 3 if few else 50
    for i in track(range(10 * n), "kill -9", console=console, transient=True):
        if counts["killed"] == n:
            break
        run = folder / f"killed-{i}"
        process = start(run)
        if counts["killed"] % 5:
            wait_for_training(run)
        time.sleep(rng.random() * (training if counts["killed"] % 5 else starting))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            counts["too late"] += 1
            continue
        counts["killed"] += 1
        counts[where(run)] += 1
        counts["all that stood there loads"] += loads(run)
        code, said = go(run, *resumed(run))
        counts["same bits"] += (same := code == 0 and bits(run) == want)
        faults += [] if same else [{"code": code, "said": said, "had": sorted(p.name for p in run.iterdir())}]
    return {**counts, "faults": faults, "kept": counts["same bits"] == counts["all that stood there loads"] == n}


def where(run: Path) -> str:
    """What it was doing when it was killed."""
    if list(run.glob(".*.part")):
        return "while a file was written"
    if not (run / "config.json").exists():
        return "before there was a run"
    return "after a checkpoint" if (run / "checkpoint.safetensors").exists() else "before the first checkpoint"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A folder on a disk of one megabyte of its own; None where none may be mounted."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    try:
        yield disk if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", disk], check=True)


def full(folder: Path, rng: random.Random, few: bool) -> dict:
    """The disk fills up at a random moment: one line, nothing lost; with room again, the same bits."""
    (want, *_), counts, n = never_stopped(folder), Counter(), 2 if few else 20
    size = sum(p.stat().st_size for p in (folder / "never").iterdir())
    with small_disk(folder) as disk:
        for i in track(range(n), "full disk", console=console, transient=True):
            run, room = (disk or folder) / f"full-{i}", rng.randrange(1, size)
            if disk:
                (disk / "ballast").write_bytes(b"x" * (2**20 - 4096 * (1 + room // 4096)))
                code, said = go(run)
                (disk / "ballast").unlink()
            else:
                code, said = go(run, before=lambda room=room: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
            counts["filled up"] += code != 0
            counts["one line, exit code 2"] += refused(code, said)
            counts["all that stood there loads"] += loads(run)
            code, said = go(run, *resumed(run))
            counts["same bits"] += code == 0 and bits(run) == want
            shutil.rmtree(run)
    kept = counts["same bits"] == counts["all that stood there loads"] == n
    kept = kept and counts["one line, exit code 2"] == counts["filled up"] > 0
    return {**counts, "runs": n, "means": "a tmpfs of 1 MiB" if disk else "RLIMIT_FSIZE", "kept": kept}


def read_only(folder: Path, rng: random.Random, few: bool) -> dict:
    """A folder that may not be written to: one line, to begin there and to go on there."""
    with small_disk(folder) as disk:
        place, counts = disk or folder / "closed", Counter()
        shutil.copytree(folder / "never", place / "run")
        subprocess.run(["mount", "-o", "remount,ro", place] if disk else ["chmod", "-R", "a-w", place], check=True)
        for name, options in (("new", []), ("run", ["--resume"]), ("run", [])):
            counts["tried"] += 1
            counts["one line, exit code 2"] += refused(*go(place / name, *options))
            counts["all that stood there loads"] += loads(place / "run")
        if not disk:
            subprocess.run(["chmod", "-R", "u+w", place], check=True)
    return {**counts, "means": "tmpfs, read-only" if disk else "chmod", "kept": len(set(counts.values())) == 1}


def locked(folder: Path, rng: random.Random, few: bool) -> dict:
    """Of two that start at once one is refused; while one trains nobody else goes on; kill -9 leaves no lock."""
    (want, *_), counts, n = never_stopped(folder), Counter(), 1 if few else 10
    for i in track(range(n), "two at once", console=console, transient=True):
        run = folder / f"locked-{i}"
        both = [start(run), start(run)]
        outcomes = sorted((ended(process) for process in both), key=lambda found: found[0])
        counts["one of two that start at once is refused"] += outcomes[0][0] == 0 and refused(*outcomes[1])
        counts["same bits"] += bits(run) == want
        run = folder / f"held-{i}"
        first = start(run)
        wait_for_training(run)
        os.kill(first.pid, signal.SIGSTOP)
        code, said = go(run, "--resume")
        counts["refused while another trains"] += refused(code, said) and "another process" in said
        first.kill()
        first.join()
        counts["same bits"] += go(run, "--resume")[0] == 0 and bits(run) == want
    counts["same bits"] //= 2
    return {**counts, "kept": set(counts.values()) == {n}}


def at_odd_hours(folder: Path, rng: random.Random, few: bool) -> dict:
    """The clock jumps, most often backwards, whenever it is asked: nothing depends on it."""

    def jump():
        time.time = lambda: rng.uniform(-1e9, 2e9)

    (want, *_), n = never_stopped(folder), 1 if few else 5
    same = sum(go(folder / f"odd-{i}", before=jump)[0] == 0 and bits(folder / f"odd-{i}") == want for i in range(n))
    return {"runs": n, "same bits": same, "kept": same == n}


def twice(folder: Path, rng: random.Random, few: bool) -> dict:
    """The real nano, trained and asked to write in fresh processes with other hash seeds: the same bits and letters."""
    (folder / "text.txt").write_text(Playlets().text(50_000, seed=0), encoding="utf-8")
    found, steps = [], 4 if few else 40
    options = ["--train", "--generate", "--data", folder / "text.txt", "--steps", str(steps), "--device", "cpu"]
    for i in range(2):
        argv = [sys.executable, ROOT / "diffusion.py", *options, "--out", folder / f"twice-{i}"]
        env = os.environ | {"PYTHONHASHSEED": str(i + 1), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(argv, env=env, capture_output=True, check=True)
        letters = [line for line in done.stdout.splitlines() if b"speed" not in line]  # and not the seconds
        found.append((bits(folder / f"twice-{i}"), letters))
    same = {f"same {name}": a == b for name, a, b in zip(("bits", "letters"), *found, strict=True)}
    return {"runs": 2, "steps": steps, **same, "kept": all(same.values())}


def suite(folder: Path, rng: random.Random, few: bool) -> dict:
    """A part of the tests in random orders, and in two processes at once."""
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in FAST.split()[: 2 if few else None]]
    ways = [["--random-order", f"--random-order-seed={rng.randrange(2**31)}"] for _ in range(1 if few else 3)]
    rows = []
    for way in [*ways, ["-n", "2"]]:
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *way, *files]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
        rows.append({"how": " ".join(way), "code": done.returncode, "said": done.stdout.strip().splitlines()[-1]})
    return {"files": FAST, "runs": rows, "kept": all(row["code"] == 0 for row in rows)}


PROMISES = {
    "kill -9 costs no bit": killed,
    "a full disk costs no bit": full,
    "a read-only folder is one line": read_only,
    "one process trains in a folder": locked,
    "the clock may jump": at_odd_hours,
    "the same seed is the same run": twice,
    "tests in any order, and side by side": suite,
}


def main(cfg: Config) -> None:
    out, found = cfg.out.resolve(), {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        program()
        for name, promise in PROMISES.items():
            if cfg.only in name and not (cfg.smoke and promise in (twice, suite)):
                begun = time.perf_counter()
                found[name] = promise(Path(folder).resolve(), random.Random(f"{cfg.seed} {name}"), cfg.smoke)
                found[name] |= {"seconds": round(time.perf_counter() - begun, 1), "seed": cfg.seed}
                console.print(name, found[name], soft_wrap=True)
    kept = read_json(out) if out.exists() else {"sections": {}}
    kept["sections"] |= {name: section | {"made_by": provenance()} for name, section in found.items()}
    write_json(out, {**kept, "seed": cfg.seed, "made_by": provenance()})
    sys.exit(0 if all(section["kept"] for section in found.values()) else 1)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
