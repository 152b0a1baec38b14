"""Files that are whole: written beside and renamed, so that kill -9 or a full disk leaves the old one or the new one,
never half of one. Tensors and JSON only: nothing that is read here is ever executed. What fails is a UserError."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from microdlm.errors import UserError


@contextmanager
def writing(path: Path, todo: str = "make room there, or choose another place") -> Iterator[None]:
    """Inside, a disk that is full or a folder that is read-only is one line, not a traceback."""
    try:
        yield
    except (OSError, SafetensorError) as e:  # the latter is how safetensors says that the disk is full
        why = getattr(e, "strerror", None) or e
        raise UserError(f"{path} cannot be written ({why}): {todo}") from e


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to; when the block ends well, it becomes `path` in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path):
            yield beside
            with open(beside, "r+b") as f:  # Windows does not sync what is open for reading
                os.fsync(f.fileno())
            os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """What those have left in a folder who were killed while they wrote: our parts, and safetensors' own."""
    return [*folder.glob(".*.part"), *folder.glob(".tmp" + "[0-9A-Za-z]" * 6)]


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
        beside.touch()
        mode = beside.stat().st_mode  # as files are made here; safetensors would let nobody else read it
        save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, beside)
        beside.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train first, or give another folder") from None
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is truncated or not a safetensors file ({e}): restore it or train again") from None
