"""How a recording looks in a terminal: lanes side by side, and below them what each has cost so far.

Nothing rests on colour alone. A MASK is a dim dot, what was given is bold, what has just appeared bold, underlined and
green, what was masked again a purple cross.
"""

from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from microdlm.colours import COLOURS
from microdlm.moments import Moment, moment
from microdlm.recording import Recording
from microdlm.score import table, verdict
from microdlm.terminal import NEWLINE, STYLES

BLANK, CROSS = "·", "×"
GIVEN, AGAIN = "bold", f"bold {COLOURS['remasked']}"
NEW = f"{STYLES['new']} underline"
# With --heat: how a token looks that the model held less probable than this when it chose it.
HEAT = [(0.1, "black on #E69F00 underline"), (0.3, "black on #F2CC7F underline"), (0.6, "black on #FAEBD0")]


def shown(token: str) -> str:
    """A token as it may be put on a screen: no line breaks, and nothing that a terminal would obey."""
    return "".join(NEWLINE if c == "\n" else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in token)


def cell(m: Moment, i: int, heat: bool) -> tuple[str, str]:
    """What stands at position i, and its style."""
    token, given, new = m.text[i], m.lane.start[i] is not None, i in m.changed
    if token is None:
        return (CROSS, AGAIN) if new else (BLANK, STYLES["masked"])
    if given:
        return shown(token), GIVEN
    if heat and m.p[i] is not None:
        return shown(token), next((style for below, style in HEAT if m.p[i] < below), "bold" if new else "")
    return shown(token), NEW if new else ""


def lines(m: Moment, width: int, heat: bool) -> tuple[list[Text], int]:
    """The text cut into lines of `width` cells, and the line where something changed last."""
    rows, used, latest = [Text()], 0, 0
    for i in range(len(m.text)):
        glyphs, style = cell(m, i, heat)
        for glyph in glyphs:  # a token may be longer than a line
            if used + cell_len(glyph) > width and used:
                rows.append(Text())
                used = 0
            rows[-1].append(glyph, style)
            used += cell_len(glyph)
        latest = len(rows) - 1 if i in m.changed else latest
    return rows, latest


def panel(m: Moment, width: int, height: int, heat: bool) -> Panel:
    """One lane, `height` lines of it: all, or those around what changes, and how many are above and below."""
    rows, here = lines(m, width - 4, heat)
    top = max(0, min(here - height // 2, len(rows) - height))
    above, below = top, max(0, len(rows) - top - height)
    more = f" lines: {above} above, {below} below " if above or below else ""
    share = sum(token is not None for token in m.text) / len(m.text)
    return Panel(
        Text("\n").join(rows[top : top + height]),
        title=Text(f" {m.lane.name} ", style=f"bold {STYLES[m.lane.kind]}"),
        subtitle=Text(more or (" done " if m.done else f" {share:.0%} "), style="dim"),
        border_style=STYLES[m.lane.kind],
        box=box.HEAVY if m.lane.kind == "diffusion" else box.ROUNDED,
        width=width,
        height=height + 2,
    )


def legend(heat: bool) -> Text:
    words = [("given", GIVEN), ("new", NEW), (f"masked {BLANK}", STYLES["masked"]), (f"masked again {CROSS}", AGAIN)]
    words += [(f"p < {below}", style) for below, style in HEAT] if heat else []
    text = Text()
    for word, style in words:
        text.append(word, style).append("  ")
    return text


def headline(recording: Recording, pace: str) -> Text:
    """The settings of all lanes, and how the clock runs."""
    sizes = f"{recording.length} tokens", f"temperature {recording.temperature:g}", f"seed {recording.seed}"
    words = [*sizes, *([pace] if pace else []), shown(recording.prompt)]
    return Text("   ".join(words), style="dim", no_wrap=True, overflow="ellipsis")


def tall(texts: list[Text], console: Console, options) -> int:
    return sum(len(console.render_lines(text, options)) for text in texts)


def fitting(texts: list[Text], height: int, console: Console, options) -> list[Text]:
    """The first of them, as many as have room. While a race is played, that is: afterwards all of them are printed."""
    while texts and tall(texts, console, options) > height:
        texts = texts[:-1]
    return texts


@dataclass(frozen=True)
class Stage:
    """A recording at one moment, as large as the window it is in."""

    recording: Recording
    clock: str = "own"
    time: float | int = float("inf")
    fresh: float = 0.0
    pace: str = ""  # how the clock runs, in words
    heat: bool = False
    keys: str = ""
    height: int | None = None

    def __rich_console__(self, console: Console, options) -> list[RenderableType]:
        width, lanes = options.max_width, self.recording.lanes
        moments = [moment(lane, self.clock, self.time, self.fresh) for lane in lanes]
        over = all(m.done for m in moments)
        below = verdict(self.recording) if over else [legend(self.heat)]
        keys = [Text(self.keys, style="dim", no_wrap=True, overflow="ellipsis")] if self.keys else []
        side_by_side = [lane.kind for lane in lanes] in (["diffusion", "gpt"], ["gpt", "diffusion"]) and width >= 56
        each = width // 2 if side_by_side else width
        text = max(len(lines(m, each - 4, self.heat)[0]) for m in moments)
        if self.height is not None:  # what is left for the text, when all else has its lines
            floors = 1 if side_by_side else len(lanes)
            rest = self.height - 2 - len(lanes) - len(keys)
            below = fitting(below, rest - 3 * floors, console, options)
            text = min(text, max(1, (rest - tall(below, console, options)) // floors - 2))
        panels = [panel(m, each, text, self.heat) for m in moments]
        grid = Table.grid()
        if side_by_side:
            grid.add_row(*panels)
        else:
            for p in panels:
                grid.add_row(p)
        return [headline(self.recording, self.pace), grid, table(moments, width >= 72), *below, *keys]
