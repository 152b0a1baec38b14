"""Fuzzing that is led by coverage: it ends well where nothing is wrong, and finds what was planted."""

import subprocess
import sys

import pytest

from microdlm.runs import ROOT

pytest.importorskip("atheris", reason="pip install -e '.[fuzz]' runs these")

PLANTED = """
import sys
sys.argv = ["fuzz_guided.py", "--only", "canvas"]
sys.path.insert(0, "results")
import fuzz_guided as f

def read(data):  # two branches deep, so that it takes what reached the first to find the second
    if data[:1] == b"{":
        if data[1:2] == b"9":
            raise ValueError("planted")

import atheris
f.targets = lambda: {"canvas": ([b"aaaa"], atheris.instrument_func(read))}
f.be(f.Config(only="canvas", runs=200_000))
"""


@pytest.mark.parametrize("name", ["canvas", "configuration"])
def test_a_reader_stands_a_few_hundred_inputs(command, name):
    fuzz = command("fuzz_guided")
    row = fuzz.attack(name, fuzz.Config(runs=300))
    assert "fault" not in row and row["inputs"] == 300 and row["paths"] >= row["paths at first"] > 0


def test_a_planted_fault_is_found():
    done = subprocess.run([sys.executable, "-c", PLANTED], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "ValueError: planted" in done.stderr + done.stdout
