"""A recording is what happened: what was written, what it cost, how sure the model was. A damaged one is refused."""

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from microdlm.errors import UserError
from microdlm.likelihood import left_to_right_nll
from microdlm.objectives import denoise_log_probs
from microdlm.pretrained import LanguageModel
from microdlm.recording import Lane, Recording, Step, judged, load_recording, next_token_nlls, record
from microdlm.runs import ROOT
from microdlm.samplers import SAMPLERS
from microdlm.tokenizers import BPETokenizer, CharTokenizer

LETTERS, W = CharTokenizer("\n abcdefgh"), 16
MASK = LETTERS.mask_id
PLAIN = {"gpt": "left_to_right", "diffusion": "confidence"}
WAYS = [("gpt", "left_to_right"), *(("diffusion", name) for name in SAMPLERS)]
LONG_WAYS = [*PLAIN.items(), ("diffusion", "remask")]  # a text of 30 characters takes three windows
# Samplers that draw from the state before; refine and forward_backward mask some of it in the same step.
DIRECT = [way for way in WAYS if way[1] not in ("refine", "forward_backward")]


@pytest.fixture(scope="module")
def models(network) -> dict[str, LanguageModel]:
    """One of each kind, never trained, with a window of 16 characters."""
    return {
        kind: LanguageModel(network(vocab_size=10 + (kind == "diffusion"), seq_len=W, causal=kind == "gpt"), LETTERS)
        for kind in ("gpt", "diffusion")
    }


def written_by(lm: LanguageModel, x, sampler: str, seed: int = 0, **how) -> Lane:
    steps = list(record(lm, x, sampler, how.pop("num_steps", 6), seed, **how))
    start = [None if i == MASK else LETTERS.decode([i]) for i in x[0].tolist()]
    return Lane(sampler, lm.kind, "tiny", 1, sampler, 6, start, steps)


def ids(text: list[str | None]) -> list[int]:
    return [MASK if token is None else LETTERS.encode(token)[0] for token in text]


# What was written, and what it cost


@pytest.mark.parametrize("kind, sampler, length", [(*way, 12) for way in WAYS] + [(*way, 30) for way in LONG_WAYS])
def test_every_state_and_every_total_is_what_the_network_saw(models, kind, sampler, length):
    """A hook in the network counts while `write` writes; the recording, replayed, says the same after each state.
    Killed: passes or tokens counted from the plan, a state left out, the warm-up pass counted in."""
    lm, seen = models[kind], []
    x = lm.canvas("abc", length)
    lane = written_by(lm, x, sampler)
    hook = lm.model.register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    try:
        states = [(x_t[0].tolist(), len(seen), sum(seen)) for x_t in lm.write(x, sampler, seed=0, num_steps=6)]
    finally:
        hook.remove()
    assert len(lane.steps) == len(states) > 1 and len(seen) > 1
    for i, (x_t, passes, read) in enumerate(states):
        assert ids(lane.state(i + 1)[0]) == x_t
        assert (lane.steps[i].passes, lane.steps[i].read) == (passes, read)
    assert len(lane.written) == length and lane.written.startswith("abc")


def test_a_step_names_what_changed_and_nothing_else(models):
    lane = written_by(models["diffusion"], models["diffusion"].canvas("abc", 40), "remask", num_steps=16)
    for i, step in enumerate(lane.steps):
        before, after = lane.state(i)[0], lane.state(i + 1)[0]
        assert step.at == [place for place in range(40) if before[place] != after[place]]
        assert len(step.at) == len(step.to) == len(step.p)


@pytest.mark.parametrize("kind", ["gpt", "diffusion"])
def test_the_clock_runs_while_the_model_writes_and_at_no_other_time(models, kind, monkeypatch):
    """A clock on which a forward pass takes a second, and what we do between two states takes a hundred: seconds are
    then passes. Killed: the warm-up on the clock, the reader on the clock, a clock that starts anew."""
    clock, lm = SimpleNamespace(time=0.0), models[kind]
    monkeypatch.setattr("microdlm.recording.now", lambda device: clock.time)
    hook = lm.model.register_forward_hook(lambda *args: setattr(clock, "time", clock.time + 1))
    try:
        for step in record(lm, lm.canvas("abc", 40), PLAIN[kind], 6, 0):
            assert step.seconds == step.passes
            clock.time += 100
    finally:
        hook.remove()
    assert step.passes > 5 and clock.time > step.passes


