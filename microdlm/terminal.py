"""What the terminal shows: training as it goes, text as it appears. Colours mean what they mean in the figures."""

import math
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxtyping import Int
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from torch import Tensor

from microdlm.colours import COLOURS
from microdlm.corpus import Corpus
from microdlm.errors import UserError
from microdlm.training import Record

STYLES = {  # for rich
    **{name: COLOURS[name] for name in ("diffusion", "gpt")},
    "exact": "bold",
    "new": f"bold {COLOURS['new']}",  # just revealed
    "masked": "dim",
}
NEWLINE = "↵"
VISUALIZE = Path(__file__).resolve().parents[1] / "visualize.py"
console = Console(highlight=False)


def training_screen(records: Iterable[Record], title: str, steps: int, corpus: Corpus) -> Iterator[Record]:
    """Pass the records on, and show them: a live panel in a terminal, a line a validation elsewhere."""
    board = Board(title, steps, corpus.chars_per_token, corpus.entropy_rate)
    with Live(console=console, refresh_per_second=5, transient=False, auto_refresh=False) as live:
        for record in records:
            board.add(record)
            if console.is_terminal:
                live.update(board, refresh=board.is_time())
            elif record.val is not None:
                console.print(board.line(), soft_wrap=True)
            yield record
        if console.is_terminal:
            live.update(board, refresh=True)


class Board:
    """The numbers of one training run, as rich draws them."""

    def __init__(self, title: str, steps: int, chars_per_token: float, entropy: float | None):
        self.title, self.chars_per_token, self.entropy = title, chars_per_token, entropy
        self.loss = self.speed = self.val = self.stderr = math.nan
        self.drawn = 0.0
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self.task = self.bar.add_task(title, total=steps)

    def add(self, record: Record) -> None:
        """Averages forget with a half-life of about fifteen steps: a batch is noisy, a trend is not."""
        tokens = record.tokens / record.step
        per_char, speed = record.loss / self.chars_per_token, tokens / record.seconds
        blend = 0.95 if self.loss == self.loss else 0.0
        self.loss = blend * self.loss + (1 - blend) * per_char if blend else per_char
        self.speed = blend * self.speed + (1 - blend) * speed if blend else speed
        if record.val is not None:
            self.val, self.stderr = (
                record.val / self.chars_per_token,
                record.val_stderr / self.chars_per_token,
            )
        self.step = record.step
        self.bar.update(self.task, completed=record.step)

    def is_time(self) -> bool:
        """At most five drawings a second: drawing must not cost training."""
        now = self.bar.get_time()
        due = now - self.drawn > 0.2
        self.drawn = now if due else self.drawn
        return due

    def fields(self) -> dict[str, str]:
        held_out = "not yet measured" if math.isnan(self.val) else f"{self.val:.3f} ± {self.stderr:.3f} nats/char"
        fields = {"loss": f"{self.loss:.3f} nats/char", "held-out": held_out}
        if self.entropy is not None and not math.isnan(self.val):
            fields["above the exact entropy"] = f"{self.val - self.entropy:.3f}"
        return fields | {"speed": f"{self.speed:,.0f} tokens/s"}

    def line(self) -> str:
        return f"{self.title}  step {self.step}  " + "  ".join(f"{k} {v}" for k, v in self.fields().items())

    def __rich__(self) -> Group:
        row = Text("   ".join(f"{name} {value}" for name, value in self.fields().items()), style="default")
        return Group(self.bar, row)


def coloured(x: list[int], before: list[int] | None, tokenizer, width: int) -> Text:
    """One state of one text, cut into lines of `width`: MASKs as dim dots, what was just revealed bold and green,
    newlines as an arrow."""
    text = Text()
    for i, token in enumerate(x):
        masked, new = token == tokenizer.mask_id, before is not None and before[i] != token
        style = STYLES["masked"] if masked else STYLES["new"] if new else ""
        text.append(tokenizer.decode([token]).replace("\n", NEWLINE), style)
    return Text("\n").join(text[i : i + width] for i in range(0, len(text), width))


def writing_screen(
    states: Iterable[Int[Tensor, "B L"]], start: Int[Tensor, "B L"], tokenizer, title: str, frames: int = 8
) -> None:
    """Show the first text of the batch appear, at about `frames` moments evenly spread, and then as it reads."""
    seen = [x[0].tolist() for x in (start, *states)]
    last = len(seen) - 1
    shown = sorted({round(i * last / frames) for i in range(frames + 1)})
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    for previous, i in zip([None, *shown], shown, strict=False):
        before = None if previous is None else seen[previous]
        table.add_row(f"{i}/{last}", coloured(seen[i], before, tokenizer, max(20, console.width - 12)))
    console.print(Text(f"\n{title}, after so many of {last} steps", style="bold"), table)
    console.print(Text(tokenizer.decode(until_end(seen[0], seen[-1], tokenizer))))


def glimpse(states: Iterable[Int[Tensor, "B L"]], start: Int[Tensor, "B L"], tokenizer) -> None:
    """The first text of the batch when it is done, as much of it as fits a line."""
    *_, x = (start, *states)
    text = tokenizer.decode(until_end(start[0].tolist(), x[0].tolist(), tokenizer)).strip().replace("\n", NEWLINE)
    console.print(Text(text, style="dim"), no_wrap=True, overflow="ellipsis")


def until_end(start: list[int], x: list[int], tokenizer) -> list[int]:
    """x up to the first END that was written, not given."""
    over = (tokenizer.mask_id, tokenizer.end_id)
    return x[: next((i for i, pair in enumerate(zip(start, x, strict=True)) if pair == over), len(x))]


def film(folder: Path, prompt: str, now: bool) -> None:
    """A GIF of the model in `folder` as it writes, beside it: made now, or said how."""
    words = ["one", "--model", str(folder), "--prompt", prompt, "--save", str(folder / "writing.gif")]
    if not now:
        console.print(f"To see it write, as a film: python visualize.py {shlex.join(words)}", soft_wrap=True)
        return
    with console.status("making a film"):
        done = subprocess.run([sys.executable, VISUALIZE, *words, "--no-animate"], capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{folder} is whole, but its film was not made: {why[-1]}")
