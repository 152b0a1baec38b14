"""What `plan` and `status` show of the runs: how far they are, what they cost, what a cluster makes of them."""

from pathlib import Path

from rich import box
from rich.table import Table

from microdlm.errors import UserError
from study.cluster import ticket
from study.costs import device_hours, device_speed, devices, parameters, progress, score, silence, speed, utilisation
from study.grid import Job


def table(*names: str) -> Table:
    """Only the first and the last column may be folded."""
    board = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in names:
        board.add_column(name, overflow="fold", no_wrap=name not in (names[0], names[-1]))
    return board


def plan(todo: list[Job], out: Path) -> Table:
    board = table("run", "steps", "score")
    for job in todo:
        board.add_row(job.folder(out).name, *progress(job, out))
    return board


def bill(todo: list[Job], out: Path, given: float | None) -> str:
    """What the runs cost at so many tokens a second and device; none given: at what was measured here."""
    if given is not None and not given > 0:
        raise UserError(f"tokens_per_second is {given}: it must be above 0")
    rate = given or device_speed(todo, out)
    if rate is None:
        return "Nothing has run here: with --tokens-per-second this also says how many hours it takes."
    every, left = map(sum, zip(*(device_hours(job, out, rate) for job in todo), strict=True))
    return (
        f"At {rate:,.0f} tokens a second and device, {'as given' if given else 'as measured here'}: "
        f"{every / len(todo):,.2f} device hours a run, {every:,.1f} for all {len(todo)}, {left:,.1f} of them still to "
        "go. Training only."
    )


def status(todo: list[Job], states: dict[Job, str], out: Path, peak: float) -> Table:
    """`states`: of each run, and in a second word why it waits; `peak`: operations a second of one device, for MFU."""
    done = f"of {todo[0].how.steps:,}"
    board = table("run", "state", "job", done, "last", "tokens/s", "MFU", "hours", "score, or why not")
    for job in todo:
        now, _, why = states[job].partition(" ")
        board.add_row(job.folder(out).name, now, *numbers(job, out, peak), score(job, out) or why)
    return board


def numbers(job: Job, out: Path, peak: float) -> list[str]:
    """Of its job, steps, how long ago the last was, tokens a second, MFU, hours left."""
    steps, rate, left = speed(job, out)
    shown = [ticket(job, out).get("id", ""), f"{steps:,}", silence(job, out)]
    if rate is None:
        return [*shown, "", "", ""]
    mfu = utilisation(rate, parameters(job, out), peak * devices(job, out))
    return [*shown, f"{rate:,.0f}", f"{mfu:.1%}", f"{left:.1f}"]
