"""The stopwatch of a stranger's first hour: it starts from nothing, and tells what failed."""

import sys

import pytest


@pytest.fixture(scope="module")
def hour(command):
    return command("first_hour")


@pytest.fixture(scope="module")
def costs(command):
    return command("sections_of_costs")


def test_a_stranger_knows_nothing_of_this_environment(hour, tmp_path, monkeypatch):
    for name in ("MICRODLM_DATA", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "HF_TOKEN"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "kept")
    env = hour.stranger(tmp_path)
    assert env["HOME"] == str(tmp_path) and env["PIP_EXTRA_INDEX_URL"] == "kept" and "PATH" in env
    assert not {"MICRODLM_DATA", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "HF_TOKEN"} & env.keys()


def test_the_stopwatch_keeps_seconds_exit_code_and_claims(hour, tmp_path):
    program = "import time; time.sleep(0.2); print('✓ holds  a'); print('b'); print('✗ fails  c'); raise SystemExit(3)"
    env = hour.stranger(tmp_path) | {"PYTHONIOENCODING": "utf-8"}
    row = hour.timed("a command", [sys.executable, "-c", program], tmp_path, env)
    assert row["code"] == 3 and row["claims"] == ["✓ holds  a", "✗ fails  c"] and 0.2 < row["seconds"] < 60
    assert row["command"] == "a command"


def test_the_page_adds_up_and_names_what_failed(costs):
    made = {"device": "a device", "python": "3.11", "command": "python x.py", "date": "2026-01-02T00:00:00"}
    rows = [
        {"command": "first", "seconds": 59.6, "code": 0, "claims": []},
        {"command": "second", "seconds": 3601.0, "code": 1, "claims": ["✓ holds  a"]},
    ]
    page = costs.first_hour({"rows": rows, "processors": 2, "load_before": 0.25, "made_by": made})
    assert "| `first` | 60 | 0:59 |" in page and "| `second` | 3,601 | 61:00 |" in page
    assert "in all but second" in page and page.endswith("$ first\n$ second\n✓ holds  a\n```")
    rows[1]["code"] = 0
    assert "Exit code 0 in all." in costs.first_hour({"rows": rows, "processors": 2, "load_before": 0, "made_by": made})
