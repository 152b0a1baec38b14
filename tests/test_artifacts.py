"""What is made from the weights that ship was made after them: better weights never leave a stale number or picture."""

import json
import subprocess
from pathlib import Path

import pytest

from microdlm.runs import ROOT

OF = {  # what `make artifacts` makes: where its JSON says by which commit
    "results/twins.json": [],
    "results/steps.json": ["steps", "step3_sampling"],
    "results/sampling_frontier.json": [],
    "results/sampling_speed.json": [],
    "results/terminal.json": [],
    "results/web.json": [],
    "results/web_export.json": [],
    "results/notebooks.json": [],
    "web/frames.json": [],
}
BY = {  # the words of the recipe that make it
    "results/twins.json": "--out results/twins.json",
    "results/steps.json": "results/steps.py 3",
    "results/web_export.json": "-m microdlm.export_web --out results/web_export.json",
    "results/notebooks.json": "$(MAKE) notebooks",
    "web/frames.json": "--save web/frames.json",
}
TWINS = ["weights/shakespeare-diffusion/model.safetensors", "weights/shakespeare-gpt/model.safetensors"]


def git(*args: str, root: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", root, *args], capture_output=True, text=True)


def stale(root: Path, weights: list[str], made: dict[str, list[str]]) -> list[str]:
    """Which files name a commit that did not have these weights yet."""
    last, old = git("log", "-1", "--format=%H", "--", *weights, root=root).stdout.strip(), []
    for path, keys in made.items():
        found = json.loads((root / path).read_text(encoding="utf-8"))
        for key in keys:
            found = found[key]
        if git("merge-base", "--is-ancestor", last, found["made_by"]["commit"], root=root).returncode:
            old.append(path)
    return old


@pytest.mark.skipif(
    git("rev-parse", "--is-shallow-repository").stdout.strip() != "false",
    reason="which commit was first, only the whole history knows: git fetch --unshallow",
)
def test_nothing_is_older_than_the_weights_it_was_made_from():
    assert stale(ROOT, TWINS, OF) == [], "make artifacts"


def test_new_weights_make_everything_stale_that_was_not_made_anew(tmp_path):
    """The same question asked of a small repository, where the answer is known."""

    def commit(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        git("add", name, root=tmp_path)
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        assert git(*who, "commit", "-qm", name, root=tmp_path).returncode == 0
        return git("rev-parse", "HEAD", root=tmp_path).stdout.strip()

    git("init", "-q", root=tmp_path)
    first = commit("weights", "1")
    for name in ("a.json", "b.json"):
        commit(name, json.dumps({"in": {"made_by": {"commit": first}}}))
    made = {"a.json": ["in"], "b.json": ["in"]}
    assert stale(tmp_path, ["weights"], made) == []
    better = commit("weights", "2")
    assert stale(tmp_path, ["weights"], made) == ["a.json", "b.json"]
    commit("b.json", json.dumps({"in": {"made_by": {"commit": better}}}))
    assert stale(tmp_path, ["weights"], made) == ["a.json"]
    assert stale(tmp_path, ["weights"], {"b.json": ["in"]}) == []


def test_the_list_is_what_make_artifacts_makes():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("artifacts: web\n")[1].split("\nsite:")[0]
    for path in OF:
        assert BY.get(path, path.replace(".json", ".py")) in recipe, path