@pytest.mark.parametrize("kind, sampler", WAYS)
def test_the_seed_decides_all_but_the_seconds(models, kind, sampler):
    lm = models[kind]
    once, again, other = (written_by(lm, lm.canvas("abc", 24), sampler, seed) for seed in (1, 1, 2))
    timeless = [[replace(step, seconds=0.0) for step in lane.steps] for lane in (once, again, other)]
    assert timeless[0] == timeless[1] and once.written != other.written


@pytest.mark.parametrize("sampler", ["remask", "forward_backward", "refine"])
def test_what_was_written_may_change_what_was_given_never_does(models, sampler):
    """A prompt, a word in the middle, an end. Killed: a MASK that comes back recorded as no change, or as a token."""
    lm = models["diffusion"]
    x = torch.tensor([ids([*"abc", *[None] * 9, *"cab", *[None] * 8, "h"])])
    lane = written_by(lm, x, sampler, num_steps=16)
    given = {i for i, token in enumerate(lane.start) if token is not None}
    assert not any(given & set(step.at) for step in lane.steps)
    assert any(b in done for i, s in enumerate(lane.steps) for done in [touched(lane, i)] for b in s.at)
    if sampler == "remask":
        assert any(token is None for step in lane.steps for token in step.to)
    assert None not in lane.state(len(lane.steps))[0]


def touched(lane: Lane, i: int) -> set[int]:
    return {at for step in lane.steps[:i] for at in step.at}


def test_a_text_with_nothing_to_write_is_one_step_that_cost_nothing(models):
    for kind, lm in models.items():
        (step,) = record(lm, lm.canvas("abc", 3), PLAIN[kind], 6, 0)
        assert (step.passes, step.read, step.at, step.to, step.p) == (0, 0, [], [], [])


# How sure the model was


def held(lm: LanguageModel, x, start: int, place: int) -> torch.Tensor:
    """What a fresh pass through the window at `start` says of `place`, MASK ruled out: (V,)."""
    if lm.kind == "gpt":
        return lm.model(x[:, start:place])[0, -1].double().softmax(-1)
    window = x[:, start : start + W]
    return denoise_log_probs(lm.model(window).double(), window, MASK)[0, place - start].exp()


@torch.no_grad()
@pytest.mark.parametrize("kind, sampler, length", [(*way, 12) for way in DIRECT] + [(*way, 30) for way in LONG_WAYS])
def test_p_is_what_a_fresh_pass_on_the_state_before_says(models, kind, sampler, length):
    """At temperature 1 whatever the text was drawn at, in the window the model looked through, without its cache.
    Killed: a position of the page looked up in the window, another row's p, p after temperature, MASK counted in."""
    lm = models[kind]
    before = lm.canvas("abc", length)
    steps, checked = record(lm, before, sampler, 6, 3, temperature=0.5), 0
    windows = lm.write_windows(before, sampler, 3, num_steps=6, temperature=0.5)
    for step, (start, after) in zip(steps, windows, strict=True):
        for place, token, p in zip(step.at, step.to, step.p, strict=True):
            if token is None:
                assert p is None
                continue
            assert p == pytest.approx(held(lm, before, start, place)[LETTERS.encode(token)[0]].item(), abs=1e-5)
            checked += 1
        before = after
    assert checked >= length - 3


def test_p_of_a_gpt_that_fills_in(models):
    """Given tokens stand between the blanks, so a pass reads several and answers for the last."""
    lm, x = models["gpt"], torch.tensor([ids(["a", None, *"cab", None, None, "d"])])
    for step, (start, after) in zip(
        record(lm, x, "left_to_right", 1, 0), lm.write_windows(x, seed=0, num_steps=1), strict=True
    ):
        assert step.p == [pytest.approx(held(lm, x, start, step.at[0])[after[0, step.at[0]]].item(), abs=1e-5)]
        x = after


