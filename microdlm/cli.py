"""From the command line to `main(cfg)`: a dataclass is the options, its comments are the help text."""

import difflib
import io
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import tyro

from microdlm.errors import UserError


def run(main: Callable, config: type, about: str) -> None:
    """Parse the options into `config` and call `main`. What a person can put right is one line and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that knows no ≤ shows a ?
    try:
        cfg = tyro.cli(config, description=about, config=(tyro.conf.FlagCreatePairsOff,))
        check(vars(cfg))
        main(cfg)
    except UserError as e:
        leave(str(e))
    except KeyboardInterrupt:  # training catches the first one itself, and saves
        leave("stopped")
    except BrokenPipeError:  # somebody piped us into head
        sys.stderr.close()
        sys.exit(0)
    except OSError as e:  # a disk, a right, a name: the machine's and not ours
        leave(f"{e.filename or 'the output'}: {e.strerror or e}: put that right, or choose another place")
    except MemoryError:
        leave("there is not enough memory: ask for less at once")


def leave(why: str) -> NoReturn:
    """One line that a terminal can take, and exit code 2."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(why.split()))
    program = Path(sys.argv[0])
    print(f"{program.parent.name if program.name == '__main__.py' else program.name}: {line}", file=sys.stderr)
    sys.exit(2)


# What an option of this name must be, wherever it is given.
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "steps": (lambda v: v >= 1, "1 or more"),
    "num_steps": (lambda v: v >= 1, "1 or more"),
    "samples": (lambda v: v >= 1, "1 or more"),
    "texts": (lambda v: v >= 1, "1 or more"),
    "windows": (lambda v: v >= 0, "0 or more"),
    "seed": (lambda v: 0 <= v < 2**63, "0 or more"),
    "lr": (lambda v: 0 < v < math.inf, "above 0"),
    "dropout": (lambda v: 0 <= v < 1, "0 or more and below 1"),
    "ema": (lambda v: 0 <= v < 1, "0 or more and below 1"),
    "precision": (lambda v: v in ("auto", "float32", "bfloat16"), "auto, float32 or bfloat16"),
    "temperature": (lambda v: 0 <= v < math.inf, "0 or more"),
    "eta": (lambda v: 0 <= v <= 1, "0 to 1"),
    "correctors": (lambda v: v >= 0, "0 or more"),
    "share": (lambda v: 0 <= v <= 1, "0 to 1"),
    "gamma": (lambda v: v >= 0, "0 or more"),
    "block_length": (lambda v: v >= 1, "1 or more"),
    "top_k": (lambda v: v >= 1, "1 or more"),
    "speed": (lambda v: 1 / 64 <= v <= 64, "1/64 to 64"),
    "top_p": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
}


def check(options: dict) -> None:
    """UserError if one of the options that has a range is outside it. None means not given."""
    for name, value in options.items():
        is_fine, must_be = RANGES.get(name, (lambda v: True, ""))
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and not is_fine(one):
                raise UserError(f"{name} is {one}: it must be {must_be}")


def one_of(name: str, known: Iterable[str], what: str) -> str:
    """`name` if it is known; else a UserError with the nearest names first."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"unknown {what} {name!r}: {hint}There are: {', '.join(known)}")
