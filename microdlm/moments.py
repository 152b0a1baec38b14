"""A recording at one moment of its time: what stands there, and what has just changed."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from microdlm.recording import Lane, Recording, Step

# What a lane's time is: seconds that were measured, or forward passes.
CLOCKS: dict[str, Callable[[Step], float | int]] = {
    "own": lambda step: step.seconds,
    "passes": lambda step: step.passes,
}


@dataclass(frozen=True)
class Moment:
    """One lane at one moment of its time."""

    lane: Lane
    text: list[str | None]
    p: list[float | None]
    changed: set[int]  # positions that changed a moment ago
    step: Step  # the last one made
    done: bool

    @property
    def characters(self) -> int:
        """How many have been written."""
        return sum(len(token or "") for token, given in zip(self.text, self.lane.start, strict=True) if given is None)


def moment(lane: Lane, clock: str, time: float | int, fresh: float | int = 0.0) -> Moment:
    """The lane at `time`; what changed in the last `fresh` of it (and always the last step) is new."""
    times = [CLOCKS[clock](step) for step in lane.steps]
    made = bisect_right(times, time)
    before = min(bisect_right(times, time - fresh), max(0, made - 1))
    text, p = lane.state(made)
    changed = {at for step in lane.steps[before:made] for at in step.at}
    step = lane.steps[made - 1] if made else Step(0.0, 0, 0, [], [], [])
    done = made == len(lane.steps)
    return Moment(lane, text, p, changed if not done or time - times[-1] < fresh else set(), step, done)


def ends(recording: Recording, clock: str) -> float | int:
    """When the last lane is done."""
    return max(CLOCKS[clock](lane.steps[-1]) for lane in recording.lanes)


def instants(recording: Recording, clock: str) -> list[float | int]:
    """Every time at which something happens."""
    return sorted({0.0, *(CLOCKS[clock](step) for lane in recording.lanes for step in lane.steps)})
