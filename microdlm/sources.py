"""Where a text comes from: a path, or a name that stands for a file, fetched once and checked ever after."""

import contextlib
import difflib
import hashlib
import os
import tempfile
from pathlib import Path

from microdlm.errors import UserError

DATA = Path(__file__).resolve().parents[1] / "data"  # the project's own folder: fetched texts, git-ignored
ADVICE = "use --data playlets, which needs no download"
# Where a named corpus may lie below $MICRODLM_DATA or data/, best first: sha256, None if any will do. A download
# gets the last name; where we know no checksum, that of the first download is kept beside it and holds from then on.
# TinyStories (2305.07759): the extract that our numbers come from, then the small published file, 22 MB; all: 2.2 GB.
FILES = {
    "shakespeare": {"shakespeare.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"},
    "tinystories": {
        "tinystories/stories.txt": "ec8f7c2f88ffdea729dfd1c9431223211a2a2d93696574754c6ed9cfbd6edf78",
        "tinystories.txt": None,
    },
    "tinystories-all": {"tinystories-all.txt": None},
}
STORIES = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4"
URLS = {
    "shakespeare": "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "tinystories": f"{STORIES}-valid.txt",
    "tinystories-all": f"{STORIES}-train.txt",
}
NAMES = ["playlets", *FILES]


def read(name: str) -> tuple[str, bytes]:
    """The bytes of a named corpus, or of the file at this path, and its short name. UserError: there are none."""
    path = Path(os.path.expanduser(name))
    return path.name, _known(name) if name in FILES else _read(path)


def nearest(word: str, words) -> str:
    close = difflib.get_close_matches(word, words, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _read(path: Path) -> bytes:
    """The file's bytes, or a UserError that says what is there instead."""
    try:
        if path.is_char_device() or path.is_block_device():  # /dev/zero never ends
            raise UserError(f"{path} is a device: give the path of a text file")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        is_path = path.suffix or len(path.parts) > 1
        what = f"file {path}" if is_path else f"corpus {path.name!r}{nearest(path.name, NAMES)}"
        todo = f"choose from {', '.join(NAMES)}, or give the path of a text file"
        raise UserError(f"there is no {what}: {todo}") from error
    except (OSError, ValueError) as error:
        what = "is a folder" if os.path.isdir(path) else f"cannot be read ({type(error).__name__})"
        raise UserError(f"{path} {what}: give the path of a text file that you may read") from error


def _known(name: str) -> bytes:
    """The bytes of a named corpus: from $MICRODLM_DATA, else from data/, else downloaded into data/."""
    theirs = os.environ.get("MICRODLM_DATA")
    folders = {Path(theirs).expanduser().resolve(): False} if theirs else {}
    folders.setdefault(DATA, True)  # is it ours to tidy?
    places = [(below / file, sha, ours) for below, ours in folders.items() for file, sha in FILES[name].items()]
    path, sha256, ours = next((place for place in places if place[0].exists()), places[-1])
    if not path.exists():
        _download(name, path)
    first = path.with_name(f"{path.name}.sha256")
    if sha256 is None and ours and first.exists():
        sha256 = first.read_text(encoding="utf-8").split()[0]
    return _checked(path, sha256, ours)


def _checked(path: Path, sha256: str | None, ours: bool) -> bytes:
    """The file's bytes, if its checksum is the known one. A wrong file is not used, and if ours set aside."""
    raw = _read(path)
    got = hashlib.sha256(raw).hexdigest()
    if sha256 in (None, got):
        return raw
    todo = "replace or remove it"
    with contextlib.suppress(OSError):  # in a read-only folder it stays where it is
        if ours:
            os.replace(path, f"{path}.mismatch")
            todo = f"it is now {path.name}.mismatch, so run again"
    raise UserError(f"{path} has sha256 {got[:12]}…, not {sha256[:12]}…: {todo}, or {ADVICE}")


def _download(name: str, path: Path) -> None:
    import pooch

    if name not in URLS:
        raise UserError(f"{name} is not downloaded for you: put its text at {path}, or {ADVICE}")
    try:
        # Into a folder of its own, then a rename: neither a run cut off nor two at once leave half a file.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            pooch.HTTPDownloader(progressbar=True)(URLS[name], f"{folder}/part", None)
            if FILES[name][path.name] is None:
                sums = path.with_name(f"{path.name}.sha256")
                sums.write_text(f"{pooch.file_hash(f'{folder}/part')}  {path.name}\n", encoding="utf-8")
            os.replace(f"{folder}/part", path)
    except (OSError, ValueError) as e:  # requests' own exceptions are OSErrors
        raise UserError(f"cannot download {name} ({type(e).__name__}): {ADVICE}, or put it at {path}") from e
