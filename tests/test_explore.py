"""The explorables: their maths is Python's, their numbers are the measured ones, their colours can be read."""

import ast
import importlib.util
import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from microdlm.colours import COLOURS
from microdlm.likelihood import Estimate, exact_curve
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
def test_expected_passes():
    cases = [(1, 5), (40, 224), (1000, 224), (7, 1)]
    names = json.dumps(list(SCHEDULES))
    found = ask(
        f"{names}.map((s) => ({{passes: {json.dumps(cases)}.map(([T, n]) => pacing.expectedPasses(s, T, n)),"
        " shares: pacing.maskedShares(s, 9)}))"
    )
    for name, of in zip(SCHEDULES, found, strict=True):
        assert of["passes"] == pytest.approx([expected_passes(name, T, n) for T, n in cases], rel=1e-10)
        assert of["shares"] == pytest.approx(masked_shares(name, 9).tolist(), abs=1e-12)


@needs_node
def test_the_parallel_bound_and_its_plans():
    plans = [step_counts("linear", steps, 20) for steps in (1, 3, 7, 20, 30)]
    assert ask("[1, 3, 7, 20, 30].map((steps) => pacing.stepCounts(steps, 20))") == plans
    bounds = [parallel_bound(torch.tensor(CURVE, dtype=torch.float64), plan) for plan in plans]
    assert ask(f"{plans}.map((plan) => pacing.parallelBound({CURVE}, plan))") == pytest.approx(bounds, rel=1e-12)


@needs_node
def test_k_letters_at_once(ab):
    """2^(1-k), by the exact denoiser of Python: the chance that k letters drawn apart from each other agree."""
    a, b = ab(torch.full((1, 8), 2))[0, :, :2].exp().T
    agree = [(a[:k:2].prod() * b[1:k:2].prod() + b[:k:2].prod() * a[1:k:2].prod()).item() for k in range(1, 9)]
    one = "[null, null, 'A', null, null, null, null, null]"
    found = ask(
        "{chance: [1, 2, 3, 4, 5, 6, 7, 8].map(letters.chanceValid), curve: letters.lettersCurve(8),"
        f" odds: {one}.map((_, i) => letters.chanceOfA({one}, i))}}"
    )
    assert found["chance"] == [2.0 ** (1 - k) for k in range(1, 9)] == pytest.approx(agree)
    assert found["curve"] == pytest.approx(exact_curve(ab, 8).tolist(), abs=1e-12)
    assert found["odds"] == ab(torch.tensor([[2, 2, 0, 2, 2, 2, 2, 2]]))[0, :, 0].exp().tolist()


@needs_node
def test_habits_err_as_step_4_says(step):
    """Without the weight a loss depends on the schedule, by as much as the quadrature of step 4 predicts; with it, the
    slices sum to what lies between the ends."""
    sticky = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    curve, lesson = exact_curve(sticky, 8), step("step4_likelihood")
    found = ask(
        f"{json.dumps(list(SCHEDULES))}.map((s) => ({{loss: area.withoutWeight({curve.tolist()}, s, 5000),"
        f" inside: area.slices({curve.tolist()}, s, 16).reduce((sum, slice) => sum + slice.nats, 0)}}))"
    )
    for s, of in zip(SCHEDULES.values(), found, strict=True):
        assert of["loss"] == pytest.approx(lesson.predicted("sum / sum", s, curve, 4000), abs=5e-5)
        assert of["inside"] == pytest.approx(lesson.predicted("bound", s, curve, 4000), abs=5e-5)


@needs_node
def test_blocks_cost_what_step_6_counts():
    printed = (ROOT / "results" / "steps" / "step6_blocks.txt").read_text(encoding="utf-8")
    rows = re.findall(r"^ (\d+) +[─●]+ .* (\d+) +([\d,]+) *$", printed, re.M)
    found = ask("[1, 4, 16, 64].map((n) => [n, reading.blockCost(64, n).passes, reading.blockCost(64, n).read])")
    assert found == [[int(number.replace(",", "")) for number in row] for row in rows]


# ---- the numbers ----


