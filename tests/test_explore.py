"""The explorables: their maths is Python's, their numbers are the measured ones, their colours can be read."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microdlm.colours import COLOURS
from microdlm.likelihood import exact_curve
from microdlm.oracle import MarkovDenoiser
from microdlm.pacing import expected_passes, masked_shares, parallel_bound, step_counts
from microdlm.runs import ROOT
from microdlm.schedules import SCHEDULES

HERE = ROOT / "web" / "explore"
TIMES = [i / 40 for i in range(1, 40)] + [1e-3, 0.999]
CURVE = [0.3 + 3 * (n / 20) ** 2 for n in range(1, 21)]  # c_1 .. c_20 of nobody
STYLE = (ROOT / "web" / "style.css").read_text(encoding="utf-8")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed: it runs the page's maths")


def node(*arguments: str, code: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(["node", *arguments], input=code, cwd=HERE, capture_output=True, text=True, timeout=120)


def ask(expression: str):
    """What an expression gives in JavaScript, with the modules of the maths at hand."""
    modules = ("area", "letters", "pacing", "reading", "schedules")
    imports = "".join(f'import * as {name} from "./{name}.js";\n' for name in modules)
    done = node("--input-type=module", "-", code=f"{imports}console.log(JSON.stringify({expression}));")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---- the maths, in both languages ----


@needs_node
def test_the_tests_in_javascript():
    done = node("--test")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"^# pass (\d+)$", done.stdout, re.M)[1]) >= 15  # and they were found


@needs_node
def test_the_seven_schedules():
    found = ask(
        f"Object.fromEntries(Object.entries(schedules.SCHEDULES).map(([name, s]) =>"
        f" [name, {{alpha: {TIMES}.map(s.alpha), weight: {TIMES}.map(s.weight)}}]))"
    )
    assert set(found) == set(SCHEDULES)
    t = torch.tensor(TIMES, dtype=torch.float64)
    for name, s in SCHEDULES.items():
        assert found[name]["alpha"] == pytest.approx(s.alpha(t).tolist(), rel=1e-12, abs=1e-15)
        assert found[name]["weight"] == pytest.approx(s.weight(t).tolist(), rel=1e-9)


@needs_node
@pytest.mark.parametrize("name", SCHEDULES)
def test_expected_passes(name):
    cases = [(1, 5), (40, 224), (1000, 224), (7, 1)]
    found = ask(f"{json.dumps(cases)}.map(([T, n]) => pacing.expectedPasses({name!r}, T, n))")
    assert found == pytest.approx([expected_passes(name, T, n) for T, n in cases], rel=1e-10)
    assert ask(f"pacing.maskedShares({name!r}, 9)") == pytest.approx(masked_shares(name, 9).tolist(), abs=1e-12)


@needs_node
def test_the_parallel_bound_and_its_plans():
    for steps in (1, 3, 7, 20, 30):
        plan = step_counts("linear", steps, 20)
        assert ask(f"pacing.stepCounts({steps}, 20)") == plan
        bound = parallel_bound(torch.tensor(CURVE, dtype=torch.float64), plan)
        assert ask(f"pacing.parallelBound({CURVE}, {plan})") == pytest.approx(bound, rel=1e-12)


@needs_node
def test_k_letters_at_once(ab):
    """2^(1-k), by the exact denoiser of Python: the chance that k letters drawn apart from each other agree."""
    page = ab(torch.full((1, 8), 2))[0, :, :2].exp()
    for k in range(1, 9):
        both = page[:k, 0][::2].prod() * page[:k, 1][1::2].prod() + page[:k, 1][::2].prod() * page[:k, 0][1::2].prod()
        assert ask(f"letters.chanceValid({k})") == 2.0 ** (1 - k) == pytest.approx(both.item())
    assert ask("letters.lettersCurve(8)") == pytest.approx(exact_curve(ab, 8).tolist(), abs=1e-12)
    x = torch.tensor([[2, 2, 0, 2, 2, 2, 2, 2]])
    assert ask(
        "[...'abcdefgh'].map((_, i) => letters.chanceOfA([null, null, 'A', null, null, null, null, null], i))"
    ) == (ab(x)[0, :, 0].exp().tolist())


@needs_node
@pytest.mark.parametrize("name", SCHEDULES)
def test_habits_err_as_step_4_says(name, step):
    """Without the weight a loss depends on the schedule, by as much as the quadrature of step 4 predicts."""
    sticky = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    curve = exact_curve(sticky, 8)
    s, lesson = SCHEDULES[name], step("step4_likelihood")
    assert ask(f"area.withoutWeight({curve.tolist()}, {name!r}, 5000)") == pytest.approx(
        lesson.predicted("sum / sum", s, curve), abs=2e-5
    )
    inside = lesson.predicted("bound", s, curve)
    found = ask(f"area.slices({curve.tolist()}, {name!r}, 16).reduce((sum, slice) => sum + slice.nats, 0)")
    assert found == pytest.approx(inside, abs=2e-5)


@needs_node
def test_blocks_cost_what_step_6_counts():
    printed = (ROOT / "results" / "steps" / "step6_blocks.txt").read_text(encoding="utf-8")
    rows = re.findall(r"^ (\d+) +[─●]+ .* (\d+) +([\d,]+) *$", printed, re.M)
    assert len(rows) == 4
    for n, passes, read in rows:
        assert ask(f"reading.blockCost(64, {n})") == {"passes": int(passes), "read": int(read.replace(",", ""))}


# ---- the numbers ----


def test_the_numbers_are_the_measured_ones():
    done = subprocess.run([sys.executable, HERE / "data.py", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_changed_digit_is_found(tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("figures"))
    shutil.copytree(HERE, tmp_path / "web" / "explore")
    path = tmp_path / "web" / "explore" / "data" / "cost.json"
    path.write_text(path.read_text().replace("7.", "6.", 1))
    done = subprocess.run(
        [sys.executable, tmp_path / "web" / "explore" / "data.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "cost.json" in done.stderr


def test_the_whole_curve_is_the_one_that_step_2_shows():
    """results/curve.json trains as the step does: the twelve points that the step prints are among its 128."""
    curve = json.loads((ROOT / "results" / "curve.json").read_text())
    printed = (ROOT / "results" / "steps" / "step2_transformer.txt").read_text(encoding="utf-8")
    points = re.findall(r"^ +(\d+)%  (\d\.\d\d)  ", printed, re.M)
    assert len(points) == 12 and curve["length"] == len(curve["transformer"]["nats"]) == 128
    counts = next(
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "steps" / "step2_transformer.py").read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "COUNTS"
    )
    for k, (share, nats) in zip(reversed(counts), points, strict=True):
        assert f"{k / 128:.0%}" == f"{share}%"
        assert curve["transformer"]["nats"][k - 1] == pytest.approx(float(nats), abs=0.0051)
    assert curve["exact"]["area"] < curve["transformer"]["area"] < curve["no context"]["area"]


# ---- the look ----


def tokens(theme: int) -> dict[str, str]:
    """The colours of the page, light (0) or dark (1)."""
    return {name: pair[theme] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", STYLE)}


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_rightly():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(
        4.48, abs=0.01
    )


def test_a_colour_means_on_the_page_what_it_means_elsewhere():
    light = tokens(0)
    assert {name: light[name].upper() for name in COLOURS} == COLOURS


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_all_letters_can_be_read(theme):
    colours = tokens(theme)
    inks = ["ink", "quiet", *(name for name in colours if name.endswith("-ink"))]
    assert len(inks) == 2 + len(COLOURS)
    for name in inks:
        for ground in ("paper", "surface", "sunk"):
            assert contrast(colours[name], colours[ground]) >= 4.5, f"--{name} on --{ground}"
    for name in ("diffusion", "gpt", "exact", "new", "edge"):  # lines, points and the edges of controls
        assert contrast(colours[name], colours["surface"]) >= 3, f"--{name} on --surface"


# ---- the modules ----

EXPLORABLES = ("noise", "curve", "parallel", "blocks", "cost")


@pytest.mark.parametrize("name", EXPLORABLES)
def test_every_question_names_its_step_and_is_mounted(name):
    source = (HERE / f"{name}.js").read_text(encoding="utf-8")
    assert re.search(r"export (async )?function mount\(root\)", source)
    assert (ROOT / "steps" / f"{re.search(r'step: .(step[0-9]_[a-z_]+).', source)[1]}.py").exists()
    assert f'data-explore="{name}"' in (HERE / "preview.html").read_text(encoding="utf-8")


def test_no_request_leaves_the_page():
    for path in [*HERE.glob("*.js"), *HERE.glob("*.html"), ROOT / "web" / "style.css"]:
        addresses = set(re.findall(r"https?://[\w./-]+", path.read_text(encoding="utf-8")))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name  # a name, not an address


def test_modules_are_short():
    for path in HERE.glob("*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 230 and max(map(len, lines)) <= 200, path.name


def test_paths_exist():
    """Every file that the words of an explorable point to."""
    for name in EXPLORABLES:
        source = (HERE / f"{name}.js").read_text(encoding="utf-8")
        for path in re.findall(r"(?:microdlm|results|steps)/[\w./]+\.(?:py|json)", source):
            assert Path(ROOT / path).exists(), f"{name}.js speaks of {path}"
