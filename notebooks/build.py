"""From source/*.py to the notebooks: add the first cells, run everything in order, keep outputs and figures.

python notebooks/build.py             all of them, some minutes on one core
python notebooks/build.py 0 4         these two
python notebooks/build.py --published owner/name     where the project is published: badges and Colab's cell, no run

The sources are what one edits: plain Python with `# %%` between the cells (jupytext's percent format). A committed
notebook is one that this file has run from top to bottom; tests compare it with its source.
"""

import os
import re
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from rich.console import Console

from microdlm.errors import UserError
from microdlm.runs import ROOT, provenance, read_json, write_json

HERE = ROOT / "notebooks"
SOURCES = sorted((HERE / "source").glob("[0-9]_*.py"))
PAGE = HERE / "README.md"
TIMES = ROOT / "results" / "notebooks.json"
PROJECT = ROOT / "pyproject.toml"
URL = "https://github.com/"


def repository(project: Path = PROJECT) -> str:
    """Where the project is published, owner/name: the badges and Colab's first cell point there."""
    return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["urls"]["Repository"].removeprefix(URL)


BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{stem}.ipynb)"
)
FETCH = """\
# On Colab this fetches the project. Everywhere else it does nothing.
import os
import subprocess
import sys

if "google.colab" in sys.modules:
    subprocess.run(["git", "clone", "--quiet", "--depth=1", "https://github.com/{repository}", "microDLM"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", "microDLM"], check=True)
    sys.path.insert(0, os.path.abspath("microDLM"))
    os.chdir("microDLM/notebooks")
    sys.path.insert(0, os.getcwd())"""


def first_cells(source: Path) -> tuple[str, str]:
    names = {"repository": repository(), "stem": source.stem}
    return BADGE.format(**names), FETCH.format(**names)


def assemble(source: Path) -> nbformat.NotebookNode:
    """The notebook as it is before it has run."""
    notebook = jupytext.read(source, fmt="py:percent")
    badge, fetch = first_cells(source)
    notebook.cells = [nbformat.v4.new_markdown_cell(badge), nbformat.v4.new_code_cell(fetch), *notebook.cells]
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"{source.stem}-{i}", {}
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(notebook: nbformat.NotebookNode, **environment: str) -> float:
    """Run all cells, in a fresh process, in the notebooks' folder; the first error ends it.

    Returns the seconds for which that process kept a processor busy: other programs do not change them much."""
    before, path = os.times(), os.environ.get("PYTHONPATH", "")
    paths = os.pathsep.join(filter(None, [str(ROOT), path]))
    env = os.environ | {"PYTHONPATH": paths, "MICRODLM_STILL": "1"} | environment
    quiet = ["--log-level=CRITICAL"]
    client = NotebookClient(notebook, timeout=1800, record_timing=False, extra_arguments=quiet)
    client.execute(cwd=str(HERE), env=env)
    after = os.times()
    return sum(getattr(after, part) - getattr(before, part) for part in ("children_user", "children_system"))


def publish(where: str) -> None:
    """Say in pyproject.toml where the project is, and point the notebooks there. What they have shown stays."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", where):
        raise UserError(f"{where!r} is no place on GitHub: give owner/name")
    text = PROJECT.read_text(encoding="utf-8")
    PROJECT.write_text(re.sub(r"^Repository = .*$", f'Repository = "{URL}{where}"', text, flags=re.M), encoding="utf-8")
    for source in SOURCES:
        notebook = nbformat.read(path := HERE / f"{source.stem}.ipynb", 4)
        notebook.cells[0].source, notebook.cells[1].source = first_cells(source)
        nbformat.write(notebook, path)


def main(which: list[str]) -> None:
    console, made_by = Console(stderr=True), provenance()
    known = read_json(TIMES)["notebooks"] if TIMES.exists() else {}
    for source in SOURCES:
        if which and source.stem[0] not in which:
            continue
        with console.status(source.stem):
            seconds = execute(notebook := assemble(source))
        nbformat.write(notebook, HERE / f"{source.stem}.ipynb")
        known[source.stem] = {"seconds": seconds, "made_by": made_by}
        console.print(f"{source.stem}  {seconds:.0f} s of one core")
        write_json(TIMES, {"notebooks": dict(sorted(known.items())), "seed": 0, "made_by": made_by})

    page = PAGE.read_text(encoding="utf-8")
    for stem, measured in known.items():
        page = re.sub(rf"(`{stem}`.*\|) \d+ \|$", rf"\1 {measured['seconds']:.0f} |", page, flags=re.M)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--published"]:
        try:
            publish(" ".join(sys.argv[2:]))
        except UserError as e:
            print(e, file=sys.stderr)
            sys.exit(2)
    else:
        main(sys.argv[1:])
