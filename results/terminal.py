"""The race as real terminals show it: screens of tmux at three sizes, the GIF of the README, and what drawing costs.

python results/terminal.py            a minute; needs tmux; writes results/terminal/ and results/terminal.json
"""

import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from microdlm import cli
from microdlm.errors import UserError
from microdlm.player import Player, play
from microdlm.recording import load_recording
from microdlm.runs import ROOT, provenance, write_json
from microdlm.terminal import console

SIZES = ((80, 24), (120, 40), (60, 20))
SCREENS = {  # name: what is asked for
    "race": ("race",),
    "infill": ("infill", "ROMEO: ____ love {9}, and ____ death."),
    "compare": ("compare", "--sampler", "confidence", "remask"),
    "heat": ("one", "--heat"),
}


@dataclass(frozen=True)
class Config:
    folder: Path = ROOT / "results" / "terminal"
    out: Path = ROOT / "results" / "terminal.json"


def tmux(server: str, *args: str) -> str:
    return subprocess.run(["tmux", "-L", server, *args], capture_output=True, text=True).stdout


def screens(command: list[str], width: int, height: int) -> tuple[str, str]:
    """What stands on a terminal of this size half way, and when it is over."""
    server = f"microdlm-{os.getpid()}-{time.monotonic_ns()}"
    shell = "PS1= bash --norc --noprofile"
    tmux(server, "-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), shell)
    tmux(server, "send-keys", f"clear; {shlex.join(command)}; echo over", "Enter")
    during, before = "", time.monotonic()
    while not re.search(r"^over$", now := tmux(server, "capture-pane", "-p"), re.MULTILINE):
        shares = re.findall(r" (\d+)% ", now) if "q quit" in now else []  # not those of the bars that come before
        half = any(35 <= int(share) <= 75 for share in shares)
        during = now if half and not during else during
        if time.monotonic() - before > 120:
            raise UserError(f"{shlex.join(command)} was not over after two minutes")
        time.sleep(0.3)
    tmux(server, "kill-server")
    return during, now.replace("\nover\n", "\n")


def share_of_drawing(recording, width: int, height: int) -> float:
    """The race in a pseudo-terminal that somebody reads: which share of the time goes into drawing and writing."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (height, width))
    reader = threading.Thread(target=drain, args=(ours,), daemon=True)
    reader.start()
    with os.fdopen(its, "w") as file:
        share = play(Player(recording), Console(file=file, force_terminal=True, width=width, height=height))
    return share


def drain(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            pass
    except OSError:  # the other end is closed
        pass


def main(cfg: Config) -> None:
    if shutil.which("tmux") is None:
        raise UserError("there is no tmux here: install it (apt install tmux, brew install tmux)")
    cfg.folder.mkdir(exist_ok=True)
    python, saved = [sys.executable, str(ROOT / "visualize.py")], cfg.folder / "race.json"
    subprocess.run([*python, "--no-animate", "--save", str(saved)], check=True, stdout=subprocess.DEVNULL)
    recording, shares = load_recording(saved), {}
    gif = ["replay", str(saved), "--no-animate", "--save", str(cfg.folder / "race.gif")]
    subprocess.run([*python, *gif], check=True, stdout=subprocess.DEVNULL)
    for width, height in track(SIZES, "playing", console=console, transient=True):
        shares[f"{width}x{height}"] = share_of_drawing(recording, width, height)
        for name, what in SCREENS.items():
            during, after = screens([*python, *what], width, height)
            for moment, screen in (("during", during), ("after", after)):
                text = "\n".join(line.rstrip() for line in screen.splitlines()).strip("\n")
                (cfg.folder / f"{name}-{width}x{height}-{moment}.txt").write_text(text + "\n", encoding="utf-8")
    saved.unlink()
    numbers = {"seed": recording.seed, "share_of_time_drawing": shares, "made_by": provenance()}
    write_json(cfg.out, numbers)
    console.print(shares)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
