"""What each lane of a recording has cost, and who won by which measure."""

from collections.abc import Callable, Sequence

from rich.table import Table
from rich.text import Text

from microdlm.moments import Moment
from microdlm.recording import Lane, Recording
from microdlm.terminal import STYLES

WIDE, NARROW = ("passes", "tokens read", "seconds", "chars/s", "nats/char"), ("passes", "read", "s", "c/s", "nats")


def table(moments: Sequence[Moment], wide: bool = True) -> Table:
    """What each lane has cost so far."""
    t = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    one_line = {"no_wrap": True, "overflow": "ellipsis"}  # the screen counts on it; a name gives way, a number never
    t.add_column(Text("so far", **one_line), header_style="dim")
    for name in WIDE if wide else NARROW:
        t.add_column(name, justify="right", no_wrap=True, header_style="dim")
    for m in moments:
        speed = f"{m.characters / m.step.seconds:,.0f}" if m.step.seconds else ""
        nats = f"{m.lane.judge['nats_per_char']:.2f}" if m.done and m.lane.judge else ""
        cost = f"{m.step.passes:,}", f"{m.step.read:,}", f"{m.step.seconds:.3f}"
        t.add_row(Text(m.lane.name, style=f"bold {STYLES[m.lane.kind]}", **one_line), *cost, speed, nats)
    return t


MEASURES: dict[str, tuple[Callable[[Lane], float | None], str]] = {
    "Fewest forward passes": (lambda lane: lane.steps[-1].passes, ",d"),
    "Fewest tokens read": (lambda lane: lane.steps[-1].read, ",d"),
    "Least time": (lambda lane: lane.steps[-1].seconds, ".3f"),
    "Likeliest text": (lambda lane: lane.judge and lane.judge["nats_per_char"], ".2f"),
}


def verdict(recording: Recording) -> list[Text]:
    """Who won, measure by measure; for the likelihood, by whose judgement."""
    found = []
    for measure, (value, form) in MEASURES.items():
        of = sorted(((v, lane) for lane in recording.lanes if (v := value(lane)) is not None), key=lambda pair: pair[0])
        if len(of) < 2:
            continue
        best = [lane for v, lane in of if f"{v:{form}}" == f"{of[0][0]:{form}}"]  # by a digit that shows, or alike
        won, others = Text(f"{measure}: "), ", ".join(f"{v:{form}}" for v, _ in of[len(best) :])
        names = [Text(lane.name, f"bold {STYLES[lane.kind]}") for lane in best]
        won.append_text(Text(" and ").join(names) if others else Text("all alike"))
        won.append(f", {of[0][0]:{form}}" + f" against {others}" * bool(others))
        found.append(won)
    return found + judgement(recording)


def judgement(recording: Recording) -> list[Text]:
    """What the last column means."""
    judge = next((lane.judge for lane in recording.lanes if lane.judge), None)
    if judge is None:
        return []
    real = f" (held-out text: {judge['held_out']:.2f})" if judge["held_out"] else ""
    return [Text(f"nats/char as {judge['model']} sees it{real}; dull text is likely too", style="dim")]
