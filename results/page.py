"""Write results/README.md from results/*.json: which recipes helped, what a quality takes, what has not run yet.

python results/page.py            write it
python results/page.py --check    exit with 1 if it is not what the JSON says
"""

import sys
from functools import partial
from pathlib import Path

from sections import budgets, quality, tales
from sections_of_costs import growth, speed
from sections_of_epochs import epochs
from sections_of_recipes import ablations, recipes, recipes_again
from sections_of_trust import promises, suite

from microdlm.runs import ROOT, read_json

PAGE = ROOT / "results" / "README.md"
HEAD = """\
# Results

Every number that is quoted in this repository stands in a JSON file here, written by a command that says what it is.
This page is written by `python results/page.py`; the tables of the README come from `python results/tables.py` and the
figures from `python results/figures.py`, all by `make results`.

| command | writes | state |
|---|---|---|
"""
COMMANDS = {  # command: what it writes
    "python -m microdlm.comparison …": "twins.json",
    "make demo": "demo.json",
    "python results/steps.py": "steps.json",
    "python results/sampling_exact.py": "sampling_exact.json",
    "python results/sampling_frontier.py": "sampling_frontier.json",
    "python results/sampling_speed.py": "sampling_speed.json",
    "python results/recipes.py": "recipes.json",
    "python results/recipes.py --size small …": "recipes_small.json",
    "python results/ablations.py": "ablations.json",
    "python results/time_to_quality.py": "time_to_quality.json",
    "python results/time_to_quality.py --size small …": "time_to_quality_small.json",
    "python results/stories.py": "tinystories.json",
    "python results/training_speed.py": "training_speed.json",
    "python results/epochs.py …": "epochs.json",
    "python results/budgets.py": "budgets.json",
    "python results/growth.py": "growth.json",
    "python -m study run, then analyse": "schedule_study_nano.json",
    "python -m study run --grid published, then analyse": "schedule_study_nano_published.json",
    "python -m study speed": "data_speed.json",
    "python results/reliability.py": "reliability.json",
    "python results/fuzz.py": "reliability.json",
    "python results/fuzz_guided.py": "reliability.json",
    "python results/first_hour.py": "first_hour.json",
    "python results/suite.py": "suite.json",
    "python results/curve.py": "curve.json",
    "python results/terminal.py": "terminal.json",
    "python results/web.py": "web.json",
    "python -m microdlm.export_web": "web_export.json",
    "python notebooks/build.py": "notebooks.json",
}
CORES_HEAD = """
## Not yet run: what two cores can do

| run | command |
|---|---|
"""
CORES = [  # what, command, what stands here when it is done; it is done when that says that nothing is left
    (
        "what each option of the backbone is worth",
        "`python results/ablations.py` goes on where it was",
        "ablations.json",
    ),
    ("the rest of the search", "`python results/recipes.py` goes on where it was", "recipes.json"),
    (
        "the rest of the same at a larger size; goes on where it was",
        "`python results/recipes.py --size small --chars 4096000 --out results/recipes_small.json`",
        "recipes_small.json",
    ),
    (
        "the same of a quality's text",
        "`python results/time_to_quality.py --size small --chars 8192000 --compile"
        " --out results/time_to_quality_small.json`",
        "time_to_quality_small.json",
    ),
    (
        "whole training steps against a textbook's; wants a machine that does nothing else",
        "`python results/training_speed.py`",
        "training_speed.json",
    ),
    (
        "epochs against likelihood, as far as 1,000; goes on where it was",
        "`python results/epochs.py --size nano --share 0.05 --windows 64 --samples 4 --evals 100 --patience 25"
        " --epochs 10 30 100 300 1000 --compile`",
        "epochs.json",
    ),
    (
        "the published budget of the transformer; takes long",
        "`python results/budgets.py transformer --compile`",
        "budgets.json",
    ),
    (
        "what growing costs; wants a machine that does nothing else",
        "`python results/growth.py`",
        "growth.json",
    ),
]
QUEUE_HEAD = """
## Not yet run: what wants a GPU

In this order. None of these numbers is quoted anywhere before its file stands here.

| run | command | done when |
|---|---|---|
"""
QUEUE = [  # what, commands, what stands here when it is done: names that no run at another size has
    (
        "the twins at 10.7M on Tiny Shakespeare, diffusion 10,000 steps, GPT 5,000",
        "`python diffusion.py --train --data shakespeare --preset full`,"
        " `python gpt.py --train --data shakespeare --preset full --steps 5000`, then"
        " `python -m microdlm.comparison runs/diffusion-shakespeare-full runs/gpt-shakespeare-full"
        " --out results/twins_full.json`",
        "`twins_full.json`",
    ),
    (
        "a GPT worth beating: dropout, weight decay, masked inputs, early stopping; three seeds of the best",
        "`python results/epochs.py --size full --share 1 --epochs 20 80 --evals 100 --patience 25 --only gpt"
        " --out results/gpt_tuning.json`",
        "`gpt_tuning.json`",
    ),
    (
        "the best recipe for the 10.7M diffusion model; the goal is 1.47 nats",
        "`python results/recipes.py --size full --chars 20480000 --out results/diffusion_tuning.json`",
        "`diffusion_tuning.json`",
    ),
    (
        "epochs against likelihood, both twins",
        "`python results/epochs.py --size full --share 1 --evals 100 --patience 25 --out results/epochs_full.json`",
        "`epochs_full.json`, figure",
    ),
    (
        "the schedule study at 10.7M: twelve runs, three seeds",
        "`python -m study run --preset shakespeare-10m`, then `python -m study analyse --preset shakespeare-10m`",
        "`schedule_study_shakespeare-10m.json`, figure",
    ),
    (
        "124M: the twelve runs, as far as time goes; time of a step, share of the peak, memory",
        "`python -m study prepare --processes 8`, `python -m study entropy --preset fineweb-124m --judge gpt2`,"
        " `python -m study run --preset fineweb-124m`, then `python -m study analyse --preset fineweb-124m`;"
        " meanwhile `python -m study status --preset fineweb-124m`",
        "`schedule_study_fineweb-124m.json`",
    ),
    *(
        (
            f"a large model for TinyStories, {size}M, whose text is held in memory whole",
            f"`python diffusion.py --train --preset tinystories-{size}m --out runs/tinystories-{size}m`, then"
            f" `python results/stories.py --model runs/tinystories-{size}m --data tinystories-all --windows 900"
            f" --out results/tinystories_{size}m.json`",
            f"`tinystories_{size}m.json`",
        )
        for size in (45, 142)
    ),
    (
        "ways to write, with the weights of 10.7M and the same judge",
        "`python results/sampling_frontier.py --diffusion runs/diffusion-shakespeare-full"
        " --gpt runs/gpt-shakespeare-full --out results/sampling_frontier_full.json`",
        "`sampling_frontier_full.json`",
    ),
]


