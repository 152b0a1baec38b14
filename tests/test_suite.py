"""Running the suite again and again: red is seen, kept, and starts the count anew."""

import json

import pytest


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
