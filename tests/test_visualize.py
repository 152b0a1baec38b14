"""The race as people see it: the right state at each moment, in any window, and a terminal given back as it was."""

import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from itertools import pairwise, permutations
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from microdlm import cli
from microdlm import terminal as prints
from microdlm.errors import UserError
from microdlm.moments import CLOCKS, ends, instants, moment
from microdlm.player import SECONDS, Player, play
from microdlm.recording import Lane, Recording, Step, load_recording
from microdlm.runs import ROOT, write_json, write_tensors
from microdlm.score import table, verdict
from microdlm.screen import AGAIN, GIVEN, NEW, Stage, cell, lines, panel, shown
from microdlm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("\n abcdefgh")
SGR = re.compile(r"\x1b\[[0-9;]*m")  # a change of style: nothing else may reach the terminal from a picture
VERSE = "to be or not to be, that is the question:\n"


def told(text, kind="diffusion", name="", given=3, parts=6, pace=0.125, nats=1.25, passes=1) -> Lane:
    """A lane that wrote `text` (its tokens) in `parts` steps, each of which opens every parts-th MASK."""
    start = [token if i < given else None for i, token in enumerate(text)]
    steps = []
    for j in range(1, parts + 1):
        at = list(range(given + j - 1, len(text), parts))
        to, p = [text[i] for i in at], [(i % 10) / 10 for i in at]
        steps.append(Step(j * pace, j * passes, j * passes * len(text), at, to, p))
    judge = {"model": "a-judge", "nats_per_char": nats, "held_out": 1.45}
    return Lane(
        name or {"gpt": "GPT"}.get(kind, "diffusion, confidence"), kind, "m", 7, "s", parts, start, steps, judge
    )


def scene(*lanes: Lane) -> Recording:
    return Recording("to ", max(len(lane.start) for lane in lanes), 0.8, 0, list(lanes), {})


def race(text=VERSE * 4) -> Recording:
    return scene(told(text), told(text, "gpt", parts=12, pace=0.1, nats=1.5))


def revised() -> Lane:
    """Written, masked again, written otherwise; a step in which nothing happens; two steps after the same pass."""
    steps = [
        Step(0.1, 1, 4, [1, 2], ["x", "y"], [0.2, 0.9]),
        Step(0.2, 1, 4, [1], [None], [None]),
        Step(0.3, 2, 8, [], [], []),
        Step(0.4, 3, 12, [1, 3], ["b", "d"], [0.7, 0.5]),
        Step(0.6, 4, 16, [2], ["c"], [0.05]),
    ]
    return Lane("diffusion, remask", "diffusion", "m", 7, "remask", 5, ["a", None, None, None], steps)


# Moments


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("lane", [told(VERSE), told(VERSE, "gpt", passes=3), revised()], ids=lambda lane: lane.name)
def test_a_moment_is_the_state_of_all_steps_made_by_then(lane, clock):
    """Before the first step nothing, at the end everything, and time never undoes a step. Killed: a step shown before
    its time or one too late."""
    of = CLOCKS[clock]
    times = sorted({-1.0, 0.0, 1e9, *(of(s) + d for s in lane.steps for d in (-0.01, 0.0, 0.01))})
    made = [sum(of(step) <= t for step in lane.steps) for t in times]
    assert made == sorted(made) and made[0] == 0 and made[-1] == len(lane.steps)
    for t, n in zip(times, made, strict=True):
        m = moment(lane, clock, t)
        assert (m.text, m.p) == lane.state(n) and m.done == (n == len(lane.steps))
        assert m.step == (lane.steps[n - 1] if n else Step(0.0, 0, 0, [], [], []))
        assert m.characters == sum(len(a or "") for a, b in zip(m.text, lane.start, strict=True) if b is None)
    assert moment(lane, clock, -1.0).text == lane.start and None not in moment(lane, clock, 1e9).text


def test_what_is_new_is_what_changed_a_moment_ago_and_the_last_step_always():
    lane = told("abc" + "x" * 12, parts=12, pace=1.0)  # a step a second, position 2 + n in second n
    assert moment(lane, "own", 5.5).changed == {7} == moment(lane, "own", 5.5, fresh=0.1).changed
    assert moment(lane, "own", 5.5, fresh=2.0).changed == {6, 7}
    assert moment(lane, "own", 0.5, fresh=9.0).changed == set()
    assert moment(lane, "own", 12.5, fresh=1.0).changed == {14}
    assert moment(lane, "own", 12.5, fresh=0.4).changed == set() == moment(lane, "own", 12.0).changed  # it is done


