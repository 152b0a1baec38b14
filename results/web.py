"""How fast the page is: the shipped twins in Chromium, one thread, one model after the other.

python results/web.py            after `make web`, two minutes; writes results/web.json

A pass over a whole window, and a text of 240 characters: by the diffusion model, by the GPT with and without its cache.
"""

import os
import shutil
import statistics
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.table import Table

from microdlm import cli
from microdlm.errors import UserError
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.terminal import console

WEB = ROOT / "web"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WRITERS = {  # kind, and whether a GPT keeps its cache
    "diffusion": ("diffusion", True),
    "GPT with its cache": ("gpt", True),
    "GPT without a cache": ("gpt", False),
}
TIME = """async ([passes, turns, length, seed, writers]) => {
  const { available, Twins } = await import("/twins.js");
  const twins = await Twins.load(await available(), "wasm", () => {});
  const { window: whole } = twins.diffusion.about;
  const { seconds } = await twins.diffusion.ask({ type: "time", length: whole, times: passes + 5 }, "timed");
  const page = [..."ROMEO:", ...Array(length - 6).fill(null)];
  const found = {};
  for (let turn = 0; turn < turns; turn++)
    for (const [name, [kind, cache]] of Object.entries(writers)) {
      const settings = { sampler: "confidence", steps: 32, temperature: 0.8, seed: seed + turn, cache };
      const { lanes, done } = twins.write(page, settings, [kind], () => {});
      await done;
      const { passes, read, seconds } = lanes[0].last;
      (found[name] ??= []).push({ passes, read, seconds });
    }
  return { window: whole, seconds: seconds.slice(5), writing: found };
}"""


@dataclass(frozen=True)
class Config:
    passes: int = 40  # passes to time; five before them are thrown away
    turns: int = 3  # texts of each writer, in turn
    length: int = 240  # characters of a text, "ROMEO:" among them
    seed: int = 0
    out: Path = ROOT / "results" / "web.json"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


def measure(cfg: Config) -> dict:
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=WEB))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/frames.json")  # beside the page, which does not run
        found = page.evaluate(TIME, [cfg.passes, cfg.turns, cfg.length, cfg.seed, WRITERS])
        return found | {"browser": f"Chromium {browser.version}"}


def summary(runs: list[dict]) -> dict:
    seconds = [run["seconds"] for run in runs]
    first = {k: runs[0][k] for k in ("passes", "read")}
    return first | {"seconds": statistics.median(seconds), "all_seconds": seconds}


def table(numbers: dict) -> Table:
    t = Table("", "passes", "characters read", "seconds", title="A text in Chromium, one thread")
    for name, w in numbers["writing"].items():
        t.add_row(name, f"{w['passes']:,}", f"{w['read']:,}", f"{w['seconds']:.2f}")
    one = numbers["pass"]
    t.caption = (
        f"A pass over {one['length']} characters: median {1000 * one['seconds']:.0f} ms of {len(one['all_seconds'])}."
    )
    return t


def main(cfg: Config) -> None:
    if not all((WEB / built).exists() for built in ("models/models.json", "vendor/runtimes.json")):
        raise UserError("the page is not built: run make web first")
    load = os.getloadavg()[0]  # of everything else that ran: what is timed on a busy machine is its business too
    with console.status("timing the page in Chromium"):
        found = measure(cfg)
    seconds, models = found.pop("seconds"), read_json(WEB / "models" / "models.json")
    numbers = {
        "pass": {"length": found.pop("window"), "seconds": statistics.median(seconds), "all_seconds": seconds},
        "writing": {name: summary(runs) for name, runs in found.pop("writing").items()},
        "models": {kind: {k: m[k] for k in ("name", "parameters", "version", "bytes")} for kind, m in models.items()},
        **found,
        "seed": cfg.seed,
        "made_by": provenance() | {"threads": 1, "load_average": load},
    }
    write_json(cfg.out, numbers)
    console.print(table(numbers))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
