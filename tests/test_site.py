"""The site. Its samplers are Python's, number for number; in a browser it runs, and writes what Python writes.

Two parts. The first needs node and nothing else. The second needs the site as `make web` builds it, and a Chromium.
"""

import gzip
import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from microdlm.canvas import canvas
from microdlm.errors import UserError
from microdlm.exporting import Session, no_past
from microdlm.pacing import step_counts
from microdlm.pretrained import load
from microdlm.runs import ROOT
from microdlm.samplers import SAMPLERS
from microdlm.tokenizers import CharTokenizer

WEB = ROOT / "web"
node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the page's code cannot be run")


def js(code: str, data=None):
    """Run a module beside the page's own; it gets `data` and returns what it assigns to `out`."""
    header = "import { readFileSync } from 'node:fs'; const data = JSON.parse(readFileSync(0)); let out;\n"
    argv = ["node", "--input-type=module", "-e", f"{header}{code}\nconsole.log(JSON.stringify(out));"]
    done = subprocess.run(argv, cwd=WEB, input=json.dumps(data), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The same numbers as Python


@node
@pytest.mark.parametrize("seed", [0, 1, 4711, 2**32 - 1])
def test_a_seed_means_here_what_it_means_in_torch(seed):
    code = "import { generator } from './random.js'; const g = generator(data); out = Array.from({length: 2000}, g);"
    theirs = torch.rand(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert js(code, seed) == theirs.tolist()


class Neighbours:
    """A denoiser made of tables: what a position may be depends on its place and on what stands beside it."""

    def __init__(self, L: int, V: int):
        rng = torch.Generator().manual_seed(3)
        shapes = {"place": (L, V), "left": (V, V), "right": (V, V)}
        self.tables = {name: torch.randn(shape, generator=rng).double() for name, shape in shapes.items()}

    def __call__(self, x):
        t = self.tables
        left, right = torch.roll(x, 1, 1), torch.roll(x, -1, 1)
        return 2 * (t["place"][None, : x.size(1)] + t["left"][left] + t["right"][right])


WRITE = """
import { SAMPLERS } from "./samplers.js";
import { generator } from "./random.js";
const { x, maskId, sampler, how, tables: { place, left, right } } = data;
const L = x.length;
const sum = (x, i, v) => place[i][v] + left[x[(i + L - 1) % L]][v] + right[x[(i + 1) % L]][v];
const row = (x, i) => place[i].map((_, v) => 2 * sum(x, i, v));
const denoiser = async (x, where) => where.map((i) => row(x, i));
out = [];
const states = SAMPLERS[sampler](denoiser, Int32Array.from(x), maskId, { ...how, rng: generator(how.seed) });
for await (const state of states) out.push([...state]);
"""


@node
@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
@pytest.mark.parametrize("sampler", ["confidence", "threshold", "ancestral", "remask", "left_to_right"])
def test_a_sampler_writes_what_its_namesake_in_python_writes(sampler, temperature):
    """Every state of it, from a page with a prompt and two segments, by the same seed."""
    V, L, seed = 9, 40, 5
    denoiser, rng = Neighbours(L, V), torch.Generator().manual_seed(seed)
    x = torch.full((1, L), V - 1)
    x[0, :3], x[0, 20:24] = torch.tensor([1, 2, 3]), torch.tensor([4, 4, 0, 1])
    how = {"num_steps": 12, "temperature": temperature}
    theirs = [state[0].tolist() for state in SAMPLERS[sampler](denoiser, x, V - 1, rng=rng, **how)]
    tables = {name: t.tolist() for name, t in denoiser.tables.items()}
    options = {"numSteps": 12, "temperature": temperature, "seed": seed}
    ours = js(WRITE, dict(x=x[0].tolist(), maskId=V - 1, sampler=sampler, how=options, tables=tables))
    assert ours == theirs


@node
def test_the_pace_is_python_s():
    cases = [(steps, n) for steps in (1, 4, 32, 300) for n in (1, 12, 233)]
    ours = js("import { stepCounts } from './samplers.js'; out = data.map(([s, n]) => stepCounts(s, n));", cases)
    assert ours == [step_counts("cosine", steps, n) for steps, n in cases]


CANVAS = """
import { canvas } from "./canvas.js";
function read(text) {
  try {
    return canvas(text, data.alphabet, 16);
  } catch (error) {
    return error.constructor.name;
  }
}
out = data.texts.map(read);
"""


@node
def test_a_text_with_blanks_is_read_as_in_python():
    letters = CharTokenizer("\n LOVE.")
    texts = [
        "LOVE ____ {3}.",
        "{0}",
        "",
        "____",
        "_{2}_",
        "LOVE\n",
        "{99999999999}",
        "L{17}",
        "LOVELOVELOVELOVEL",
        "love",
        "{x}",
        "{}",
    ]

    def theirs(text):
        try:
            return [
                None if i == letters.mask_id else letters.alphabet[i] for i in canvas(text, letters, 16)[0].tolist()
            ]
        except UserError:
            return "UserError"

    assert js(CANVAS, {"texts": texts, "alphabet": letters.alphabet}) == [theirs(text) for text in texts]


@node
def test_a_page_written_as_text_is_read_back():
    code = """import { asText, canvas } from "./canvas.js";
    out = data.map((page) => [asText(page), canvas(asText(page), "abc\\n", 99)]);"""
    pages = [[*"ab", None, "c"], [None] * 12 + ["a"] + [None] * 8, ["\n", None]]
    found = js(code, pages)
    assert [page for _, page in found] == pages
    assert [text for text, _ in found] == ["ab_c", "{12}a________", "\n_"]


@node
def test_an_address_holds_every_setting_and_nonsense_is_left_out():
    settings = {
        "prompt": "a ____\n&b=?",
        "sampler": "remask",
        "steps": 64,
        "temperature": 1.2,
        "length": 99,
        "seed": 7,
        "cache": False,
    }
    code = """import { DEFAULTS, fromAddress, toAddress } from "./settings.js";
    const nonsense = fromAddress("?sampler=__proto__&steps=-1&seed=x&length=1e9");
    out = [fromAddress("?" + toAddress(data)), toAddress(DEFAULTS), DEFAULTS, nonsense];"""
    there_and_back, short, defaults, nonsense = js(code, settings)
    assert there_and_back == settings and short == "" and nonsense == defaults


@node
def test_a_recording_is_played_back_state_by_state():
    """Scrubbing to any moment shows the page as the recording's steps, applied one by one, make it."""
    data = json.loads((WEB / "frames.json").read_text(encoding="utf-8"))
    code = """import { readRecording } from "./recording.js";
    const frames = (lane) => lane.frames.map((f, k) => [f.tokens, lane.indexAt("passes", f.passes) >= k]);
    out = readRecording(data).lanes.map(frames);"""
    for lane, frames in zip(data["lanes"], js(code, data), strict=True):
        page = list(lane["start"])
        assert frames[0] == [page, True]
        for step, (tokens, found) in zip(lane["steps"], frames[1:], strict=True):
            for i, token in zip(step["at"], step["to"], strict=True):
                page[i] = token
            assert tokens == page and found
        assert None not in page


@node
@pytest.mark.parametrize(
    "gpt, first",
    [
        ({"passes": 90, "read": 95, "seconds": 0.5}, "GPT"),
        ({"passes": 90, "read": 8000, "seconds": 20}, "diffusion model"),
    ],
)
def test_each_measure_names_its_own_winner(gpt, first):
    ends = {"gpt": gpt, "diffusion": {"passes": 32, "read": 3200, "seconds": 4.0}}
    code = "import { moral, verdicts } from './words.js'; out = [verdicts(data), moral(data, true)];"
    rows, moral = js(code, ends)
    assert [row["winner"] for row in rows] == [min(ends, key=lambda k: ends[k][row["axis"]]) for row in rows]
    assert f"By this clock the {first} is first" in moral


# In a browser

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SIZES = [(390, 844), (1280, 800)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the built page, served as anybody would serve it."""
    for made in ("models/models.json", "vendor/runtimes.json", "node_modules/axe-core/axe.min.js"):
        if not (WEB / made).exists():
            pytest.skip(f"the page is not built, web/{made} is missing: make web")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=WEB))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra `web`: pip install -e '.[web]'")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    with api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def visitor(browser):
    """One browser profile for many tests: the models are fetched once."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def visit(visitor, site):
    """visit(query) -> the page, opened there. In the end it must have said no error and asked no other host."""
    said, asked, pages = [], [], []

    def go(query: str = "", allowed: str = "nothing", profile=visitor):
        page = profile.new_page()
        pages.append(page)
        page.on("console", lambda m: said.append(m.text) if m.type == "error" and allowed not in m.text else None)
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("request", lambda r: asked.append(r.url))
        page.goto(site + query)
        page.wait_for_selector(".lane.gpt .char")
        page.wait_for_selector("#run:has-text('MB')")
        return page

    yield go
    for page in pages:
        page.close()
    assert said == []
    assert [url for url in asked if not url.startswith((site, "blob:", "data:"))] == []


def text_of(page, kind: str) -> str:
    return page.text_content(f".lane.{kind} pre")


def set_to(page, slider: str, value: float) -> None:
    change = "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })) }"
    page.eval_on_selector(f"#{slider}", change, value)


def to_the_end(page) -> None:
    set_to(page, "time", float(page.get_attribute("#time", "max")))


def run(page) -> None:
    page.click("#run")
    page.wait_for_selector("#source[data-kind=live]", timeout=60_000)
    page.wait_for_selector("#stop", state="hidden", timeout=120_000)
    to_the_end(page)


def weight(url_path: str) -> int:
    """Bytes of a file as a host that compresses sends it."""
    return len(gzip.compress((WEB / url_path).read_bytes()))


def test_the_first_content_is_light_and_the_recording_plays(visit, site):
    page = visit()
    assert page.text_content("#source") == "recorded"
    page.wait_for_timeout(300)
    assert float(page.input_value("#time")) > 0  # it plays by itself
    fetched = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    sent = {url.removeprefix(site) for url in fetched} | {"index.html"}
    assert not [name for name in sent if "vendor/ort" in name or ".onnx" in name]
    assert sum(weight(name) for name in sent if (WEB / name).is_file()) <= 100_000
    to_the_end(page)
    lanes = json.loads((WEB / "frames.json").read_text(encoding="utf-8"))["lanes"]
    assert len(text_of(page, "gpt")) == len(lanes[1]["start"]) and "·" not in text_of(page, "diffusion")


def exported(kind: str, tmp_path) -> tuple:
    """What the page runs, in Python: the shipped model and its file as a denoiser."""
    about = json.loads((WEB / "models" / "models.json").read_text())[kind]
    (tmp_path / kind).write_bytes(gzip.decompress((WEB / "models" / about["file"]).read_bytes()))
    lm = load(about["name"])
    return lm, Session(tmp_path / kind, lm.model)


def test_a_live_text_is_what_python_writes(visit, tmp_path):
    """The likeliest characters (temperature 0), from a prompt and two segments. Chance is compared above, exactly."""
    text, steps = "ROMEO: {30} love {20}\nJULIET: {9}", 16
    page = visit(f"?temperature=0&steps={steps}")
    page.fill("#prompt", text)
    run(page)
    lm, session = exported("diffusion", tmp_path)
    x = canvas(text, lm.tokenizer)
    *_, x_0 = SAMPLERS["confidence"](session, x, lm.mask_id, num_steps=steps, temperature=0)
    assert text_of(page, "diffusion") == lm.tokenizer.decode(x_0[0])
    assert page.text_content(".lane.diffusion [data-count=passes]") == str(steps)
    assert page.text_content(".lane.diffusion [data-count=read]") == f"{steps * x.size(1):,}"
    gpt, session = exported("gpt", tmp_path)
    assert text_of(page, "gpt") == gpt.tokenizer.decode(read_on(gpt, session, x)[0])
    assert "ROMEO: " in page.text_content("#transcript")  # a screen reader is told


def read_on(gpt, session, x):
    """The GPT's likeliest text, with its cache, as the page decodes it."""
    past, read = no_past(gpt.model, 1).numpy(), 0
    for i in (x[0] == gpt.mask_id).nonzero()[:, 0].tolist():
        new = {"x": x[:, read:i].numpy().astype("int32"), "past": past}
        logits, past = session.run(["logits", "present"], new)
        x, read = x.clone(), i
        x[0, i] = int(logits[0, -1].argmax())
    return x


def test_every_control_changes_what_it_says(visit):
    page = visit("?prompt=ROMEO:&length=40&steps=8")
    run(page)

    def state(selector="[data-count=passes]"):
        return page.text_content(f".lane.diffusion {selector}"), text_of(page, "diffusion"), text_of(page, "gpt")

    first = state()
    assert first[0] == "8" and len(first[1]) == 40 and first[1].startswith("ROMEO:") and "seed" not in page.url
    run(page)
    assert state() == first  # the same seed, the same text
    read = page.text_content(".lane.gpt [data-count=read]")
    for change, same_passes in [
        (lambda: page.fill("#seed", "5"), True),
        (lambda: set_to(page, "temperature", 1.5), True),
        (lambda: set_to(page, "steps", 20), False),
        (lambda: set_to(page, "length", 60), True),
        (lambda: page.select_option("#sampler", "left_to_right"), False),
    ]:
        before = state()
        change()
        run(page)
        assert state()[1] != before[1] and (state()[0] == before[0]) == same_passes
        assert "·" not in "".join(state()[1:])
    page.uncheck("#cache")
    run(page)
    assert int(page.text_content(".lane.gpt [data-count=read]").replace(",", "")) > 10 * int(read)
    assert "cache=0" in page.url and "sampler=left_to_right" in page.url and "length=60" in page.url
    page.check("#axis input[value=passes]", force=True)
    assert "pass 54 of 54" in page.text_content("#clock")


def test_every_sampler_ends_without_a_blank(visit):
    page = visit("?length=48&steps=12")
    for sampler in ("ancestral", "threshold", "remask"):
        page.select_option("#sampler", sampler)
        run(page)
        assert sampler in page.text_content(".lane.diffusion .about")
        assert "·" not in text_of(page, "diffusion") and len(text_of(page, "diffusion")) == 48


def test_time_can_be_stopped_and_walked_through(visit):
    page = visit()
    page.click("#play")
    stood = page.input_value("#time")
    page.wait_for_timeout(300)
    assert page.input_value("#time") == stood  # paused
    set_to(page, "time", 0)
    blank = text_of(page, "diffusion").count("·")
    page.click("#forth")
    page.click("#forth")
    assert text_of(page, "diffusion").count("·") + text_of(page, "gpt").count("·") < 2 * blank
    page.click("#back")
    page.click("#back")
    assert text_of(page, "diffusion").count("·") == blank


def test_a_character_tells_its_story_and_can_be_masked_or_locked_by_keyboard(visit):
    page = visit("?length=40&steps=8")
    run(page)
    page.focus(".lane.diffusion .char[tabindex='0']")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "position 13, written at step" in label and "sure" in label
    assert page.locator("#inspector .top li").count() == 5
    shares = [
        float(w)
        for w in page.eval_on_selector_all("#inspector .fill", "all => all.map((e) => parseFloat(e.style.width))")
    ]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 100.1
    text = text_of(page, "diffusion")
    page.keyboard.press("m")
    assert page.input_value("#prompt") == text[:12] + "_" + text[13:]
    page.keyboard.press("m")
    page.keyboard.press("l")  # that one stays, and the prompt; the rest is written anew
    assert page.input_value("#prompt") == f"ROMEO:______{text[12]}{{27}}"
    run(page)
    assert text_of(page, "diffusion")[12] == text[12] and text_of(page, "gpt")[12] == text[12]


def test_what_cannot_be_done_is_said(visit):
    page = visit()
    for prompt, words in [("naïve", "“ï” at position 2"), ("a" * 300, "window of"), ("a" * 250, "leave room")]:
        page.fill("#prompt", prompt)
        page.click("#run")
        page.wait_for_timeout(100)
        assert words in page.text_content("#prompt-error")
    page.fill("#prompt", "____ love")
    run(page)
    assert page.locator(".lane").count() == 1 and "cannot fill a blank at the very beginning" in page.text_content(
        ".lane .note"
    )
    assert text_of(page, "diffusion").endswith(" love")


@pytest.mark.parametrize("blocked", ["**/*.onnx.gz", "**/worker.js"])
def test_where_the_model_cannot_run_the_recording_plays_on(visit, browser, blocked):
    page = visit(allowed="Failed to load resource", profile=browser.new_context())
    page.route(blocked, lambda route: route.abort())
    page.click("#run")
    page.wait_for_selector("#prompt-error:has-text('cannot run here')", timeout=30_000)
    assert page.text_content("#source") == "recorded"
    to_the_end(page)
    assert "·" not in text_of(page, "diffusion") and page.is_enabled("#run")


def test_a_second_visit_fetches_nothing_large(browser, site):
    context = browser.new_context()
    for visits in range(2):
        page, large = context.new_page(), []
        page.on("request", lambda r, large=large: large.append(r.url) if r.url.endswith(".gz") else None)
        page.goto(site + "?length=16&steps=2")
        page.wait_for_selector("#run:has-text('MB')")
        run(page)
        assert len(large) == (3 if visits == 0 else 0)
        page.close()
    context.close()


def test_no_other_host_can_be_asked(visit):
    page = visit(allowed="Content Security Policy")
    code = """async () => {
      const broken = new Promise((resolve) => addEventListener("securitypolicyviolation", resolve));
      fetch("http://127.0.0.1:1/").catch(() => {});
      return (await broken).violatedDirective; }"""
    assert page.evaluate(code) == "connect-src"
    make = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
    assert page.evaluate(f"() => {{ {make} return window.ran }}") is None


@pytest.mark.parametrize("width, height", SIZES)
def test_it_fits_and_everyone_can_use_it(visit, tmp_path, width, height):
    page = visit("?length=40&steps=8")
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(reduced_motion="reduce")
    page.reload()
    page.wait_for_selector("#run:has-text('MB')")
    assert page.get_attribute("#play", "aria-label") == "Play"  # nothing moves by itself
    run(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert len(page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)) > 10_000
        page.evaluate((WEB / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8"))
        found = page.evaluate("async () => (await axe.run()).violations.map((v) => [v.impact, v.id, v.nodes[0].html])")
        assert [v for v in found if v[0] in ("serious", "critical")] == []