def test_the_clock_of_a_race_is_that_of_its_slowest():
    recording = race()
    assert ends(recording, "own") == pytest.approx(1.2) and ends(recording, "passes") == 12
    for clock, of in CLOCKS.items():
        found = instants(recording, clock)
        assert found == sorted(found) and found[0] == 0.0 and found[-1] == ends(recording, clock)
        assert set(found) == {0.0, *(of(s) for lane in recording.lanes for s in lane.steps)}


# Score


def test_the_finish_line_names_the_smallest_of_each_measure_whatever_the_order():
    """Killed: largest for smallest, one measure's winner named for another, an order that decides."""
    a = told("abcdefgh", name="ay", parts=2, pace=0.3, nats=2.0)
    b = told("abcdefgh", "gpt", name="bee", parts=3, pace=0.1, nats=1.5)
    c = told("abcdef", name="sea", parts=2, pace=0.5, nats=1.75, passes=2)
    for order in permutations([a, b, c]):
        said = [line.plain for line in verdict(scene(*order))]
        assert said == [
            "Fewest forward passes: ay, 2 against 3, 4",
            "Fewest tokens read: ay, 16 against 24, 24",
            "Least time: bee, 0.300 against 0.600, 1.000",
            "Likeliest text: bee, 1.50 against 1.75, 2.00",
            "nats/char as a-judge sees it (held-out text: 1.45); dull text is likely too",
        ]


def test_a_tie_is_called_one_and_who_was_not_judged_does_not_win():
    a, b = told("abcdefgh", name="ay"), told("abcdefgh", name="bee", pace=0.5)
    said = [line.plain for line in verdict(scene(a, b))]
    assert said[0] == "Fewest forward passes: all alike, 6" and said[2] == "Least time: ay, 0.750 against 3.000"
    assert said[3] == "Likeliest text: all alike, 1.25"
    three = verdict(scene(a, b, told("abcdefgh", name="sea", parts=8)))
    assert three[0].plain == "Fewest forward passes: ay and bee, 6 against 8"
    unheard = [line.plain for line in verdict(scene(replace(a, judge=None), b))]
    assert not any(line.startswith("Likeliest") for line in unheard) and len(unheard) == 4
    assert [line.plain for line in verdict(scene(a))] == said[-1:]  # nobody races alone
    near = [told("abcdefgh", name=name, pace=pace) for name, pace in (("ay", 0.125), ("bee", 0.12504), ("sea", 0.126))]
    assert verdict(scene(*near[:2]))[2].plain == "Least time: all alike, 0.750"  # nobody wins by a digit that is hidden
    assert verdict(scene(*near))[2].plain == "Least time: ay and bee, 0.750 against 0.756"


def on(columns=80, rows=24, **how) -> Console:
    options = {"force_terminal": True, "color_system": "truecolor", "legacy_windows": False, "_environ": {}} | how
    return Console(width=columns, height=rows, file=io.StringIO(), **options)


def printed(what, columns=80, **how) -> str:
    console = on(columns, **how)
    console.print(what)
    return console.file.getvalue()


def test_the_table_shows_what_each_lane_has_cost_so_far():
    recording = race()
    half = SGR.sub("", printed(table([moment(lane, "own", 0.5) for lane in recording.lanes]))).splitlines()
    assert half[1].split()[-4:] == ["4", "672", "0.500", "222"]  # 111 characters in half a second
    whole = SGR.sub("", printed(table([moment(lane, "own", 9) for lane in recording.lanes]))).splitlines()
    assert whole[1].split()[-5:] == ["6", "1,008", "0.750", "220", "1.25"]
    assert whole[2].split() == ["GPT", "12", "2,016", "1.200", "137", "1.50"]
    narrow = SGR.sub("", printed(table([moment(lane, "own", 9) for lane in recording.lanes], wide=False), 40))
    rows = narrow.splitlines()  # a lane has one line, and where there is little room its name is cut, never a number
    assert len(rows) == 3 and rows[1].startswith("di") and "…" in rows[1] and rows[2].startswith("GPT")
    assert [row.split()[-5:] for row in rows[1:]] == [whole[1].split()[-5:], whole[2].split()[-5:]]
    assert rows[0].split() == ["so", "far", "passes", "read", "s", "c/s", "nats"]


# Screen

