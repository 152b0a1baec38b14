"""The cards of the ladder, by results/steps.py: what three seeds say, and what is no answer.

The steps here are five lines long and measure what a test wants.
"""

import json
import sys
from pathlib import Path

import pytest

from microdlm import cli
from microdlm.errors import UserError

STEP = """
import json, os, pathlib, sys

seed, out = int(sys.argv[sys.argv.index("--seed") + 1]), pathlib.Path("runs/steps")
if "--out" in sys.argv:
    out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
name = pathlib.Path(__file__).stem
if (name, seed) == ("step1_two", {bad_seed}):
    sys.exit("a line before\\nstep1_two: fails: it stands (-1.5 m)")
numbers = {{"height": {{"value": [1.5, 2.5, 5.0][seed], "label": "height, m"}}}}
kept = {{"numbers": numbers, "seconds": 10.0 * (seed + 1), "made_by": {{"device": f"abacus {{seed}}"}}}}
out.mkdir(parents=True, exist_ok=True)
(out / f"{{name}}-playlets-{{seed}}.json").write_text(json.dumps(kept))
print(f"{{name}} ± seed {{seed}}, {{os.environ['COLUMNS']}} columns, --out {{'--out' in sys.argv}}")
print("\\n  \\n\\n\\nthe end")
"""


@pytest.fixture(scope="module")
def steps(script):
    return script("results/steps")


@pytest.fixture
def ladder(steps, tmp_path, monkeypatch):
    """ladder(bad_seed) -> an empty project of two steps; the second one fails at that seed."""

    def build(bad_seed: int = -1) -> Path:
        for name in ("step0_one", "step1_two"):
            (tmp_path / "steps").mkdir(exist_ok=True)
            (tmp_path / "steps" / f"{name}.py").write_text(STEP.format(bad_seed=bad_seed))
        (tmp_path / "results").mkdir(exist_ok=True)
        monkeypatch.setattr(steps, "ROOT", tmp_path)
        monkeypatch.setattr(steps, "EXPECTED", tmp_path / "results" / "steps.json")
        return tmp_path

    return build


def a_run(height: float, seconds: float = 1.0, device: str = "abacus") -> dict:
    numbers = {"height": {"value": height, "label": "height, m"}, "width": {"value": 1.0, "label": "width, m"}}
    return {"numbers": numbers, "seconds": seconds, "made_by": {"device": device}}


# The summary


def test_the_summary_is_mean_and_standard_deviation_over_seeds(steps):
    """By hand: 1, 2, 6 have the mean 3 and the variance (4 + 1 + 9) / 2 = 7."""
    runs = [a_run(1.0, 10.0, "first"), a_run(2.0, 20.0, "second"), a_run(6.0, 60.0, "third")]
    found = steps.summary(runs, (3, 1, 4))
    height = {"label": "height, m", "mean": 3.0, "sd": pytest.approx(7**0.5), "values": [1.0, 2.0, 6.0]}
    assert found["numbers"]["height"] == height
    assert found["numbers"]["width"] == {"label": "width, m", "mean": 1.0, "sd": 0.0, "values": [1.0] * 3}
    assert [*found["numbers"]] == ["height", "width"]
    assert (found["seeds"], found["seconds"], found["made_by"]) == ([3, 1, 4], 30.0, {"device": "first"})


def test_one_seed_has_no_deviation_and_two_have_one(steps):
    one, two = (
        steps.summary([a_run(h) for h in heights], (0,))["numbers"]["height"] for heights in ([2.5], [1.0, 2.0])
    )
    assert (one["mean"], one["sd"]) == (2.5, 0.0) and (two["mean"], two["sd"]) == (1.5, pytest.approx(0.5**0.5))


def test_a_number_that_one_seed_does_not_know_is_no_mean(steps):
    other = a_run(2.0)
    del other["numbers"]["height"]
    with pytest.raises(KeyError, match="height"):
        steps.summary([a_run(1.0), other], (0, 1))