def test_p_is_a_probability_also_where_a_step_masks_and_writes(models):
    for sampler in ("refine", "forward_backward"):
        lane = written_by(models["diffusion"], models["diffusion"].canvas("abc", 40), sampler, num_steps=8)
        for step in lane.steps:
            assert all((p is None) if to is None else 0 < p <= 1 for to, p in zip(step.to, step.p, strict=True))


# Saved and loaded


@pytest.fixture(scope="module")
def recording(models) -> Recording:
    lanes = [
        written_by(models["diffusion"], models["diffusion"].canvas("abc", 24), "remask"),
        written_by(models["gpt"], models["gpt"].canvas("abc", 24), "left_to_right"),
    ]
    judge = LanguageModel(models["gpt"].model, LETTERS, {"summary": {"best": 1.5}})
    return Recording("abc", 24, 0.8, 0, [replace(lane, judge=judged(judge, "judge", lane)) for lane in lanes])


def test_what_is_saved_comes_back(recording, tmp_path):
    """The same to the last digit, so any number quoted from the file is the one that was measured."""
    recording.save(tmp_path / "race.json")
    back = load_recording(tmp_path / "race.json")
    assert back == recording
    assert [lane.written for lane in back.lanes] == [lane.written for lane in recording.lanes]
    assert {"commit", "command", "date", "torch", "device"} <= back.made_by.keys()
    data = json.loads((tmp_path / "race.json").read_text(encoding="utf-8"))
    assert (data["format"], data["version"], data["seed"]) == ("microdlm-recording", 1, 0)


SPOILT = {
    "not JSON": lambda d: "{",
    "nothing": lambda d: "",
    "not text": lambda d: "\udcff",
    "a number": lambda d: 7,
    "a list": lambda d: [d],
    "huge nesting": lambda d: "[" * 100_000,
    "another format": lambda d: d | {"format": "asciicast"},
    "another version": lambda d: d | {"version": 2},
    "no format": lambda d: {k: v for k, v in d.items() if k != "format"},
    "no prompt": lambda d: {k: v for k, v in d.items() if k != "prompt"},
    "something else besides": lambda d: d | {"lane": 3},
    "no lanes": lambda d: d | {"lanes": []},
    "a lane without steps": lambda d: spoil(d, steps=[]),
    "a lane without text": lambda d: spoil(d, start=[], steps=d["lanes"][0]["steps"][:1]),
    "a position outside": lambda d: spoil_step(d, at=[24], to=["a"], p=[0.5]),
    "a negative position": lambda d: spoil_step(d, at=[-1], to=["a"], p=[0.5]),
    "a position that is no integer": lambda d: spoil_step(d, at=[3.0], to=["a"], p=[0.5]),
    "too few tokens": lambda d: spoil_step(d, at=[3, 4], to=["a"], p=[0.5, 0.5]),
    "too few probabilities": lambda d: spoil_step(d, at=[3], to=["a"], p=[]),
    "a token that is a number": lambda d: spoil_step(d, at=[3], to=[7], p=[0.5]),
    "a probability of two": lambda d: spoil_step(d, at=[3], to=["a"], p=[2.0]),
    "a probability in words": lambda d: spoil_step(d, at=[3], to=["a"], p=["sure"]),
    "passes that fall": lambda d: spoil_step(d, passes=0),
    "seconds that fall": lambda d: spoil_step(d, seconds=0.0),
    "tokens read that fall": lambda d: spoil_step(d, read=0),
    "seconds in words": lambda d: spoil_step(d, seconds="1"),
    "half a pass": lambda d: spoil_step(d, passes=1e6 + 0.5),
    "seconds without end": lambda d: spoil_step(d, seconds=math.inf),
    "seconds that are no number": lambda d: spoil_step(d, seconds=math.nan),
    "passes below zero": lambda d: spoil(d, steps=[s | {"passes": -1} for s in d["lanes"][0]["steps"]]),
    "a step of another kind": lambda d: spoil_step(d, colour="red"),
    "nobody's kind": lambda d: spoil(d, kind="rnn"),
    "a name that clears the screen": lambda d: spoil(d, name="\x1b[2J"),
    "a judge that says nothing": lambda d: spoil(d, judge={}),
    "a judge in words": lambda d: spoil(d, judge={"model": "m", "nats_per_char": "low", "held_out": None}),
    "a judge that clears the screen": lambda d: spoil(d, judge={"model": "\x9b2J", "nats_per_char": 1, "held_out": 1}),
    "a warm temperature": lambda d: d | {"temperature": "warm"},
    "a seed that clears the screen": lambda d: d | {"seed": "\x1b[2J"},
    "a prompt that is a number": lambda d: d | {"prompt": 3},
}


