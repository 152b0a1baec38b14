"""Play a recording in a terminal: a clock, some keys, and a screen that is given back as it was found."""

import os
import re
import select
import signal
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live

from microdlm.moments import ends, instants
from microdlm.recording import Recording
from microdlm.screen import Stage

try:
    import termios
except ImportError:  # Windows: it plays, without keys
    termios = None

SECONDS = 8.0  # how long the slowest lane takes at speed 1
KEYS = "space pause  ←/→ step  +/- speed  q quit"
NAMES = {b" ": "pause", b"\x1b[C": "forward", b"\x1b[D": "back", b"+": "faster", b"-": "slower", b"q": "quit"}
KEY = re.compile(rb"\x1b\[[A-D]|.")
SHARE = 0.05  # of the time, at most, is spent on drawing; but a frame a second is drawn, a stalled terminal or not


@dataclass
class Player:
    """Where we are in a recording, and how fast we go."""

    recording: Recording
    clock: str = "own"
    speed: float = 1.0
    heat: bool = False
    time: float | int = 0.0  # of the recording: seconds or passes
    playing: bool = True
    asked: bool = field(default=False)  # whether somebody used a key: then the end waits for q

    def __post_init__(self):
        self.end, self.instants = ends(self.recording, self.clock), instants(self.recording, self.clock)

    @property
    def rate(self) -> float:
        """Recorded time that passes in a second. Where there was nothing to write, any will do."""
        return self.speed * (self.end or 1.0) / SECONDS

    def tick(self, seconds: float) -> None:
        if self.playing:
            self.time = min(self.end, self.time + seconds * self.rate)

    def press(self, key: str) -> None:
        """pause, forward, back, faster, slower."""
        self.asked = True
        if key in ("forward", "back"):
            self.playing = False
            after, here = bisect_right(self.instants, self.time), bisect_left(self.instants, self.time)
            self.time = self.instants[min(after, len(self.instants) - 1) if key == "forward" else max(0, here - 1)]
        elif key == "pause":
            if self.time >= self.end:
                self.time, self.playing = 0.0, False  # again from the start
            self.playing = not self.playing
        elif key in ("faster", "slower"):
            self.speed = min(64.0, max(1 / 64, self.speed * (1.5 if key == "faster" else 1 / 1.5)))

    @property
    def over(self) -> bool:
        return self.time >= self.end and not self.asked

    def stage(self, height: int | None = None, keys: str = "") -> Stage:
        pace = {"own": f"slowed {1 / self.rate:,.1f} ×", "passes": f"{self.rate:,.0f} passes a second"}[self.clock]
        fresh = 0.3 * self.rate if self.playing else 0.0
        return Stage(self.recording, self.clock, self.time, fresh, pace, self.heat, keys, height)


def play(player: Player, console: Console) -> float:
    """Until the end, or until q. Returns the share of the time that went into drawing."""
    with tidy_end(), keyboard() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        began = last = time.perf_counter()
        drawing, due = 0.0, began
        while not player.over:
            now = time.perf_counter()
            player.tick(now - last)
            last = now
            if now >= due:
                live.update(player.stage(console.height, KEYS), refresh=True)
                took = time.perf_counter() - now
                drawing, due = drawing + took, now + min(1.0, max(1 / 20, took / SHARE))
            pressed = keys(max(0.0, due - time.perf_counter()))
            if "quit" in pressed:
                break
            for key in pressed:
                player.press(key)
        else:
            keys(1.5)  # the finish line stands for a moment
        return drawing / (time.perf_counter() - began)


@contextmanager
def tidy_end() -> Iterator[None]:
    """Told to end, we do so as after an exception: whoever changed the terminal puts it back."""
    told = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    handlers = {s: signal.signal(s, lambda number, frame: sys.exit(128 + number)) for s in told}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def keyboard() -> Iterator[Callable[[float], list[str]]]:
    """A function that waits so many seconds for keys and names them. The terminal is as before afterwards."""
    if termios is None or not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds) or []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    raw = [*before[:3], before[3] & ~(termios.ICANON | termios.ECHO), *before[4:6], list(before[6])]
    raw[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the terminal to the shell as it is

    def wait(seconds: float) -> list[str]:
        ready, _, _ = select.select([fd], [], [], seconds)
        pressed = KEY.findall(os.read(fd, 64)) if ready else []
        return [NAMES[key] for key in pressed if key in NAMES]

    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, raw)
        yield wait
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