TEXTS = {
    "short": VERSE * 4,
    "long": VERSE * 24,
    "one line": "a",
    "Chinese": "漢字仮名交じり文" * 12,
    "long tokens": ["to ", " question" * 12, *("the question", "-" * 200) * 6],
    "hostile": ["a", "\x1b[2J", "\x9b31m", "\x1b]0;title\x07", "\u202e", "\t", "\r", "\u0301", "\x00", *VERSE] * 9,
}
CAST = [("diffusion", "diffusion, confidence"), ("gpt", "GPT"), ("diffusion", "forward_backward, 128 steps")]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("rows", [20, 24])
@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_stage_fits_every_window_and_a_terminal_obeys_none_of_it(columns, rows, name):
    """In the middle and at the end, for one to four lanes, with heat. Killed: a name that folds, a finish
    line that pushes the keys off the screen, wide characters counted as one cell, a control character let through."""
    text = list(TEXTS[name])
    for many, now in ((1, 9.0), (2, 0.3), (2, 9.0), (4, 9.0)):
        cast = [told(text, kind, called, 1, nats=9.99, passes=1111) for kind, called in (*CAST, CAST[1])[:many]]
        recording = replace(scene(*cast), prompt="\x1b[2J\x9b\n")
        stage = Stage(recording, "own", now, 0.1, "slowed 14.2 ×", now == 0.3, "space pause  q quit", rows)
        screen = SGR.sub("", printed(stage, columns)).split("\n")
        assert screen.pop() == "" and len(screen) <= rows
        assert max(map(cell_len, screen)) <= columns
        assert all(line.isprintable() for line in screen)
        assert screen[-1] == "space pause  q quit" and screen[0].startswith(f"{recording.length} tokens")


@settings(max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.text(max_size=9), st.sampled_from(["漢", "e\u0301", "\x1b[2J"])), min_size=1),
    st.integers(2, 12),
)
def test_no_character_is_lost_where_lines_are_cut(tokens, width):
    """Joined again, the lines are the text, and none is too wide. Killed: a token longer than a line, cut short."""
    lane = Lane("one", "diffusion", "m", 1, "s", 1, tokens, [Step(1.0, 1, 1, [], [], [])])
    rows, _ = lines(moment(lane, "own", 1.0), width, False)
    assert "".join(row.plain for row in rows) == "".join("·" if t is None else shown(t) for t in tokens)
    assert all(cell_len(row.plain) <= width and row.plain.isprintable() for row in rows)


def test_a_small_panel_follows_what_changes_and_says_what_it_hides():
    text = list("." * 4000)
    at = [10, 1000, 2500, 3999]
    steps = [Step(i + 1.0, i + 1, 1, [place], ["Z"], [0.5]) for i, place in enumerate(at)]
    lane = Lane("one", "diffusion", "m", 1, "s", 4, [None if i in at else c for i, c in enumerate(text)], steps)
    for i in range(3):
        seen = SGR.sub("", printed(panel(moment(lane, "own", i + 1.0), 44, 6, False)))
        above, below = map(int, re.search(r"lines: (\d+) above, (\d+) below", seen).groups())
        assert "Z" in seen and above + 6 + below == 100 and above <= at[i] // 40 < above + 6


def test_a_character_looks_like_what_it_is():
    """Given, new, old, masked, masked again; with heat, how unsure the model was, in four steps."""
    lane = revised()
    m = moment(lane, "own", 0.2)  # x was masked again, y stands, d is not yet there
    assert [cell(m, i, False) for i in range(4)] == [("a", GIVEN), ("×", AGAIN), ("y", ""), ("·", "dim")]
    assert cell(moment(lane, "own", 0.1), 1, False) == ("x", NEW) == ("x", NEW)
    styles = [cell(replace(m, p=[None, None, p, None]), 2, True)[1] for p in (0.05, 0.2, 0.5, 0.95)]
    assert len(set(styles)) == 4 and styles[3] == "" and cell(m, 0, True) == ("a", GIVEN)
    assert "underline" in NEW and "bold" in NEW and "bold" in GIVEN and "×" not in ("·", "a")


def codes(text: str) -> set[str]:
    return {code for found in SGR.findall(text) for code in found[2:-1].split(";")}


def test_without_colour_every_mark_remains():
    """NO_COLOR: bold, underlined and dim, dots and crosses, and not one colour."""
    stage = Stage(scene(revised(), told("abcd", "gpt")), "own", 0.2)
    plain, coloured = printed(stage, _environ={"NO_COLOR": "1"}), printed(stage)
    assert codes(plain) <= {"0", "1", "2", "4"} and {"1", "2"} <= codes(plain) and "38" in codes(coloured)
    assert SGR.sub("", plain) == SGR.sub("", coloured) and "·" in plain and "×" in plain
    new = printed(Stage(scene(revised()), "own", 0.4), _environ={"NO_COLOR": "1"})
    assert re.search(r"\x1b\[1;4mb", new) and re.search(r"\x1b\[1ma", new)


# Player