def spoil(d: dict, **lane) -> dict:
    """The first lane changed."""
    return d | {"lanes": [d["lanes"][0] | lane, *d["lanes"][1:]]}


def spoil_step(d: dict, **step) -> dict:
    """The first lane's last step changed, and whatever is greater than all before where nothing is said."""
    steps = d["lanes"][0]["steps"]
    return spoil(d, steps=[*steps[:-1], steps[-1] | step])


# Wherever a value may stand in a file, each of these may stand as well.
ODD = [None, True, -1, 0, 0.5, 1e999, 10**400, "", "x", "\x1b[2J\x9b", [], {}, [1], {"a": 1}]

PLAY = """
import io, json, sys
from pathlib import Path
from rich.console import Console
from microdlm.errors import UserError
from microdlm.recording import load_recording
from microdlm.player import Player

def show(path):
    try:
        recording = load_recording(path)
    except UserError as e:
        return f"refused: {e}"
    screen = Console(width=60, height=20, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for clock in ("own", "passes"):
        player = Player(recording, clock, heat=True)
        player.press("forward")
        player.press("pause")
        screen.print(player.stage(20))
        player.tick(9.0)
    screen.print(player.stage())
    return "obeyed" if "[2J" in screen.file.getvalue().replace("\\ufffd[2J", "") else "shown"

said = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        said[path.stem] = show(path)
    except Exception as e:
        said[path.stem] = f"failed: {e!r}"
print(json.dumps(said))
"""


