"""The frame of every step: a claim that fails is an exit code, and so is a break that breaks nothing."""

import json
import os
import subprocess
import sys

import pytest
import torch

from microdlm import lesson
from microdlm.errors import UserError
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson, fit
from microdlm.runs import ROOT
from microdlm.state import TrainConfig
from microdlm.training import update
from microdlm.transformer import Transformer, TransformerConfig

BREAKS = {"upside_down": "The number is negative.", "idle": "Nothing."}
STEPS = sorted((ROOT / "steps").glob("step*.py"))


def a_run(tmp_path, holds=True, trained=False, **options) -> tuple[int, dict]:
    """A step with one number and one claim about it. Its exit code, and what it kept."""
    cfg = Config(**{"out": tmp_path, "device": "cpu"} | options)
    run = Lesson("step9_test", cfg, BREAKS)
    run.number("height", -1.5 if run.broken == "upside_down" else 1.5, "height, m")
    run.claim("it stands", holds and run.broken != "upside_down", "1.5 m", "upside_down", trained)
    try:
        run.close()
        code = 0
    except SystemExit as e:
        code = e.code
    return code, json.loads(run.path(".json").read_text())


def test_a_claim_that_fails_is_exit_code_1_and_a_line_that_names_it(tmp_path, capsys):
    assert a_run(tmp_path)[0] == 0 and "✓ holds" in capsys.readouterr().out
    code, kept = a_run(tmp_path, holds=False)
    assert code == 1 and capsys.readouterr().err == "step9_test: fails: it stands (1.5 m)\n"
    assert kept["claims"] == [{"what": "it stands", "found": "1.5 m", "holds": False, "expected": True}]


def test_a_break_has_to_break(tmp_path, capsys):
    code, kept = a_run(tmp_path, broken="upside_down")
    assert code == 0 and kept["numbers"]["height"]["value"] == -1.5 and kept["break"] == "upside_down"
    assert "what was to be seen" in (out := capsys.readouterr().out) and BREAKS["upside_down"] in out
    assert a_run(tmp_path, holds=True, broken="idle")[0] == 0  # this one breaks no claim of this step
    assert a_run(tmp_path, holds=False, broken="idle")[0] == 1


def test_what_takes_training_is_not_judged_in_a_smoke_run(tmp_path, capsys):
    code, kept = a_run(tmp_path, holds=False, trained=True, smoke=True)
    assert code == 0 and kept["claims"][0]["holds"] is None and "not judged" in capsys.readouterr().out
    assert a_run(tmp_path, holds=False, trained=True)[0] == 1
    assert a_run(tmp_path, holds=False, smoke=True)[0] == 1


def test_an_unknown_break_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="did you mean upside_down"):
        a_run(tmp_path, broken="upsidedown")


def test_only_the_run_that_everybody_makes_first_draws_the_figure_of_the_repository(tmp_path):
    first = Lesson("step9_test", Config(), {}).path(".png")
    assert first == ROOT / "results" / "figures" / "step9_test.png"
    others = [Config(seed=1), Config(smoke=True), Config(data="shakespeare"), Config(out=tmp_path)]
    paths = [Lesson("step9_test", cfg, {}).path(".png") for cfg in others]
    paths.append(Lesson("step9_test", Config(broken="idle"), BREAKS).path(".png"))
    assert len({first, *paths}) == 6 and not any("results" in p.parts for p in paths)


def test_the_card_shows_what_three_seeds_measured(tmp_path, monkeypatch, capsys):
    number = {"label": "height, m", "mean": 1.625, "sd": 0.25, "values": [1.375, 1.625, 1.875]}
    known = {"seeds": [0, 1, 2], "seconds": 7.0, "numbers": {"height": number}, "made_by": {"device": "an abacus"}}
    monkeypatch.setattr(lesson, "EXPECTED", tmp_path / "steps.json")
    a_run(tmp_path)
    assert "1.625" not in capsys.readouterr().out
    (tmp_path / "steps.json").write_text(json.dumps({"steps": {"step9_test": known}}))
    a_run(tmp_path)
    out = capsys.readouterr().out
    assert "1.625 ± 0.25" in out and "an abacus" in out
    a_run(tmp_path, data="shakespeare")  # another text: nothing to compare with
    assert "1.625" not in capsys.readouterr().out