KEYS = ["pause", "forward", "back", "faster", "slower", "tick"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(KEYS), max_size=40), st.sampled_from(sorted(CLOCKS)))
def test_no_keys_lead_out_of_the_recording(keys, clock):
    player = Player(race(), clock)
    for key in keys:
        before = player.time
        player.tick(0.7) if key == "tick" else player.press(key)
        assert 0.0 <= player.time <= player.end and 1 / 64 <= player.speed <= 64
        assert (
            player.over == (player.time >= player.end and set(keys[: keys.index(key) + 1]) == {"tick"}) or player.asked
        )
        if key == "tick":
            assert player.time >= before
        player.stage(24)


@pytest.mark.parametrize("clock", CLOCKS)
def test_arrows_visit_every_instant_there_and_back(clock):
    player = Player(race(), clock)
    visited = [player.time]
    for _ in player.instants[1:]:
        player.press("forward")
        visited.append(player.time)
    assert visited == player.instants and not player.playing and not player.over
    player.press("forward")
    assert player.time == player.end
    for expected in reversed(player.instants[:-1]):
        player.press("back")
        assert player.time == expected
        player.tick(5.0)  # an arrow stops the clock
        assert player.time == expected
    player.press("back")
    assert player.time == 0.0


def test_the_slowest_takes_eight_seconds_and_speed_divides_them():
    for speed in (0.25, 1.0, 4.0):
        player = Player(race(), "own", speed)
        player.tick(SECONDS / speed / 2)
        assert player.time == pytest.approx(player.end / 2)
        player.tick(SECONDS / speed / 2 + 0.01)
        assert player.time == player.end and player.over
    player = Player(race())
    for key, bound in (("faster", 64.0), ("slower", 1 / 64)):
        for _ in range(40):
            player.press(key)
        assert player.speed == bound


def test_space_stops_goes_on_and_at_the_end_starts_again():
    """Killed: at the end the first space only pauses, where nothing moves anyway."""
    player = Player(race())
    player.tick(2.0)
    here = player.time
    player.press("pause")
    player.tick(2.0)
    assert player.time == here
    player.press("pause")
    player.tick(1.0)
    assert player.time > here
    player.tick(99.0)
    assert player.time == player.end and not player.over  # somebody is at the keys: it waits
    player.press("pause")
    assert player.time == 0.0 and player.playing
    player.press("back")
    for _ in player.instants:
        player.press("forward")
    player.press("pause")
    assert player.time == 0.0 and player.playing


def test_a_text_that_was_complete_can_be_played():
    lane = Lane("one", "gpt", "m", 1, "s", 1, ["a"], [Step(0.0, 0, 0, [], [], [])])
    for clock in CLOCKS:
        player = Player(scene(lane), clock)
        assert player.over
        printed(player.stage(24))


class Counting(io.StringIO):
    """A file that remembers each write."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def test_a_frame_is_one_write_and_drawing_takes_a_twentieth_of_the_time(monkeypatch):
    """On a slow terminal too, where a frame takes 20 ms longer. Killed: frames at a fixed rate, a frame in parts."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    player, file, frames = Player(race(), speed=8.0), Counting(), []

    def slow(height, keys):
        time.sleep(0.02)
        frames.append(player.time)
        return Stage(player.recording, player.clock, player.time, keys=keys, height=height)

    player.stage = slow
    share = play(player, Console(file=file, width=80, height=24, force_terminal=True, _environ={}))
    drawn = [text for text in file.writes if "─" in text]
    assert len(drawn) == len(frames) >= 2 and all(text.count("\x1b[H") == 1 for text in drawn)
    assert 0 < share <= 0.05
    assert "".join(file.writes).rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in file.writes[-1] + file.writes[-2]
    assert frames == sorted(frames)


# In a terminal

