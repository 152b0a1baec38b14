"""The site. Its samplers are Python's, number for number; in a browser the page runs, and what it writes is Python's too.

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

from microdlm import export_web
from microdlm.canvas import canvas
from microdlm.errors import UserError
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
const row = (x, i) => place[i].map((_, v) => 2 * (place[i][v] + left[x[(i + L - 1) % L]][v] + right[x[(i + 1) % L]][v]));
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
out = data.texts.map((text) => { try { return canvas(text, data.alphabet, 16); } catch (e) { return e.constructor.name; } });
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
    out = [fromAddress("?" + toAddress(data)), toAddress(DEFAULTS), DEFAULTS, fromAddress("?sampler=__proto__&steps=-1&seed=x&length=1e9")];"""
    there_and_back, short, defaults, nonsense = js(code, settings)
    assert there_and_back == settings and short == "" and nonsense == defaults


@node
def test_a_recording_is_played_back_state_by_state():
    """Scrubbing to any moment shows the page as the recording's steps, applied one by one, make it."""
    data = json.loads((WEB / "frames.json").read_text(encoding="utf-8"))
    code = """import { readRecording } from "./recording.js";
    out = readRecording(data).lanes.map((lane) => lane.frames.map((f, k) => [f.tokens, lane.indexAt("passes", f.passes) >= k]));"""
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
