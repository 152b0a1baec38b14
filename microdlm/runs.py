"""A run's folder: which code and configuration made it, what it measured, and all that is needed to go on.

    config.json               what was asked for, the architecture, the vocabulary; commit, machine, versions
    metrics.jsonl             one line a training step
    checkpoint.safetensors    everything, to continue bit for bit
    model.safetensors         the best weights so far, by validation
    done.json                 the summary; only a finished run has it
    .lock                     locked by the process that trains here, as long as it lives

Files are whole (files.py), and one process at a time writes them.
"""

import json
import operator
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from microdlm.errors import UserError
from microdlm.files import atomic, leftovers, read_json, read_tensors, write_json, write_tensors, writing

ROOT = Path(__file__).resolve().parents[1]


def git(*args: str) -> str:
    """What git says of this project, or nothing where there is no git or no repository."""
    try:
        found = subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def script() -> list[str]:
    """The program that runs, as one would name it from the project's root."""
    path = Path(sys.argv[0]).resolve()
    if path.parent == ROOT / "microdlm":
        return ["-m", f"microdlm.{path.stem}"]
    if path.name == "__main__.py":
        return ["-m", path.parent.name]
    return [path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name]


def cpu_name() -> str:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return str(known.get("cpu_name") or platform.processor() or platform.machine())


WRITTEN = [f"results/{path}" for path in ("*.json", "*.md", "figures", "steps", "terminal")]
WRITTEN += ["web/frames.json", "web/og.png", "notebooks/*.ipynb"]  # by commands: no other number is made from them

SECRET = re.compile(
    r"(?i)\b(?:hf_|gh[opsu]_|github_pat_|glpat-|sk-|xox[abp]-|akia)[\w-]{8,}"  # how they begin
    r"|(?<=://)[^\s/@]+(?=@)"  # user and password of an address
    r"|(?<=token=)\S+|(?<=password=)\S+|(?<=secret=)\S+|(?<=key=)\S+"
)
NAMED_SECRET = re.compile(r"(?i)(token|password|passwd|secret|key)$")


def without_secrets(words: list[str]) -> list[str]:
    """A command line as it may be kept: what looks like a token, is one of the environment, or follows an option that
    is called so, is ***."""
    known = [value for name, value in os.environ.items() if NAMED_SECRET.search(name) and len(value) >= 8]
    hidden = []
    for before, word in zip(["", *words], words, strict=False):
        for value in known:
            word = word.replace(value, "***")
        named = before.startswith("--") and NAMED_SECRET.search(before)
        hidden.append("***" if named else SECRET.sub("***", word))
    return hidden


def provenance() -> dict:
    """Which code made this number, and where."""
    cuda, commit = torch.cuda.is_available(), git("rev-parse", "HEAD") or None
    code = ["--", ".", *(f":!{path}" for path in WRITTEN)]
    return {
        "commit": commit,
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no", *code)) if commit else None,
        "command": shlex.join(["python", *script(), *without_secrets(sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),  # a machine's name does not say: AVX2, AVX512, …
        "threads": torch.get_num_threads(),
    }


class Run:
    """One folder. `Run.open` starts a run or goes on with one."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: Path, config: dict, resume: bool = False) -> "Run":
        """Start a run in a folder that holds none; with `resume`, go on with the one that was started with `config`.
        UserError: there is another one, or another process is at it."""
        run, config = cls(folder), json.loads(json.dumps(config))  # as it will be read back
        run.refuse(resume)  # before anything is made
        run.alone()
        run.refuse(resume)  # somebody may have been quicker
        if not resume:
            write_json(run.folder / "config.json", {**config, "made_by": provenance()})
        elif differences := changes(run.config, config):
            raise UserError(f"{folder} was started with {differences[0]}: resume with the same options")
        for part in leftovers(run.folder):
            part.unlink(missing_ok=True)
        return run

    def refuse(self, resume: bool) -> None:
        """UserError unless a run can start here, or with `resume` go on."""
        folder, ours = self.folder, {self.folder / ".lock", *leftovers(self.folder)}
        if resume and not (folder / "config.json").exists():
            raise UserError(f"{folder} holds no run to resume: start one without --resume")
        if not resume and folder.exists() and (not folder.is_dir() or set(folder.iterdir()) - ours):
            raise UserError(f"{folder} exists: continue it with --resume, or choose another --out")

    def alone(self) -> None:
        """From here on no other process can open this run. The system holds the lock for as long as this process, or
        this object, lives: one that was killed leaves none, a moment later at most."""
        with writing(self.folder, "choose another --out"):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = (self.folder / ".lock").resolve()
            self.lock = FileLock(path, timeout=1, is_singleton=True, thread_local=False)
            try:
                self.lock.acquire()
            except Timeout:
                raise UserError(f"another process is at {self.folder}: wait for it, or choose another --out") from None

    @property
    def config(self) -> dict:
        path = self.folder / "config.json"
        if not isinstance(config := read_json(path), dict):
            raise UserError(f"{path} is not a run's configuration: restore it or train again")
        return config

    def log(self, record: dict) -> None:
        path = self.folder / "metrics.jsonl"
        with writing(path), open(path, "a", encoding="utf-8") as f:
            f.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict]:
        """All records. A last line torn by a crash is left out."""
        path, records = self.folder / "metrics.jsonl", []
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for line in (line for line in lines if line.endswith(b"\n")):
            try:
                records.append(json.loads(line))
                operator.index(records[-1]["step"])
            except (ValueError, TypeError, KeyError, RecursionError):
                raise UserError(f"{path} has a line that is no record ({line[:40]!r}): remove that line") from None
        return records

    def rewind(self, step: int) -> None:
        """Keep the records up to `step`: those after it belong to work that was lost and will be done again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        with atomic(self.folder / "metrics.jsonl") as beside:
            beside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def save_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        write_tensors(self.folder / "checkpoint.safetensors", tensors)

    def load_checkpoint(self) -> dict[str, Tensor] | None:
        """The last checkpoint; None for a run that was stopped before its first."""
        path = self.folder / "checkpoint.safetensors"
        return read_tensors(path) if path.exists() else None

    def save_model(self, weights: dict[str, Tensor]) -> None:
        write_tensors(self.folder / "model.safetensors", weights)

    def finish(self, summary: dict) -> None:
        write_json(self.folder / "done.json", {**summary, "made_by": provenance()})


def changes(old: dict, new: dict, path: str = "") -> list[str]:
    """What differs between two configurations, one phrase each."""
    found = []
    for key in new:
        before, now = old.get(key), new[key]
        if isinstance(before, dict) and isinstance(now, dict):
            found += changes(before, now, f"{path}{key}.")
        elif before != now:
            found.append(f"{path}{key} = {repr(before)[:40]}, not {repr(now)[:40]}")
    return found