RUN = """
import os, runpy, sys
print("pid", os.getpid(), flush=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# What the shell sees before and after: the settings of its terminal, and how the program left.
SHELL = 'trap : INT; echo before=$(stty -g); "$@"; echo code=$?; echo after=$(stty -g)'


class Terminal:
    """A terminal of 80 columns and 24 rows, a shell in it that runs visualize.py."""

    def __init__(self, *argv):
        python = [sys.executable, "-c", RUN, str(ROOT / "visualize.py"), *map(str, argv)]
        hidden = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
        env = {name: value for name, value in os.environ.items() if name not in hidden}
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
        self.child = pexpect.spawn(
            "sh", ["-c", SHELL, "sh", *python], env=env, encoding="utf-8", timeout=60, dimensions=(24, 80), cwd=ROOT
        )
        self.child.logfile_read = self.log = io.StringIO()

    @property
    def pid(self) -> int:
        return int(re.search(r"pid (\d+)", self.log.getvalue())[1])

    def frames(self, many: int) -> list[str]:
        """The next `many` whole frames."""
        self.child.expect(re.escape("\x1b[H"))
        found = []
        while len(found) < many:
            self.child.expect(re.escape("\x1b[H"))
            found += [self.child.before] if "─" in self.child.before else []
        return found

    def left(self) -> SimpleNamespace:
        """How it ended. Whatever was changed in the terminal is as before."""
        self.child.expect(r"after=[0-9a-f:]+")
        self.child.expect(pexpect.EOF)
        seen = self.log.getvalue()
        before, after = (re.search(rf"{name}=([0-9a-f:=,a-z]+)", seen)[1] for name in ("before", "after"))
        assert before == after
        assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l") > 0  # the cursor is back
        assert seen.count("\x1b[?1049h") == seen.count("\x1b[?1049l")
        assert seen.rfind("\x1b[?1049l") >= seen.rfind("\x1b[?1049h")  # and so is the screen
        return SimpleNamespace(code=int(re.search(r"code=(\d+)", seen)[1]), seen=seen)


def until_changed(terminal: Terminal, than: str) -> str:
    """The first frame that differs and is drawn twice."""
    for _ in range(40):
        first, second = terminal.frames(2)
        if first == second != than:
            return first
    raise AssertionError("the screen stays as it was")


@pytest.fixture
def terminal():
    """terminal("replay", ...) -> a `Terminal`, closed afterwards."""
    opened = []

    def start(*argv) -> Terminal:
        opened.append(Terminal(*argv))
        return opened[-1]

    yield start
    for one in opened:
        one.child.close(force=True)


def test_keys_in_a_terminal(terminal, saved):
    """Space freezes the screen, arrows step and step back, q leaves with the finish line on the ordinary screen."""
    terminal = terminal("replay", saved, "--speed", "0.1")
    first = terminal.frames(1)[0]
    assert any(terminal.frames(1)[0] != first for _ in range(100))  # it moves: in five seconds, something happens
    terminal.child.send(" ")
    frozen = until_changed(terminal, "")
    assert set(terminal.frames(3)) == {frozen}
    terminal.child.send("\x1b[C")
    stepped = until_changed(terminal, frozen)
    terminal.child.send("\x1b[D")
    assert until_changed(terminal, stepped) == frozen
    terminal.child.send("x")  # means nothing
    assert set(terminal.frames(2)) == {frozen}
    terminal.child.send("q")
    left = terminal.left()
    assert left.code == 0 and "Least time" in left.seen.split("\x1b[?1049l")[-1]


def test_ctrl_c_while_it_plays(terminal, saved):
    terminal = terminal("replay", saved, "--speed", "0.1")
    terminal.frames(2)
    terminal.child.sendintr()
    left = terminal.left()
    assert left.code == 2 and "visualize.py: stopped" in left.seen and "Traceback" not in left.seen


def test_a_resize_and_the_order_to_end_while_it_plays(terminal, saved):
    """The next frames are as tall as the new window; told to end, the program leaves the terminal in order."""
    terminal = terminal("replay", saved, "--speed", "0.1")
    assert {frame.count("\n") for frame in terminal.frames(2)} == {23}
    terminal.child.setwinsize(20, 60)
    terminal.frames(2)
    assert {frame.count("\n") for frame in terminal.frames(2)} == {19}
    os.kill(terminal.pid, signal.SIGTERM)
    left = terminal.left()
    assert left.code == 128 + signal.SIGTERM and "Traceback" not in left.seen


def test_the_order_to_end_while_the_models_write(terminal, folders):
    """The progress bar hides the cursor. Killed: an order that ends the program where it stands."""
    long = ["--model", folders["gpt"], "--judge", folders["judge"], "--prompt", "abc", "--length", "60000"]
    terminal = terminal("one", *long)
    terminal.child.expect("gpt writes")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.left().code == 128 + signal.SIGTERM


# visualize.py


@pytest.fixture(scope="module")
def folders(network, tmp_path_factory) -> dict[str, Path]:
    """Tiny models over ten characters with a window of 16, never trained."""
    home = tmp_path_factory.mktemp("models")
    for name in ("gpt", "diffusion", "judge", "diffusion-too"):
        net = network(vocab_size=10 + name.startswith("diffusion"), seq_len=16, causal=not name.startswith("diffusion"))
        (home / name).mkdir()
        config = {"model": asdict(net.cfg), "tokenizer": LETTERS.to_json(), "summary": {"best": 2.0}}
        write_json(home / name / "config.json", config)
        write_tensors(home / name / "model.safetensors", dict(net.named_parameters()))
    return {folder.name: folder for folder in home.iterdir()}


@pytest.fixture(scope="module")
def visualize():
    spec = importlib.util.spec_from_file_location("visualize", ROOT / "visualize.py")
    module = sys.modules["visualize"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def say(visualize, folders, tmp_path, monkeypatch, capsys):
    """say("one", ...) -> code, out, err of python visualize.py in a pipe of 80 columns, with the tiny models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in folders.items():
        Path(name).symlink_to(folder)
    monkeypatch.setattr(visualize, "TWINS", ("diffusion", "gpt"))

    def call(*argv: str) -> SimpleNamespace:
        argv = [*argv, *([] if "--judge" in argv or argv[0] == "replay" else ["--judge", "judge"])]
        argv += [] if "--prompt" in argv or argv[0] in ("replay", "infill") else ["--prompt", "abc"]
        argv += [] if "--length" in argv or argv[0] in ("replay", "infill") else ["--length", "40"]
        monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, argv)])
        code = 0
        try:
            cli.run(visualize.main, visualize.Config, visualize.__doc__)
        except SystemExit as done:
            code = done.code
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return call


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A race that takes a while, in a file."""
    path = tmp_path_factory.mktemp("saved") / "race.json"
    scene(told(VERSE * 3, parts=60, pace=0.01), told(VERSE * 3, "gpt", parts=100, pace=0.01)).save(path)
    return path


def shown_at(out: str, share: str) -> str:
    """The text of a snapshot in a pipe: what stands to the right of its share, line after line."""
    rows = out.split("\n")
    first = next(i for i, row in enumerate(rows) if row.startswith(f"{share:>3} %"))
    column = re.match(r" *\d+ %  pass \d+  | *\d+ %  +pass \d+  ", rows[first]).end()
    last = next(i for i in range(first + 1, len(rows)) if rows[i][:column].strip() or not rows[i].strip())
    return "".join(row[column : column + 80] for row in rows[first:last])


def test_the_race_in_a_pipe(say):
    """Frames and the table, no escape codes; the table says what the saved file says."""
    said = say("race", "--save", "race.json", "--steps", "7")
    assert said.code == 0 and "\x1b" not in said.out and said.err == "saved race.json\n"
    assert re.findall(r"^ *(\d+) %", said.out, re.M) == ["0", "25", "50", "75", "100"] * 2
    recording = load_recording(Path("race.json"))
    for lane in recording.lanes:
        (row,) = (line for line in said.out.splitlines() if re.match(rf"{lane.name}  +\d", line))
        last = lane.steps[-1]
        cost = f"{last.passes:,}", f"{last.read:,}", f"{last.seconds:.3f}", f"{37 / last.seconds:,.0f}"
        assert row[len(lane.name) :].split() == [*cost, f"{lane.judge['nats_per_char']:.2f}"]
        assert lane.written.startswith("abc") and len(lane.written) == 40
    assert [lane.kind for lane in recording.lanes] == ["diffusion", "gpt"] and recording.length == 40
    for measure in ("Fewest forward passes", "Fewest tokens read", "Least time", "Likeliest text"):
        assert f"{measure}: " in said.out
    assert "held-out text: 2.00" in said.out


def test_a_replay_says_what_was_said(say):
    said = say("race", "--save", "race.json")
    again = say("replay", "race.json")
    assert again.code == 0 and again.out == said.out and again.err == ""
    for options in ("--clock passes", "--heat", "--speed 2"):  # change how it is played, not how it ends
        assert say("replay", "race.json", *options.split()).out == said.out


@pytest.mark.parametrize("sampler", ["confidence", "remask", "refine", "forward_backward"])
def test_the_last_snapshot_is_the_text_and_the_first_is_blank(say, sampler):
    """Also of samplers that change what was written. Killed: changes counted as if each opened a MASK."""
    said = say("one", "--sampler", sampler, "--save", "one.json")
    (lane,) = load_recording(Path("one.json")).lanes
    assert said.code == 0 and shown_at(said.out, "100").rstrip() == shown(lane.written).rstrip()
    assert shown_at(said.out, "0").rstrip() == "abc" + "·" * 37
    half = shown_at(said.out, "50").count("·")
    assert half <= 18


def test_snapshots_at_seven_shares(say):
    said = say("snapshots", "--steps", "40")
    assert re.findall(r"^ *(\d+) %", said.out, re.M) == ["0", "10", "25", "50", "75", "90", "100"] * 2
    assert said.code == 0 and "\x1b" not in said.out and "Fewest" not in said.out
    passes = [int(n) for n in re.findall(r"pass (\d+)", said.out)]
    assert all(b >= a for lane in (passes[:7], passes[7:]) for a, b in pairwise(lane)) and passes[-1] == 37


def test_infill_keeps_what_was_given(say):
    for model in ("diffusion", "gpt"):
        said = say("infill", "a____ cab{9}h", "--model", model, "--save", "filled.json")
        (lane,) = load_recording(Path("filled.json")).lanes
        assert said.code == 0 and re.fullmatch(r"a[^_]{4} cab[^_]{9}h", lane.written, re.S)
        assert lane.start.count(None) == 13 and load_recording(Path("filled.json")).prompt == "a____ cab{9}h"
        assert shown_at(said.out, "100").rstrip() == shown(lane.written)


def test_compare_shows_one_lane_a_way(say):
    said = say("compare", "--sampler", "confidence", "ancestral", "--steps", "3", "9", "--save", "four.json")
    names = [lane.name for lane in load_recording(Path("four.json")).lanes]
    assert names == [f"{how}, {n} steps" for how in ("confidence", "ancestral") for n in (3, 9)]
    assert said.code == 0 and all(said.out.count(name) >= 2 for name in names)


def test_lanes_of_a_race_can_be_told_apart(say):
    said = say("race", "--model", "diffusion", "diffusion-too", "gpt", "--save", "three.json")
    assert said.code == 0
    assert [lane.name for lane in load_recording(Path("three.json")).lanes] == ["diffusion", "diffusion-too", "GPT"]


def test_the_same_seed_the_same_race(say):
    texts = []
    for seed in ("3", "3", "4"):
        say("race", "--seed", seed, "--save", "race.json")
        texts.append([lane.written for lane in load_recording(Path("race.json")).lanes])
    assert texts[0] == texts[1] and all(a != b for a, b in zip(texts[1], texts[2], strict=True))


def test_a_transcript_has_words_for_everything(say):
    """No dots, no boxes, no codes; blanks are counted; the last line of each lane holds its whole text."""
    said = say("race", "--plain", "--prompt", r"abc\n", "--save", "race.json")
    assert said.code == 0 and not set("·×─│╭╮╰╯┏┓┗┛━┃↵\x1b") & set(said.out)
    assert said.out.count("[36 blanks]") == 2
    for lane in load_recording(Path("race.json")).lanes:
        told = next(line for line in said.out.splitlines() if line.startswith(f"{lane.name}, 100 percent written"))
        assert told.split(": ", 1)[1] == lane.written.replace("\n", " / ").strip() and told.count("blank") == 0
        assert f"{lane.steps[-1].passes} forward passes, {lane.steps[-1].read} tokens read" in said.out
    assert "Least time: " in said.out


def test_a_transcript_says_what_the_text_says(say, tmp_path):
    """Killed: :sun: read as an emoji, [bold] as a style, an escape sequence sent on."""
    text = [*"to :sun: [bold]be[/bold] ", "\x1b[2J", "\x9b", "\n", "漢"]
    scene(told(text, name="[red]one"), told(text, "gpt")).save(tmp_path / "odd.json")
    said = say("replay", "odd.json", "--plain")
    assert "to :sun: [bold]be[/bold] \ufffd[2J\ufffd / 漢" in said.out and "[red]one: 6 forward" in said.out
    assert all(line.isprintable() for line in said.out.splitlines())
    assert ":sun: [bold]be[/bold] \ufffd[2J" in say("replay", "odd.json").out


def test_visualize_with_what_ships():
    """As a person starts it, in a pipe."""
    env = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "visualize.py", "--length", "48", "--steps", "8"],
        **dict(cwd=ROOT, env=env, capture_output=True, text=True, timeout=120),
    )
    assert done.returncode == 0 and done.stderr == "" and "\x1b" not in done.stdout
    assert re.search(r"^diffusion, confidence +8 +384 ", done.stdout, re.M)
    assert re.search(r"^GPT +42 +47 ", done.stdout, re.M)
    assert "ROMEO:" in shown_at(done.stdout, "100") and "shakespeare-judge sees it" in done.stdout


# Pictures


def test_a_gif_lasts_as_long_as_it_says(say, saved):
    """At speed 8 a second of twelve frames, and the finish line for four. Killed: a frame dropped, a last one that is
    gone at once, a width that follows the terminal."""
    said = say("replay", saved, "--save", "race.gif", "--speed", "8", "--clock", "own")
    assert said.code == 0 and said.err == "saved race.gif\n"
    with Image.open("race.gif") as gif:
        assert (gif.format, gif.n_frames, gif.info["loop"]) == ("GIF", 13, 0)
        durations = []
        for i in range(gif.n_frames):
            gif.seek(i)
            durations.append(gif.info["duration"])
        assert durations[-1] == 4000 and all(80 <= d <= 90 for d in durations[:-1])
        assert 1280 <= gif.width <= 1340 and gif.height > 300  # 88 characters of 14 or so pixels, and a margin
    assert Path("race.gif").stat().st_size * 97 / 13 < 2e6  # at speed 1 it has 97 frames


def test_a_slow_gif_has_no_more_frames_than_it_may(visualize, saved, monkeypatch):
    """A quarter as fast, 32 seconds long: fewer frames a second, and the same length."""
    recording, kept = load_recording(saved), []
    monkeypatch.setattr(visualize, "save_gif", lambda frames, *rest: kept.extend(frames))
    visualize.save_moving(recording, visualize.Config(speed=1 / 4), Path("slow.gif"))
    assert 240 <= len(kept) <= 242 and sum(seconds for _, seconds in kept[:-1]) == pytest.approx(32, abs=0.2)


def test_a_gif_of_nothing_to_write(say):
    for clock in CLOCKS:
        said = say("race", "--length", "3", "--speed", "64", "--clock", clock, "--save", f"{clock}.gif")
        assert said.code == 0
        with Image.open(f"{clock}.gif") as gif:
            assert gif.n_frames >= 1


def test_an_svg_is_xml_asks_nobody_and_holds_the_text(say, tmp_path):
    text = 'to be <or> & "not" 漢字 ]]>'
    scene(told(text), told(text, "gpt")).save(tmp_path / "odd.json")
    assert say("replay", "odd.json", "--save", "odd.svg").code == 0
    drawn = Path("odd.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and drawn.count("http") == 1  # the name of its language
    assert not re.search(r"url\((?!#)|@import|@font-face|<script|<image|<foreignObject|href", drawn)
    words = "".join(node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text"))
    words = re.sub(r"\s", "", words)  # a space is drawn as the place of what follows
    assert words.count(re.sub(r"\s", "", text)) == 2 and "Leasttime" in words


# What will not do

BAD = {
    "one --model difusion": "did you mean",
    "one --model no-such": "unknown model",
    "one --sampler confidense": "confidence",
    "one --clock wall": "own, passes",
    "one --save race.png": ".json, .svg, .gif",
    "one --save no/where.json": "no folder",
    "one --save folder.json": "cannot be written",
    "infill abc": "blanks",
    "infill a{200000}": "100000",
    "infill aZ_": "Z",
    "infill": "infill takes a text",
    "infill _ab --model gpt": "beginning",
    "one --model gpt --sampler ancestral": "no --sampler",
    "race abc": "infill takes a text",
    "one --prompt abcdef --length 5": "5",
    "one --prompt aZ": "Z",
    "one --model diffusion gpt": "one --model",
    "compare --model diffusion gpt": "one --model",
    "infill a_ --model diffusion gpt": "one --model",
    "race --model diffusion": "two models",
    "race --sampler confidence ancestral": "compare",
    "one --steps 4 8": "compare",
    "one --steps 0": "steps is 0",
    "compare --steps 4 0": "steps is 0",
    "compare --steps": "one value or more",
    "compare --sampler": "one value or more",
    "one --speed 0": "speed is 0",
    "one --speed nan": "speed is nan",
    "one --temperature -1": "temperature is -1",
    "one --seed -1": "seed is -1",
    "one --length 0": "length 0",
    "one --length 100001": "100001",
    "one --judge diffusion": "not a GPT",
    "one --judge nobody": "unknown model",
    "one --model gpt --prompt ''": "prompt",
    "replay": "replay a recording",
    "replay no.json": "no recording",
    "replay folder.json": "no recording",
    "replay broken.json": "not JSON",
    "replay other.json": "not a recording",
}


@pytest.mark.parametrize("asked", BAD)
def test_what_will_not_do_is_one_line_and_code_2(say, asked):
    """And nothing is made, changed or left behind."""
    Path("folder.json").mkdir()
    Path("broken.json").write_text('{"format": "microdlm-rec')
    Path("other.json").write_text('{"format": "asciicast", "version": 2}')
    before = sorted(Path().iterdir())
    said = say(*(word.strip("'") for word in asked.split()))
    assert said.code == 2 and not said.out, said
    assert said.err.startswith("visualize.py: ") and said.err.count("\n") == 1 and BAD[asked] in said.err, said.err
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("code, why", [("import sys; sys.exit('no\\nscreen')", "screen"), ("exit(3)", "exit code 3")])
def test_a_film_that_fails_is_one_line_and_says_that_the_run_is_whole(monkeypatch, tmp_path, code, why):
    (tmp_path / "visualize.py").write_text(code)
    monkeypatch.setattr(prints, "VISUALIZE", tmp_path / "visualize.py")
    with pytest.raises(UserError) as stop:
        prints.film(tmp_path, "O", now=True)
    assert str(stop.value) == f"{tmp_path} is whole, but its film was not made: {why}"