def test_fit_is_the_careful_loop_without_its_folder():
    how = TrainConfig(steps=5, batch_size=2, precision="float32")
    text = torch.randint(0, 5, (2, 8), generator=torch.Generator().manual_seed(0))

    def build():
        return Transformer(TransformerConfig(5, 8, 1, 2, 16), torch.Generator().manual_seed(1))

    def loss(model, x_0, rng):
        return model(x_0).logsumexp(-1).mean() + torch.rand(1, generator=rng).item()

    def batch(B, L, rng):
        return text[torch.randperm(B, generator=rng)]

    one, other = build(), build()
    losses = fit(one, how, loss, batch, "cpu", "a test")
    state = lesson.State(other, how)
    again = [update(state, how, loss, batch(2, 8, state.rng))[0] for _ in range(5)]
    assert losses == again and all(map(torch.equal, one.parameters(), other.parameters()))
    assert not one.training


def test_the_same_drawing_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png", "a.svg"):
        with figure(tmp_path / "new" / name) as (_, ax):
            ax.plot([1, 2], [2, 1])
    files = sorted((tmp_path / "new").iterdir())
    assert [p.name for p in files] == ["a.png", "a.svg", "b.png"]  # and no half-written ones
    assert files[0].read_bytes() == files[2].read_bytes() and b"Date" not in files[1].read_bytes()


def test_a_picture_stays_as_it_is_where_only_the_last_shade_would_change(tmp_path):
    """What another processor rounds otherwise is a 255th of a shade; what somebody measured anew is seen."""

    def drawn(shade: float) -> bytes:
        with figure(tmp_path / "a.png") as (_, ax):
            ax.axhspan(0, 1, color=(shade, shade, shade))
        return (tmp_path / "a.png").read_bytes()

    first = drawn(100 / 255)
    assert drawn(101 / 255) == first and drawn(99 / 255) == first
    assert drawn(102 / 255) != first
    for rubbish in (b"", b"not a picture", first[:200]):
        (tmp_path / "a.png").write_bytes(rubbish)
        assert drawn(100 / 255) == first
    (tmp_path / "a.png").unlink()
    assert drawn(101 / 255) != first  # it is another picture


# ---- the steps themselves ----


def test_the_ladder_has_no_gap():
    assert [int(p.stem[4]) for p in STEPS] == list(range(len(STEPS))) and len(STEPS) >= 7


@pytest.mark.parametrize("path", STEPS, ids=lambda p: p.stem)
def test_a_step_runs_from_anywhere(path, tmp_path):
    """As a learner runs it: a program of its own, in a folder that is not the project's, into a pipe."""
    command = [sys.executable, str(path), "--smoke", "--out", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "claims" in done.stdout and (tmp_path / f"{path.stem}-playlets-0-smoke.json").exists()
    assert (tmp_path / f"{path.stem}-playlets-0-smoke.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", STEPS, ids=lambda p: p.stem)
def test_the_header_of_a_step_keeps_its_order(path):
    header = path.read_text(encoding="utf-8").split('"""')[1]
    fields = ["Question.", "Answer.", "Written out here", "Taken from earlier", "Not the lesson"]
    fields += ["Run ", "Expect ", "Look at ", "Break it ", "Still missing"]
    places = [header.find(f"\n{field}") for field in fields]
    assert -1 not in places and places == sorted(places) and len(header.splitlines()) <= 32
    assert f"python steps/{path.name}" in header and "<T>" not in header
