"""What CONTRIBUTING.md says is done, word for word, in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from microdlm.runs import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (A \w+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))
INSERT = re.compile(r"^`([\w./]+)`, (?:before `(.+?)`|a new file):\n\n```python\n(.*?)^```$", re.M | re.S)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
COPIED = ["microdlm", "steps", "study", "results", "tests", "weights", "diffusion.py", "gpt.py", "visualize.py"]


def copy(folder: Path) -> Path:
    (folder / "data").mkdir()
    for name in [*COPIED, "pyproject.toml", "data/playlets.txt"]:
        path = ROOT / name
        skip = shutil.ignore_patterns("__pycache__", "*.gif")
        shutil.copytree(path, folder / name, ignore=skip) if path.is_dir() else shutil.copy(path, folder / name)
    return folder


def follow(recipe: str, folder: Path) -> None:
    for name, anchor, code in INSERT.findall(RECIPES[recipe]):
        path = folder / name
        if anchor:
            old = path.read_text(encoding="utf-8")
            assert old.count(f"\n{anchor}") == 1, f"{name} has not one line that begins with {anchor!r}"
            code = old.replace(f"\n{anchor}", f"\n{code}{anchor}")
        path.write_text(code, encoding="utf-8")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess:
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": tools, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_written_is_enough(recipe, tmp_path):
    folder = copy(tmp_path)
    follow(recipe, folder)
    for line in COMMANDS.findall(RECIPES[recipe])[0].splitlines():
        done = shell(line, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "no tests ran" not in done.stdout


def test_a_recipe_is_ten_lines_at_most():
    assert list(RECIPES) == ["A schedule", "A sampler", "A step"]
    for name, text in RECIPES.items():
        lines = re.findall(r"^\d+\. .+$", text, re.M)
        assert 3 <= len(lines) <= 10 and all(len(line) <= 120 for line in lines), name


def test_a_schedule_that_is_wrong_is_found(tmp_path):
    """The weight of another one: what the recipe says to run says so."""
    folder = copy(tmp_path)
    follow("A schedule", folder)
    path = folder / "microdlm" / "schedules.py"
    path.write_text(path.read_text(encoding="utf-8").replace("lambda t: 2 / t,", "lambda t: 1 / t,"), encoding="utf-8")
    done = shell('python -m pytest tests/test_schedules.py -q -k "square"', folder)
    assert done.returncode == 1 and "weight_is_minus_alpha_slope" in done.stdout
