"""What every step shares and none teaches: its options, its predictions, its claims, the card of what to expect.

A step says what it predicts, measures it, and claims. A claim that fails ends the step with exit code 1 and a line
that names it; so does a --break after which everything still holds.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from rich import box
from rich.progress import track
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from microdlm.cli import one_of
from microdlm.runs import ROOT, provenance, write_json
from microdlm.state import State, TrainConfig
from microdlm.terminal import console
from microdlm.training import pick_device, update

EXPECTED = ROOT / "results" / "steps.json"  # every step with three seeds, by results/steps.py


@dataclass(frozen=True)
class Config:
    """The options of a step."""

    data: str = "playlets"  # playlets (built in), shakespeare, or the path of a text file
    smoke: bool = False  # seconds, not minutes: does it run at all? What takes training is then not judged
    seed: int = 0  # of everything random
    device: str = "auto"  # auto (a GPU of CUDA if there is one), cpu, cuda
    broken: Annotated[str | None, tyro.conf.arg(name="break")] = None  # run a variant with a known bug (see above)
    out: Path | None = None  # folder for the figure and the numbers


class Claim(NamedTuple):
    what: str
    found: str
    holds: bool | None  # None: too short a training to say
    expected: bool  # False: this --break is there to break it


class Lesson:
    """One run of one step.

    lesson = Lesson("step0_masking", cfg, BREAKS)      BREAKS: name of a bug -> what was to be seen
    lesson.predict("masks at t = 0.5", "75.0 ± 7.3")   before it is measured
    lesson.number("masks", 74.2, "masks at t = 0.5")   kept, and compared with what others measured
    lesson.claim("the count is binomial", ok, "74.2", broken_by="reseed")
    lesson.close()
    """

    def __init__(self, name: str, cfg: Config, breaks: dict[str, str]):
        self.name, self.cfg, self.breaks = name, cfg, breaks
        self.start = time.perf_counter()
        self.claims: list[Claim] = []
        self.numbers: dict[str, dict] = {}
        self.broken = None if cfg.broken is None else one_of(cfg.broken, breaks, "break")
        self.device = pick_device(cfg.device)
        variant = f", broken: {self.broken}" if self.broken else ""
        console.print(Rule(f"{name}   [dim]{cfg.data}, seed {cfg.seed}{variant}{', smoke' * cfg.smoke}", align="left"))

    def say(self, *things) -> None:
        """A paragraph, a table, coloured text: whatever rich prints."""
        console.print(*things)

    def predict(self, what: str, value: str) -> None:
        console.print(Text.assemble("  predicted  ", (f"{what}: {value}", "bold")))

    def number(self, name: str, value: float, label: str) -> None:
        """A measured number; `label` says what it is, with its unit."""
        self.numbers[name] = {"value": float(value), "label": label}

    def claim(self, what: str, holds: bool, found: str, broken_by: str = "", trained: bool = False) -> None:
        """`found` is what was measured, for people. `broken_by` names the breaks, separated by spaces, that make it
        false. `trained`: a model that was trained for seconds only cannot be held to it."""
        judged = None if trained and self.cfg.smoke else bool(holds)
        self.claims.append(Claim(what, found, judged, self.broken not in broken_by.split()))

    def path(self, suffix: str) -> Path:
        """Where a figure or the numbers of this run belong. The figure of the run that everybody makes first goes to
        results/figures, every other file to runs/steps."""
        cfg = self.cfg
        if suffix == ".png" and (cfg.data, cfg.seed, cfg.smoke, cfg.broken, cfg.out) == (
            "playlets",
            0,
            False,
            None,
            None,
        ):
            return ROOT / "results" / "figures" / f"{self.name}.png"
        marks = [Path(cfg.data).stem, str(cfg.seed), *filter(None, [cfg.broken, "smoke" * cfg.smoke])]
        return (cfg.out or ROOT / "runs" / "steps") / f"{self.name}-{'-'.join(marks)}{suffix}"

    def close(self) -> None:
        """Print the card and the verdict, keep the numbers; exit code 1 if a claim is not as it should be."""
        seconds = time.perf_counter() - self.start
        self.card(seconds)
        self.verdict()
        path, claims = self.path(".json"), [c._asdict() for c in self.claims]
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"data": self.cfg.data, "seed": self.cfg.seed, "smoke": self.cfg.smoke, "break": self.broken}
        found = {"numbers": self.numbers, "claims": claims, "seconds": seconds, "made_by": provenance()}
        write_json(path, {"step": self.name, **options, **found})
        wrong = [c for c in self.claims if c.holds is not None and c.holds != c.expected]
        if self.broken and not wrong:
            console.print(Text.assemble(("what was to be seen  ", "bold"), self.breaks[self.broken]))
        for c in wrong:
            what = "fails" if c.expected else f"still holds, although --break {self.broken} should break it"
            print(f"{self.name}: {what}: {c.what} ({c.found})", file=sys.stderr)
        if wrong:
            sys.exit(1)

    def verdict(self) -> None:
        marks = {True: ("✓ holds", "bold"), False: ("✗ does not hold", "bold"), None: ("– not judged", "dim")}
        t = Table.grid(padding=(0, 2))
        for c in self.claims:
            word, style = marks[c.holds]
            t.add_row(Text(word, style), Text.assemble(c.what, (f"  {c.found}", "dim")))
        console.print(Rule("claims", align="left"), t)

    def card(self, seconds: float) -> None:
        """What others measured (three seeds, results/steps.json) beside this run."""
        known = expected(self.name) if self.cfg.data == "playlets" else {}
        numbers = known.get("numbers", {})
        t = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("", "this run", "expect"):
            t.add_column(title, justify="right" if title else "left")
        for name, n in self.numbers.items():
            e = numbers.get(name)
            t.add_row(n["label"], f"{n['value']:.4g}", f"{e['mean']:.4g} ± {e['sd']:.2g}" if e else "")
        t.add_row("seconds", f"{seconds:.0f}", f"{known['seconds']:.0f}" if known else "")
        if known:
            t.caption = f"expect: mean ± standard deviation of seeds {known['seeds']}, {known['made_by']['device']}"
        console.print(t)


def expected(name: str) -> dict:
    """What results/steps.json says of a step; nothing where it says nothing."""
    try:
        return json.loads(EXPECTED.read_text(encoding="utf-8"))["steps"].get(name, {})
    except (OSError, ValueError, KeyError):
        return {}


def fit(
    model: nn.Module, how: TrainConfig, loss: Callable, batch: Callable[..., Tensor], device: str, title: str
) -> list[float]:
    """Train without a folder, behind a progress bar; step 1 teaches the loop, diffusion.py has the careful one.

    `loss(model, x_0, rng)` is a scalar, `batch(B, L, rng)` gives x_0. Returns the loss of every step.
    """
    state, losses, L = State(model, how, device), [], model.cfg.seq_len
    for _ in track(range(how.steps), title, console=console, transient=True):
        losses.append(update(state, how, loss, batch(how.batch_size, L, state.rng).to(device))[0])
    model.eval()
    return losses