def read(name: str) -> dict | None:
    path = ROOT / "results" / name
    return read_json(path) if path.exists() else None


def state(name: str) -> str:
    numbers = read(name)
    return (
        "not yet run" if numbers is None else f"run {numbers['made_by']['date'][:10]}, {numbers['made_by']['device']}"
    )


SECTIONS = {
    "recipes.json": ("summary", recipes),
    "recipes_small.json": ("summary", lambda numbers: recipes_again(numbers, read("recipes.json"))),
    "ablations.json": ("summary", ablations),
    "time_to_quality.json": ("marks", quality),
    "time_to_quality_small.json": ("marks", partial(quality, name="time_to_quality_small")),
    "tinystories.json": ("writing", tales),
    "epochs.json": ("summary", epochs),
    "budgets.json": ("models", budgets),
    "training_speed.json": ("rows", speed),
    "growth.json": ("fits", growth),
    "reliability.json": ("sections", promises),
    "suite.json": ("runs", suite),
}


def page() -> str:
    rows = [f"| `{command}` | `{name}` | {state(name)} |" for command, name in COMMANDS.items()]
    measured = [write(n) for name, (part, write) in SECTIONS.items() if part in (n := read(name) or {})]
    queue = [f"| {' | '.join(row)} |" for row in QUEUE]
    left = [f"| {what} | {how} |" for what, how, name in CORES if (found := read(name)) is None or found.get("not_run")]
    parts = [HEAD, "\n".join([*rows, *measured]), "\n", CORES_HEAD, "\n".join(left), "\n", QUEUE_HEAD, "\n".join(queue)]
    return "".join([*parts, "\n"])


def main(path: Path = PAGE) -> None:
    stale = not path.exists() or path.read_text(encoding="utf-8") != page()
    if "--check" in sys.argv[1:]:
        sys.exit("results/README.md is not what results/*.json says; run make results" if stale else 0)
    path.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