def play_all(folder) -> dict[str, str]:
    """What becomes of each file, in a Python that checks no types as pytest's here does: so it is for everybody."""
    done = subprocess.run([sys.executable, "-c", PLAY, folder], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def becomes(recording, tmp_path_factory) -> dict[str, str]:
    """By name: files that are spoilt, a sound one, and that one with an odd value in each place in turn."""
    folder = tmp_path_factory.mktemp("recordings")
    recording.save(folder / "sound.json")
    sound = json.loads((folder / "sound.json").read_text(encoding="utf-8"))
    for name, how in SPOILT.items():
        value = how(sound)
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    small = json.loads(json.dumps(asdict(recording))) | {"format": "microdlm-recording", "version": 1, "made_by": {}}
    small["lanes"][0]["steps"], small["lanes"][1]["steps"] = sound["lanes"][0]["steps"][:2], sound["lanes"][1]["steps"]
    small["lanes"][1] = small["lanes"][1] | {"start": ["a", None], "steps": [step(1, [1]), step(2, [])]}
    for i, odd in enumerate(changed_somewhere(small)):
        (folder / f"odd {i}.json").write_text(json.dumps(odd), encoding="utf-8")
    return play_all(folder)


def step(n: int, at: list[int]) -> dict:
    return {"seconds": float(n), "passes": n, "read": n, "at": at, "to": ["b" for _ in at], "p": [0.5 for _ in at]}


def changed_somewhere(value):
    """Each value that comes from this one by putting something odd in one place: the second lane stands for both."""
    yield from ODD
    if isinstance(value, dict):
        for key in value:
            yield from ({**value, key: odd} for odd in changed_somewhere(value[key]))
    elif isinstance(value, list) and value:
        for odd in changed_somewhere(value[-1]):
            yield [*value[:-1], odd]


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_file_is_one_clear_line(becomes, name):
    assert becomes["sound"] == "shown"
    said = becomes[name]
    assert said.startswith("refused: ") and f"{name}.json" in said and "\n" not in said and len(said) < 400, said


def test_no_odd_value_anywhere_makes_a_traceback_or_reaches_the_terminal(becomes):
    """Whatever loads can be played to its end on both clocks."""
    odd = {name: said for name, said in becomes.items() if name.startswith("odd")}
    assert {said for said in odd.values() if not said.startswith("refused: ")} == {"shown"}
    assert len(odd) > 400 and not any("\n" in said or "\x1b" in said for said in odd.values())


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(UserError, match="there is no recording") as refused:
            load_recording(path)
        assert "\n" not in str(refused.value)


# The judge


def finished(text: str, given: set[int]) -> Lane:
    """A lane that began with the characters at `given` and wrote the others at once."""
    at = [i for i in range(len(text)) if i not in given]
    start = [c if i in given else None for i, c in enumerate(text)]
    last = Step(1.0, 1, len(text), at, [text[i] for i in at], [None for _ in at])
    return Lane("one", "diffusion", "tiny", 1, "confidence", 1, start, [last])


@torch.no_grad()
def surprise(gpt, text: str, i: int) -> float:
    """-log p(character i), by one pass over what stands to its left in the first window, of those that begin at
    every half window, that reaches it."""
    start = max(0, math.ceil((i - W + 1) / (W // 2))) * (W // 2)
    left = torch.tensor([LETTERS.encode(text[start:i])])
    assert min(i, W // 2) <= left.size(1) < W
    return -gpt(left)[0, -1].double().log_softmax(-1)[LETTERS.encode(text[i])[0]].item()


LONG = "a bad cab had a bad head\nfeed a deaf hag a fad he begged"


def test_a_text_wholly_written_but_its_first_character_is_its_exact_likelihood(models):
    judge, text = models["gpt"], LONG[:W]
    exact = left_to_right_nll(judge.model, torch.tensor([LETTERS.encode(text)])).item()
    assert judged(judge, "it", finished(text, {0}))["nats_per_char"] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("N", [2, 15, 16, 17, 23, 24, 25, 32, 33, len(LONG)])
def test_the_sliding_window_is_that_of_brute_force(models, N):
    """Killed: a character left out or scored twice at a seam, a window that forgets more than half."""
    gpt = models["gpt"].model
    nll = next_token_nlls(gpt, torch.tensor(LETTERS.encode(LONG[:N])))
    assert nll.tolist() == pytest.approx([surprise(gpt, LONG, i) for i in range(1, N)], abs=1e-5)


@pytest.mark.parametrize("given", [{0}, set(), set(range(6)), {0, 1, 2, 20, 21, 40}, set(range(0, len(LONG), 2))])
def test_only_what_was_written_is_scored(models, given):
    """Given characters are context. The first has nothing to its left: nobody can score it."""
    judge, lane = models["gpt"], finished(LONG, given)
    scored = [surprise(judge.model, LONG, i) for i in range(1, len(LONG)) if i not in given]
    assert judged(judge, "it", lane)["nats_per_char"] == pytest.approx(sum(scored) / len(scored), abs=1e-5)


def test_a_token_of_many_characters_is_scored_character_by_character(models):
    """A lane of byte pairs, a judge of characters. Killed: a mean over tokens."""
    text, tokens = "a bad cab had", ["a b", "ad ", "cab", " had"]
    lane = replace(finished("xxxx", {0}), start=["a b", None, None, None])
    lane = replace(lane, steps=[replace(lane.steps[0], to=tokens[1:])])
    scored = [surprise(models["gpt"].model, text, i) for i in range(3, len(text))]
    assert judged(models["gpt"], "it", lane)["nats_per_char"] == pytest.approx(sum(scored) / len(scored), abs=1e-6)


def test_a_judge_that_cannot_know_says_nothing(models):
    judge = models["gpt"]
    assert judged(judge, "it", finished("a bad cab!", {0})) is None  # ! is not among its characters
    pairs = LanguageModel(judge.model, BPETokenizer.train("a bad cab had " * 20, 264))
    assert judged(pairs, "it", finished("a bad cab had", {0})) is None  # no character model
    assert judged(judge, "it", finished("abc", {0, 1, 2})) is None  # nothing was written
    assert judged(judge, "it", finished("a", set())) is None  # nothing that can be scored


def test_the_judge_says_who_it_is_and_what_real_text_costs_it(models):
    judge = LanguageModel(models["gpt"].model, LETTERS, {"summary": {"best": 1.25}})
    said = judged(judge, "a judge", finished("abc", {0}))
    assert (said["model"], said["held_out"]) == ("a judge", 1.25)
    assert judged(models["gpt"], "it", finished("abc", {0}))["held_out"] is None
