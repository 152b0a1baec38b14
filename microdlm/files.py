"""Files that are whole: written beside and renamed, so that kill -9 or a full disk leaves the old one or the new one,
never half of one; and tensors that a disk has changed since are refused. Tensors and JSON only: nothing that is read
here is ever executed. What fails is a UserError."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
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


def checksum(tensors: dict[str, Tensor]) -> str:
    """sha256 of their names, types, shapes and every bit."""
    digest = hashlib.sha256()
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {list(x.shape)} ".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    whole = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    with atomic(path) as beside:
        beside.touch()
        mode = beside.stat().st_mode  # as files are made here; safetensors would let nobody else read it
        save_file(whole, beside, {"checksum": checksum(whole)})
        beside.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as f:
            known, tensors = f.metadata() or {}, {name: f.get_tensor(name) for name in f.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train first, or give another folder") from None
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path} is truncated or not a safetensors file ({e}): restore it or train again") from None
    if "checksum" in known and checksum(tensors) != known["checksum"]:  # other programs' files have none
        raise UserError(f"{path} is damaged, its checksum is another: restore it or train again")
    return tensors
