"""Every number that is quoted stands in results/*.json, and says what made it."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from microdlm.runs import ROOT
from microdlm.state import TrainConfig
from microdlm.transformer import TransformerConfig

README = (ROOT / "README.md").read_text(encoding="utf-8")
KINDS = ("gpt", "diffusion")
MEASURED = sorted((ROOT / "results").glob("*.json"))
MADE_BY = {
    "commit": "0123abc",
    "command": "python comparison.py a b",
    "threads": 2,
    "torch": "2.13.0",
    "date": "2025-01-01",
}
TWINS = {
    "corpus": {"name": "shakespeare", "sha256": "86c4"},
    "windows": 435,
    "seed": 0,
    "likelihood": {
        "gpt": {"nats_per_char": 1.5678, "stderr": 0.0123, "parameters": 800_000},
        "diffusion": {"nats_per_char": 1.9876, "stderr": 0.0112, "parameters": 800_000},
    },
    "writing": [
        {"kind": kind, "way": "its way", "sample": "O!"}
        | {"passes": 255, "token_forwards": 1234, "seconds": 3.0, "texts": 16}
        for kind in KINDS
    ],
    "race": {kind: [{"way": "its way", "passes": n, "text": "a rose\nby"} for n in (0, 9)] for kind in KINDS},
    "made_by": MADE_BY,
}
DEMO = TWINS | {
    "exact": {"nats_per_char": 0.4321, "stderr": 0.0054, "entropy_rate": 0.4001},
    "writing": [w | {"lines": 40, "lines_accepted": 10} for w in TWINS["writing"]],
}
CONFIG = {
    "summary": {"parameters": 800_000, "steps": 8000, "validations": [{"step": 800, "val": 1.6543}]},
    "made_by": MADE_BY,
    "model": asdict(TransformerConfig(vocab_size=66, seq_len=256)),
    "training": asdict(TrainConfig(steps=8000, batch_size=16)),
    "corpus": {"name": "shakespeare", "sha256": "86c4"},
}


def tables(root: Path, *options: str) -> subprocess.CompletedProcess:
    argv = [sys.executable, str(root / "results" / "tables.py"), *options]
    return subprocess.run(argv, cwd=root.parent, capture_output=True, text=True, timeout=60)


@pytest.fixture
def project(tmp_path) -> Path:
    """The README and the program that fills it, beside numbers that nobody measured."""
    root = tmp_path / "a copy"
    for folder in ("results", "docs"):
        (root / folder).mkdir(parents=True)
    parts = ("sections", *(f"sections_of_{what}" for what in ("cards", "costs", "epochs")))
    code = [f"results/{name}.py" for name in ("tables", *parts)]
    pages = ("README.md", "docs/first_hour.md", *code)
    real = ("steps", "sampling_frontier", "sampling_speed", "schedule_study_nano", "first_hour", "epochs")
    for name in (*pages, *(f"results/{name}.json" for name in real)):
        shutil.copy(ROOT / name, root / name)
    (root / "results" / "twins.json").write_text(json.dumps(TWINS))
    (root / "results" / "demo.json").write_text(json.dumps(DEMO))
    for name in (*KINDS, "judge"):
        config = CONFIG | {"kind": "gpt" if name == "judge" else name}
        (root / "weights" / f"shakespeare-{name}").mkdir(parents=True)
        (root / "weights" / f"shakespeare-{name}" / "config.json").write_text(json.dumps(config))
    return root


def test_the_tables_are_what_the_numbers_say(project):
    assert tables(project, "--check").returncode == 1  # these are not the numbers that README shows
    assert tables(project).returncode == 0
    assert tables(project, "--check").returncode == 0
    readme = (project / "README.md").read_text()
    assert "1.568 ± 0.012" in readme and "≤ 1.988 ± 0.011" in readme and "0.80M" in readme
    assert "≤ 1.568" not in readme  # a GPT's value is exact
    assert "+1.136" in readme and "0.4001" in readme  # against the exact answer
    assert "| 25% ± 7% (10 of 40) |" in readme
    outside = [re.sub(r"<!-- (\w+) -->.*?<!-- end \1 -->", "", t, flags=re.S) for t in (readme, README)]
    assert outside[0] == outside[1]
    card = (project / "weights" / "shakespeare-diffusion" / "README.md").read_text()
    assert "≤ 1.988 ± 0.011" in card and "1.568" not in card


@pytest.mark.parametrize("page", ["README.md", "weights/shakespeare-gpt/README.md"])
def test_one_digit_changed_by_hand_is_found(project, page):
    assert tables(project).returncode == 0
    text = (project / page).read_text()
    (project / page).write_text(text.replace("1.568 ± 0.012", "1.558 ± 0.012", 1))
    found = tables(project, "--check")
    assert found.returncode == 1 and page in found.stderr


def test_the_readme_says_how_much_more_the_one_twin_has_read():
    """And that by the curves in the weights the one still improved when the other had long stood still."""
    configs = [json.loads((ROOT / f"weights/shakespeare-{k}/config.json").read_text(encoding="utf-8")) for k in KINDS]
    curves = {config["kind"]: config["summary"]["validations"] for config in configs}
    read = {kind: curve[-1]["tokens"] for kind, curve in curves.items()}
    batch = {config["kind"]: config["training"]["batch_size"] for config in configs}
    said = f"has read {read['diffusion'] / read['gpt']:.1f} times as much text, in batches four times as large"
    assert said in " ".join(README.split()) and batch["diffusion"] == 4 * batch["gpt"]
    last_third = {kind: curve[-4]["val"] - curve[-1]["val"] for kind, curve in curves.items()}
    assert last_third["gpt"] < 0.01 < last_third["diffusion"]
    gpt = next(config for config in configs if config["kind"] == "gpt")
    assert gpt["training"]["lr"] == 3e-3 and "nor the 3e-3 of the shipped weights" in " ".join(README.split())


def test_the_readme_says_how_far_apart_the_twins_are():
    """In nats, beside the literature; in seconds: 16 texts at once from the JSON, one text from the recorded races."""
    numbers = json.loads((ROOT / "results" / "twins.json").read_text(encoding="utf-8"))
    readme, nats = " ".join(README.split()), {k: e["nats_per_char"] for k, e in numbers["likelihood"].items()}
    above = f"{nats['diffusion'] / nats['gpt'] - 1:.0%}".replace("%", " %")
    assert f"the diffusion model's bound is {above} above the GPT's nats per character" in readme
    seconds = {(w["kind"], w["texts"]): w["seconds"] for w in reversed(numbers["writing"])}
    times = seconds["diffusion", 16] / seconds["gpt", 16]  # surest first, the faster of its two ways
    assert f"with 16 texts at once the GPT is {times:.1f} times faster" in readme
    races = [p.read_text(encoding="utf-8") for p in (ROOT / "results" / "terminal").glob("race-*-after.txt")]
    least = [re.search(r"^Least time: .*?, ([\d.]+) against ([\d.]+)", race, re.MULTILINE) for race in races]
    assert "For one text the third is close" in readme and len(least) == 3
    assert all(float(found[2]) < 1.5 * float(found[1]) for found in least)


@pytest.mark.parametrize("kind", [*KINDS, "judge"])
def test_a_card_says_which_windows_chose_the_weights(kind):
    """As the code did it that made them, if its history is here."""
    folder = ROOT / f"weights/shakespeare-{kind}"
    made = json.loads((folder / "config.json").read_text(encoding="utf-8"))["made_by"]
    script = made["command"].split()[1]
    argv = ["git", "show", f"{made['commit']}:{script}"]
    code = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if code.returncode:
        pytest.skip("the commit that made these weights is not here")
    spread = re.search(r"= corpus\.windows\(L, (n=64|min\(64, cfg\.windows\))\)", code.stdout)
    assert bool(spread) != ("score(model, x_0=x_0[:64])" in code.stdout), f"{script} has a third way"
    which = "64 windows spread over the held-out text" if spread else "the first 64 held-out windows"
    assert f"on {which}." in (folder / "README.md").read_text(encoding="utf-8")


def test_one_number_measured_anew_is_found(project):
    assert tables(project).returncode == 0
    (project / "results" / "twins.json").write_text(json.dumps(TWINS | {"windows": 434}))
    assert tables(project, "--check").returncode == 1


def test_the_pages_show_the_numbers_measured_last():
    checked = tables(ROOT, "--check")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("path", MEASURED, ids=lambda p: p.name)
def test_every_measurement_says_what_made_it(path):
    numbers = json.loads(path.read_text(encoding="utf-8"))
    made = numbers["made_by"]
    assert re.fullmatch("[0-9a-f]{40}", made["commit"]), "measured with code that is in no commit"
    assert not made["uncommitted_changes"], "measured with code that differs from its commit"
    assert made["command"].startswith("python ")
    assert isinstance(made.get("seed", numbers.get("seed")), int)
    assert made["device"] and made["date"]


def test_no_error_is_missing_where_a_likelihood_is_given():
    assert MEASURED

    def check(value, path):
        if isinstance(value, dict):
            assert "nats_per_char" not in value or value["stderr"] > 0, path
            for key, inner in value.items():
                check(inner, f"{path}.{key}")

    for path in MEASURED:
        check(json.loads(path.read_text(encoding="utf-8")), path.name)


def test_no_trained_twin_beats_the_language():
    """Playlets scores the same windows exactly. The text's noise is common to all; what is left is the masks'."""
    numbers = json.loads((ROOT / "results" / "demo.json").read_text(encoding="utf-8"))
    exact = numbers["exact"]
    assert exact["nats_per_char"] > exact["entropy_rate"]  # a window does not know what came before it
    for kind, e in numbers["likelihood"].items():
        assert e["nats_per_char"] > exact["nats_per_char"], kind
