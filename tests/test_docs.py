"""Guide and coverage: each file, command, option and name in them exists."""

import dataclasses
import importlib
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from microdlm import __main__ as command
from microdlm.lesson import Config as LessonConfig
from microdlm.runs import ROOT
from microdlm.samplers import SAMPLERS

PAGES = [ROOT / "docs" / name for name in ("guide.md", "coverage.md")]
OURS = ("microdlm", "steps", "results", "study", "notebooks", "tests", "web", "weights", "docs", ".github")
STATES = ("covered", "otherwise", "left out", "open")


def spans(page: Path) -> list[str]:
    """What is set as code, in a line or as lines of its own."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [*inline, *(line for block in fenced for line in block.splitlines() if line)]


SPANS = sorted({(page.name, span) for page in PAGES for span in spans(page)})
COMMANDS = [(page, span) for page, span in SPANS if re.match(r"(python|microdlm|make|diff) ", span)]
FILES = [
    (page, span) for page, span in SPANS if re.fullmatch(r"[\w./-]+\.\w{2,11}", span) or span.split("/")[0] in OURS[1:]
]


def files_of(span: str) -> list[Path]:
    return [ROOT / word for word in span.split() if "/" in word or word.endswith((".py", ".md"))]


@cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def options(words: list[str]) -> set[str]:
    """What the program that these words call knows as options, by name."""
    if words[0] == "microdlm":
        return {f.name for f in dataclasses.fields(subcommands()[words[1]])}
    if words[1] == "-m":
        module = importlib.import_module(words[2] if words[2] != "study" else "study.__main__")
        called = {"run": "Work"}.get(words[3], words[3].title()) if words[2] == "study" else "Config"
        fields = dataclasses.fields(getattr(module, called))
        nested = [
            (f.name, g.name) for f in fields if dataclasses.is_dataclass(f.type) for g in dataclasses.fields(f.type)
        ]
        return {f.name for f in fields} | {f"{outer}.{inner}" for outer, inner in nested}
    if words[1].startswith("steps/"):
        return {f.name for f in dataclasses.fields(LessonConfig)} | {"break"}
    body = source(ROOT / words[1]).split("class Config:")[1].split("\n\n\n")[0]
    return set(re.findall(r"^    (\w+):", body, re.MULTILINE))


def subcommands() -> dict[str, type]:
    (field,) = dataclasses.fields(command.Config)
    return {kind.__name__.lower(): kind for kind in field.type.__origin__.__args__}


@pytest.mark.parametrize("page, span", COMMANDS, ids=lambda v: v.replace("/", "."))
def test_a_command_is_one(page, span):
    words = shlex.split(span)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", source(ROOT / "Makefile"), re.MULTILINE)
    elif words[0] == "diff":
        assert all((ROOT / word).is_file() for word in words[1:])
    else:
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file()
        asked = {
            w.lstrip("-").replace("-", "_"): v for w, v in zip(words, [*words[1:], ""], strict=True) if w[:2] == "--"
        }
        assert asked.keys() <= options(words)
        if "break" in asked:
            assert re.search(rf'^    "{asked["break"]}": ', source(ROOT / words[1]), re.MULTILINE)
        assert asked.get("sampler", "confidence") in SAMPLERS


def test_what_waits_for_a_machine_is_a_command_and_writes_over_nothing(script):
    """Each command of the two lists of results/README.md has only options that there are; what the GPU's are to leave
    here is written by one of them, and no number that stands here is."""
    waiting = source(ROOT / "results" / "README.md").split("## Not yet run: what two cores can do")[1]
    for span in re.findall(r"`(python [^`]+)`", waiting):
        test_a_command_is_one("results/README.md", span)
    queue = script("results/page").QUEUE
    assert all(commands in waiting for _, commands, _ in queue)
    for _, commands, done in queue:
        (name,) = re.findall(r"`([\w.-]+\.json)`", done)
        assert not (ROOT / "results" / name).exists(), f"{name} stands here for another size"
        preset = re.search(r"study analyse --preset ([\w-]+)", commands)
        assert name == f"schedule_study_{preset[1]}.json" if preset else f"--out results/{name}`" in commands


@pytest.mark.parametrize("page, span", FILES, ids=lambda v: v.replace("/", "."))
def test_a_file_is_there(page, span):
    """What a command makes is not: only paths with a folder of ours, and pages and programs at the root."""
    path = span.split(":")[0]
    if path.split("/")[0] in OURS or path.endswith((".py", ".md")):
        assert (ROOT / path).exists(), f"{page} names {path}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", source(page)):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_feature_has_one_of_four_states_and_a_place():
    rows = [line.strip("| ").split(" | ") for line in source(PAGES[1]).splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] != "feature"]
    assert len(rows) > 80 and all(len(row) == 3 and row[1] in STATES and len(row[2]) > 10 for row in rows)
    for feature, state, where in rows:
        assert "`" in where or "notebook" in where or state != "covered", f"covered, but where? {feature}"


def test_every_break_of_the_extras_is_in_the_guide_or_their_headers(step):
    for path in sorted((ROOT / "steps").glob("extra_*.py")):
        header = source(path).split('"""')[1]
        fields = ["Question.", "Answer.", "Written out here", "Taken from earlier", "Not the lesson"]
        fields += ["Run ", "Expect ", "Look at ", "Break it ", "Still missing"]
        places = [header.find(f"\n{field}") for field in fields]
        assert -1 not in places and places == sorted(places) and len(header.splitlines()) <= 32
        assert all(f"--break {name} " in header for name in step(path.stem).BREAKS)
        assert f"python steps/{path.name}" in header and f"python steps/{path.name}" in source(PAGES[0])


@pytest.mark.parametrize("path", sorted((ROOT / "steps").glob("extra_*.py")), ids=lambda p: p.stem)
def test_an_extra_is_a_program_that_runs_from_anywhere(path, tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, path, "--help"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "--smoke" in done.stdout and "Question." in done.stdout, done.stderr


def test_a_paper_has_one_name():
    """An arXiv number in the guide stands for one paper, and each paper of the reading list has one."""
    listed = re.findall(r"^\* \*\*(.+?)\*\*, (\d{4}\.\d{5}): .+[a-z.]$", source(PAGES[0]), re.MULTILINE)
    assert len(listed) > 15 and len({number for _, number in listed}) == len(listed)
    assert set(re.findall(r"\d{4}\.\d{5}", source(PAGES[0]))) == {number for _, number in listed}