def test_the_numbers_are_the_measured_ones():
    done = subprocess.run([sys.executable, HERE / "data.py", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_changed_digit_is_found(tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("figures"))
    shutil.copytree(HERE, tmp_path / "web" / "explore")
    path = tmp_path / "web" / "explore" / "data" / "cost.json"
    path.write_text(path.read_text().replace('"mean": ', '"mean": 1', 1))
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


def test_the_area_is_the_mean_of_the_curve():
    """results/curve.py: of two points and three texts, by hand; the error is that of the texts' own areas."""
    spec = importlib.util.spec_from_file_location("curve", ROOT / "results" / "curve.py")
    curve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(curve)
    found = curve.measured({k: Estimate.of(torch.tensor(c)) for k, c in {1: [1.0, 2, 3], 2: [3.0, 4, 11]}.items()})
    assert found["nats"] == [2, 6] and found["area"] == 4
    assert found["area_stderr"] == pytest.approx(statistics.stdev([2, 3, 7]) / 3**0.5)
    counts = curve.without_context(SimpleNamespace(train=torch.tensor([0, 0, 1]), tokenizer=range(2)))
    assert counts(torch.zeros(1, 2))[0, 1].exp().tolist() == pytest.approx([0.6, 0.4, 0])  # one more each


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
    assert re.search(r"^export function mount\(root\)", source, re.M)
    assert (ROOT / "steps" / f"{re.search(r'step: .(step[0-9]_[a-z_]+).', source)[1]}.py").exists()
    assert f'data-explore="{name}"' in (HERE / "preview.html").read_text(encoding="utf-8")


def test_no_request_leaves_the_page():
    for path in [*HERE.glob("*.js"), *HERE.glob("*.html"), ROOT / "web" / "style.css"]:
        addresses = set(re.findall(r"https?://[\w./-]+", path.read_text(encoding="utf-8")))
        known = {
            "http://www.w3.org/2000/svg",
            "https://arxiv.org/abs/",
        }  # a name of a language; links, which ask nothing
        assert addresses <= known, path.name


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


# ---- the page itself, in a browser ----

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the repository, served as `python -m http.server` would."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(ROOT))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/web/explore/preview.html"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: it drives the browser")
    if not BROWSER:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as p:
        yield p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])


@pytest.fixture
def page(browser, site):
    """page(width, ...) -> the five explorables; in the end nothing may have gone wrong or been asked elsewhere."""
    wrong, made = [], []

    def open_at(width=1280, block=None, **options):
        tab = browser.new_page(viewport={"width": width, "height": 900}, **options)
        tab.on("pageerror", lambda e: wrong.append(str(e)))
        tab.on("console", lambda m: m.type == "error" and not block and wrong.append(m.text))
        tab.on("request", lambda r: r.url.startswith((site[:18], "data:")) or wrong.append(r.url))
        if block:
            tab.route(block, lambda route: route.abort())
        tab.goto(site)
        tab.wait_for_selector("html[data-ready]")
        made.append(tab)
        return tab

    yield open_at
    for tab in made:
        tab.close()
    assert not wrong


def test_every_control_changes_what_it_says(page):
    tab = page()
    for name in EXPLORABLES:
        figure = tab.locator(f"#{name} figure")
        for slider in figure.locator("input[type=range]").all():
            before = figure.locator(".readouts").inner_text(), slider.get_attribute("aria-valuetext")
            slider.press("ArrowRight")
            after = figure.locator(".readouts").inner_text(), slider.get_attribute("aria-valuetext")
            assert before[0] != after[0] and before[1] != after[1], f"{name}: a slider"
        others = figure.locator("input[type=radio]:not(:checked)").evaluate_all("(all) => all.map((e) => e.value)")
        for value in others:
            drawn = figure.locator(".stage").inner_html()
            figure.locator(f"input[value={value}]").check()
            assert figure.locator(".stage").inner_html() != drawn, f"{name}: {value}"
    for press in ("Draw other numbers", "Write one", "Write 1,000"):
        button = tab.get_by_role("button", name=press)
        figure = tab.locator("figure").filter(has=button)
        before = figure.inner_html()
        button.click()
        assert figure.inner_html() != before, press


def test_a_text_of_ones_own(page):
    tab = page(reduced_motion="reduce")
    tab.get_by_label("a text of your own").fill("<i>mine</i> 😀")
    tab.locator("#noise input[type=range]").press("Home")
    assert tab.locator("#noise .sheet").inner_text() == "<i>mine</i> 😀"
    assert "0 of 13" in tab.locator("#noise .readouts").inner_text()
    tab.locator("#noise input[type=range]").press("End")
    assert tab.locator("#noise .sheet").inner_text() == "·" * 13
    assert "13 of 13" in tab.locator("#noise .readouts").inner_text()
    tab.locator("#noise [role=status]", has_text="hides 13 of 13").wait_for(state="attached")


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_no_page_scrolls_sideways(page, width):
    tab = page(width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    small = "[...document.querySelectorAll('button, input[type=range], .pills label, .legend label, summary')]"
    assert tab.evaluate(f"{small}.every((e) => e.getBoundingClientRect().height >= 24)")  # WCAG 2.2, target size


def test_numbers_that_do_not_come_are_missed_in_words(page):
    tab = page(block="**/data/curve.json")
    assert "could not be fetched" in tab.locator("#curve").inner_text()
    assert tab.locator("#cost figure svg").count() == 4  # the others stand
