"""How every figure is drawn: one style, one idea each, labels on the lines where there is room."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.image import imread

from microdlm.runs import atomic

STYLE = Path(__file__).with_name("style.mplstyle")


@contextmanager
def figure(path: Path, width: float = 6, height: float = 3.4, **subplots) -> Iterator[tuple]:
    """with figure(path) as (fig, ax): ... and it is saved, as PNG or SVG by its name.

    `subplots` as matplotlib takes them (ncols=2, sharey=True). The same drawing gives the same file: no date in it,
    and a picture that no eye could tell from the one that stands there leaves that as it is.
    """
    with style.context(STYLE):
        fig = Figure(figsize=(width, height))
        yield fig, fig.subplots(**subplots)
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = path.suffix.lstrip(".")
        with atomic(path) as beside:
            fig.savefig(beside, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
            if kind == "png" and path.exists() and alike(beside, path):
                beside.write_bytes(path.read_bytes())


def alike(one: Path, other: Path) -> bool:
    """No channel of a pixel further apart than a 255th: processors differ in the last bit of a logarithm."""
    try:
        a, b = (imread(path, format="png") for path in (one, other))
    except (OSError, SyntaxError):  # what stands there is no picture
        return False
    return a.shape == b.shape and bool(abs(a - b).max() < 1.5 / 255)
