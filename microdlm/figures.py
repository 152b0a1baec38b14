"""How every figure is drawn: one style, one idea each, labels on the lines where there is room."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from microdlm.runs import atomic

STYLE = Path(__file__).with_name("style.mplstyle")


@contextmanager
def figure(path: Path, width: float = 6, height: float = 3.4, **subplots) -> Iterator[tuple]:
    """with figure(path) as (fig, ax): ... and it is saved, as PNG or SVG by its name.

    `subplots` as matplotlib takes them (ncols=2, sharey=True). The same drawing gives the same file: no date in it.
    """
    with style.context(STYLE):
        fig = Figure(figsize=(width, height))
        yield fig, fig.subplots(**subplots)
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = path.suffix.lstrip(".")
        with atomic(path) as beside:
            fig.savefig(beside, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
