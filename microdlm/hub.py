"""Where a model is: in a folder, among the weights that ship, or on the Hugging Face Hub.

Of a repository there two files are fetched, config.json and model.safetensors, and both are data. Nothing else that it
holds, be it a pickle or a program, is even asked for.
"""

import hashlib
import os
import re
from pathlib import Path
from types import ModuleType

from microdlm.cli import one_of
from microdlm.errors import UserError
from microdlm.runs import ROOT, read_json

WEIGHTS = ROOT / "weights"
FILES = ("config.json", "model.safetensors")
NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name


def find(name: str | Path) -> Path:
    """The folder of a shipped model, of a run, or of anything else that looks like one; or of what the Hub gave."""
    for folder in (Path(name), WEIGHTS / name):
        if folder.is_dir():
            return folder
    if isinstance(name, str) and NAME.fullmatch(name) and not Path(name).parent.is_dir():
        return fetch(name)
    shipped = sorted(p.name for p in WEIGHTS.glob("*") if p.is_dir())
    if not shipped:
        raise UserError(
            f"{name} is no folder, and weights ship with a clone only: give a folder, or owner/name on the Hub"
        )
    return WEIGHTS / one_of(str(name), shipped, "model")


def client() -> ModuleType:
    """The library. UserError: it is not installed."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging
    except ImportError:
        raise UserError("the Hugging Face Hub needs a library of its own: pip install 'microdlm[hub]'") from None
    logging.set_verbosity_error()  # it tries five times, and would tell of each
    return huggingface_hub


def fetch(name: str) -> Path:
    """A folder of the library's cache with the two files of one commit of "owner/name"; offline: of the last fetched.
    UserError, in one line: no such repository or none of ours; a file is missing, cut, or not what was announced."""
    path = get(name, FILES[0])
    config = read_json(path)
    if not (isinstance(config, dict) and {"model", "tokenizer"} <= config.keys()):  # said before weights are fetched
        raise UserError(f"{name} on the Hugging Face Hub is no model of this project: its config.json is another's")
    return get(name, FILES[1], path.parent.name).parent


def get(name: str, file: str, commit: str | None = None) -> Path:
    """Where the library keeps a file that it has fetched, of the latest commit or of this one."""
    hub = client()
    try:
        path = Path(hub.hf_hub_download(name, file, revision=commit))
    except Exception as e:  # of its own, of the network's, of the system's: which ones depends on its version
        why = f"{type(e).__name__}: {' '.join(str(e).split()):.80}"
        where = f"{name} is no folder here, and the Hugging Face Hub does not give its {file}"
        raise UserError(f"{where} ({why}): check name and network") from None
    verify(path)
    return path


def verify(path: Path) -> None:
    """UserError if a file is not what was announced. The cache is a link to a blob that is named after the checksum:
    of a large file its sha256, of a small one git's sha1. Where there are no links, nothing is known."""
    announced = Path(os.readlink(path)).name if path.is_symlink() else ""
    content = path.read_bytes()
    found = {40: hashlib.sha1(b"blob %d\0" % len(content) + content), 64: hashlib.sha256(content)}
    if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", announced) and found[len(announced)].hexdigest() != announced:
        raise UserError(f"{path.name} has another checksum than announced: delete {path.resolve()}, then load again")
