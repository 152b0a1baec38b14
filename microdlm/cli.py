"""From the command line to `main(cfg)`: a dataclass is the options, its comments are the help text."""

import difflib
import sys
from collections.abc import Callable, Iterable

import tyro

from microdlm.errors import UserError


def run(main: Callable, config: type, about: str) -> None:
    """Parse the options into `config` and call `main`. A UserError is one line and exit code 2."""
    try:
        main(tyro.cli(config, description=about, config=(tyro.conf.FlagCreatePairsOff,)))
    except UserError as e:
        print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {e}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # somebody piped us into head
        sys.stderr.close()
        sys.exit(0)


def one_of(name: str, known: Iterable[str], what: str) -> str:
    """`name` if it is known; else a UserError with the nearest names first."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"unknown {what} {name!r}: {hint}There are: {', '.join(known)}")