# The runs


def test_every_step_three_times_and_the_first_is_shown(steps, ladder, capsys):
    root = ladder()
    steps.main(steps.Config())
    kept = json.loads((root / "results" / "steps.json").read_text())
    assert [*kept["steps"]] == ["step0_one", "step1_two"] and kept["seed"] == 0 and "commit" in kept["made_by"]
    for card in kept["steps"].values():
        assert card["numbers"]["height"]["values"] == [1.5, 2.5, 5.0] and card["numbers"]["height"]["mean"] == 3.0
        assert (card["seeds"], card["seconds"], card["made_by"]) == ([0, 1, 2], 20.0, {"device": "abacus 0"})
    shown = (root / "results" / "steps" / "step1_two.txt").read_text(encoding="utf-8")
    assert shown == "step1_two ± seed 0, 100 columns, --out False\n\nthe end\n"  # a figure is drawn where it belongs
    assert [p.name for p in sorted((root / "runs" / "steps").iterdir())] == [
        "step0_one-playlets-0.json",
        "step1_two-playlets-0.json",
    ]
    said = capsys.readouterr().err.split("\n")
    assert [line for line in said if line] == [
        f"{name}.py, seed {s}" for name in ("step0_one", "step1_two") for s in range(3)
    ]


def test_the_steps_that_are_not_asked_for_stay_as_they_are(steps, ladder):
    root = ladder()
    steps.main(steps.Config(seeds=(2,)))
    steps.main(steps.Config((1,), seeds=(1, 0)))
    kept = json.loads((root / "results" / "steps.json").read_text())
    values = {name: card["numbers"]["height"]["values"] for name, card in kept["steps"].items()}
    assert values == {"step0_one": [5.0], "step1_two": [2.5, 1.5]} and kept["seed"] == 1
    assert "seed 2" in (root / "results" / "steps" / "step0_one.txt").read_text()
    assert "seed 1" in (root / "results" / "steps" / "step1_two.txt").read_text()


@pytest.mark.parametrize("bad_seed", [0, 2])
def test_a_claim_that_fails_is_one_line_and_keeps_the_card_of_before(steps, ladder, bad_seed):
    """Also with the last of its seeds. What other steps measured until then is kept."""
    root = ladder()
    steps.main(steps.Config((1,), seeds=(1,)))
    before = [(root / "results" / name).read_text() for name in ("steps.json", "steps/step1_two.txt")]
    ladder(bad_seed)
    with pytest.raises(UserError, match=rf"(?s)step1_two.py --seed {bad_seed} ended with 1: .*fails: it stands"):
        steps.main(steps.Config((1,)))
    assert [(root / "results" / name).read_text() for name in ("steps.json", "steps/step1_two.txt")] == before
    with pytest.raises(UserError):
        steps.main(steps.Config())
    kept = json.loads((root / "results" / "steps.json").read_text())["steps"]
    assert kept["step0_one"]["seeds"] == [0, 1, 2] and kept["step1_two"]["seeds"] == [1]


def test_a_long_complaint_is_cut_to_its_end(steps, ladder):
    root = ladder()
    (root / "steps" / "step0_one.py").write_text("import sys\nsys.exit('x' * 5000 + ' the reason')")
    with pytest.raises(UserError, match=r": x{289} the reason$"):
        steps.run(root / "steps" / "step0_one.py", 0, None)


def test_from_the_shell_it_is_exit_code_2(steps, ladder, monkeypatch, capsys):
    ladder(bad_seed=0)
    monkeypatch.setattr(sys, "argv", ["steps.py", "1"])
    with pytest.raises(SystemExit) as done:
        cli.run(steps.main, steps.Config, steps.__doc__)
    error = capsys.readouterr().err.strip().split("\n")
    assert done.value.code == 2 and error[-1].startswith("steps.py: step1_two.py --seed 0 ended with 1:")
