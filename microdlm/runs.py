"""A run's folder: which code and configuration made it, what it measured, and all that is needed to go on.

    config.json               what was asked for, the architecture, the vocabulary; commit, machine, versions
    metrics.jsonl             one line a training step
    checkpoint.safetensors    everything, to continue bit for bit
    model.safetensors         the best weights so far, by validation
    done.json                 the summary; only a finished run has it

Tensors and JSON only: nothing in a folder is ever executed. Files are written beside and renamed, so a power cut
leaves the old one or the new one, never half of one.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from microdlm.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to; when the block ends well, it becomes `path` in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with open(beside, "rb") as f:
            os.fsync(f.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value) -> None:
    with atomic(path) as beside:
        beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: is {path.parent} the folder of a run or of weights?") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read ({type(e).__name__}): give a file that you may read") from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is not JSON ({e}): restore it or train again") from None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic(path) as beside:
        save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, beside)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train first, or give another folder") from None
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is truncated or not a safetensors file ({e}): restore it or train again") from None


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
    return [str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name]


def cpu_name() -> str:
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return str(known.get("cpu_name") or platform.processor() or platform.machine())


MEASURED = ("*.json", "*.md", "figures", "steps", "terminal")  # written into results/ by commands: it makes no number


def provenance() -> dict:
    """Which code made this number, and where."""
    cuda, commit = torch.cuda.is_available(), git("rev-parse", "HEAD") or None
    code = ["--", ".", *(f":!results/{path}" for path in MEASURED)]
    return {
        "commit": commit,
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no", *code)) if commit else None,
        "command": shlex.join(["python", *script(), *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
    }


class Run:
    """One folder. `Run.open` starts a run or goes on with one."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: Path, config: dict, resume: bool = False) -> "Run":
        """Start a run in a folder that holds none; with `resume`, go on with the one that was started with `config`."""
        run, path = cls(folder), Path(folder) / "config.json"
        config = json.loads(json.dumps(config))  # as it will be read back
        if not resume:
            if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
                raise UserError(f"{folder} exists: continue it with --resume, or choose another --out")
            try:
                run.folder.mkdir(parents=True, exist_ok=True)
                write_json(path, {**config, "made_by": provenance()})
            except OSError as e:
                raise UserError(f"{folder} cannot be written ({e.strerror}): choose another --out") from None
        elif not path.exists():
            raise UserError(f"{folder} holds no run to resume: start one without --resume")
        elif differences := changes(run.config, config):
            raise UserError(f"{folder} was started with {differences[0]}: resume with the same options")
        return run

    @property
    def config(self) -> dict:
        return read_json(self.folder / "config.json")

    def log(self, record: dict) -> None:
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as f:
            f.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict]:
        """All records. A last line torn by a crash is left out."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        try:
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except json.JSONDecodeError as e:
            raise UserError(f"{path} has a line that is not JSON ({e.doc.strip()[:40]!r}): remove that line") from None

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
