"""What the notebooks share and none teaches: the look of the figures, pairs of numbers that must agree, a slider."""

import os
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt

from microdlm.colours import COLOURS
from microdlm.figures import STYLE
from microdlm.terminal import console

try:
    import ipywidgets
except ImportError:
    ipywidgets = None

# Where nobody is there to move a slider (build.py says so) or nothing to move it with, there are none, and no bars.
STILL = ipywidgets is None or bool(os.environ.get("MICRODLM_STILL"))
console.is_jupyter, console.quiet = console.is_jupyter and not STILL, STILL
plt.style.use(STYLE)
DOT = "·"  # how MASK is shown
BLUE, RED, GREY = COLOURS["diffusion"], COLOURS["gpt"], COLOURS["masked"]


def size(full, smoke):
    """`full`, or `smoke` where MICRODLM_SMOKE is set: to see in seconds whether a notebook runs."""
    return smoke if os.environ.get("MICRODLM_SMOKE") else full


def agree(what: str, left: float, right: float, error: float = 0.0) -> None:
    """Two ways to one number, side by side. AssertionError if they are more than 4 standard errors apart."""
    left, right, error = (0.0 if abs(v) < 1e-12 else float(v) for v in (left, right, error))
    print(f"{what:<52} {left:10.6g}  =  {right:.6g}" + (f" ± {error:.2g}" if error else ""))
    assert abs(left - right) <= 4 * error + 1e-6 + 1e-5 * abs(right), "the two sides differ"


def plain(tokenizer, x) -> str:
    """A text in one line: MASK a dot, a line break an arrow."""
    return tokenizer.decode(x).replace("\n", "↵")


def slider(draw: Callable, name: str, values: Sequence, still: Sequence, across: bool = True, **how) -> None:
    """draw(ax, value) for each of `still`, side by side or below each other; then once more with a slider over all
    `values`, if ipywidgets is there."""
    n = len(still)
    grid, room = ((1, n), (3.1 * n, 2.8)) if across else ((n, 1), (6.5, 1.7 * n))
    fig, axes = plt.subplots(*grid, figsize=how.pop("figsize", room), layout="constrained", **how)
    for ax, value in zip(axes.flat, still, strict=True):
        draw(ax, value)
    plt.show()

    def one(value):
        draw(plt.subplots(figsize=(6, 3.2))[1], value)
        plt.show()

    if not STILL:
        knob = ipywidgets.SelectionSlider(options=list(values), value=still[0], description=name)
        ipywidgets.interact(one, value=knob)
    for value in size([], list(values)):  # a smoke run sees whether all of them can be drawn
        draw(plt.subplots()[1], value)
        plt.close()
