"""Running the suite again and again: red is seen, kept, and starts the count anew."""

import json

import pytest

from microdlm.runs import ROOT, read_json


@pytest.fixture(scope="module")
def suite(command):
    return command("suite")


def test_a_red_run_starts_the_count_anew(suite):
    green, red = {"code": 0}, {"code": 1}
    assert suite.in_a_row([]) == 0 and suite.in_a_row([green] * 3) == 3
    assert suite.in_a_row([green, red, green, green]) == 2 and suite.in_a_row([green, red]) == 0


def test_it_goes_on_where_it_was_and_stops_at_the_first_red_one(suite, tmp_path):
    """Two real runs of a test that is green once, then red."""
    test = tmp_path / "test_once.py"
    test.write_text(
        "from pathlib import Path\n"
        "def test_once():\n"
        "    mark = Path(__file__).with_name('mark')\n"
        "    assert not mark.exists()\n"
        "    mark.touch()\n"
    )
    cfg = suite.Config(times=1, tests=(str(test),), out=tmp_path / "suite.json")
    suite.main(cfg)
    with pytest.raises(SystemExit):
        suite.main(suite.Config(times=5, tests=cfg.tests, out=cfg.out))
    kept = json.loads(cfg.out.read_text())
    assert [row["code"] for row in kept["runs"]] == [0, 1] and kept["in_a_row"] == 0
    assert kept["runs"][0]["order"] == "of files" and "random" in kept["runs"][1]["order"]
    assert "test_once" in kept["runs"][1]["red"][0] and "1 failed" in kept["runs"][1]["said"]


def test_the_count_that_is_recorded_is_that_of_the_runs(suite):
    kept = read_json(ROOT / "results" / "suite.json")
    assert kept["in_a_row"] == suite.in_a_row(kept["runs"])
    assert all(bool(row["red"]) == bool(row["code"]) for row in kept["runs"])


def test_the_page_counts_the_green_ones_at_the_end(command):
    said, shuffled = "7 passed, 1 skipped, 3 warnings in 9.00s (0:00:09)", "--random-order --random-order-seed=1"
    runs = [{"code": code, "order": shuffled, "said": said, "seconds": 180} for code in (0, 1, 0, 0)]
    runs.append({"code": 0, "order": "of files", "said": said, "seconds": 180})
    text = command("sections_of_trust").suite({"in_a_row": 3, "runs": runs})
    assert "3 times in a row, 2 of them in a random order" in text and "7 passed, 1 skipped, 3 minutes. All 5" in text
    assert " 0 of them" in command("sections_of_trust").suite({"in_a_row": 0, "runs": runs[:2]})


def test_the_page_tells_well_from_not_well(command):
    trust = command("sections_of_trust")
    found = {name: {times: 9, "kept": name != "the clock may jump"} for name, (_, times) in trust.FAULTS.items()}
    found |= {name: {"inputs": 5000, "faults": [], "targets": {"x": {}}} for name in trust.FUZZED}
    found["fuzzing"]["faults"] = ["a", "b"]
    text = trust.promises({"sections": found})
    assert text.count("| 9 | all |") == 4 and text.count("while training | 9 | not all |") == 1
    assert text.count("| 5,000 | all but 2 |") == text.count("| 5,000 | all |") == 1
