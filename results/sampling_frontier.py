"""Which way of writing is best? Quality against diversity, and against cost, for every sampler and one GPT.

    python results/sampling_frontier.py      40 minutes on one thread; stopped, it goes on where it was

Each text continues a few held-out characters, the same for all. A judge, a GPT of another seed, reads what was
written. Few nats alone mean little: "the the the" costs least. So all write at several temperatures and are compared
where their texts are as diverse as real text, by the entropy of 4-grams. Real text is the goal, not zero.
"""

import time
import zlib
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.progress import track
from rich.table import Table

from microdlm import cli
from microdlm.corpus import load_corpus
from microdlm.cost import CountForwards
from microdlm.diversity import Verbatim, average, interval, matched, measures
from microdlm.errors import UserError
from microdlm.hub import find
from microdlm.likelihood import cross_entropy_curve
from microdlm.objectives import next_token_nll
from microdlm.pacing import optimal_pace
from microdlm.pretrained import load
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.terminal import console

COOL = (0.3, 0.5, 0.7, 0.85, 1)  # temperatures
COLD, WARM = COOL[1:], COOL[2:]
PLAN = [  # who writes, by which sampler, its options; what is varied: {value: temperatures}
    ("ancestral", "ancestral", {}, "num_steps", {8: COLD, 16: COLD, 32: COOL, 64: WARM}),
    ("optimal pace", "confidence", {"order": "random", "pace": "optimal"}, "num_steps", {8: COLD, 16: COLD, 32: COLD}),
    ("surest first", "confidence", {}, "num_steps", {8: (1, 2), 16: (1, 2, 4), 32: (0.5, 1, 2, 4, 8), 64: (1, 8)}),
    ("margin", "confidence", {"order": "margin"}, "num_steps", {32: COLD}),
    ("entropy", "confidence", {"order": "entropy"}, "num_steps", {32: (0.3, 0.5, 1)}),
    ("remask", "remask", {}, "num_steps", {8: (0.3, 0.5, 1), 16: COOL, 32: COOL, 64: (0.3, 0.5, 0.7, 1)}),
    ("forward-backward", "forward_backward", {}, "num_steps", {8: (0.5, 0.7, 1), 16: (0.5, 0.7, 1)}),
    ("draft, refine", "refine", {"draft": 16, "share": 0.1}, "num_steps", {16: (0.3, 0.5, 0.7, 1)}),
    ("block of 24", "block", {"block_length": 24}, "num_steps", {32: (1, 2)}),
    ("threshold", "threshold", {}, "tau", {0.2: (1,), 0.5: (1,)}),
    ("entropy bound", "entropy_bounded", {}, "gamma", {1.0: (0.7, 1), 3.0: (0.3, 0.5, 1)}),
    ("one by one", "first_hitting", {}, "", {0: WARM}),
    ("left to right", "left_to_right", {}, "", {0: WARM}),
    ("GPT", "left_to_right", {}, "", {0: COLD}),
]


@dataclass(frozen=True)
class Config:
    texts: int = 256  # at each point
    length: int = 128  # characters of a text, the prompt among them
    prompt: int = 8  # held-out characters that a text begins with
    batch: int = 16  # texts written at once
    seed: int = 0
    diffusion: str = "shakespeare-diffusion"  # who writes: its name or the folder of its run
    gpt: str = "shakespeare-gpt"  # likewise
    judge: str = "shakespeare-judge"  # a GPT that wrote none of the texts: likewise
    smoke: bool = False  # all points with few and short texts: does it run?
    out: Path = ROOT / "results" / "sampling_frontier.json"
    points: Path = ROOT / "runs" / "sampling_frontier.json"  # what was measured so far


class Bench:
    """Models, judge, prompts. `measure` makes one point: of each measure its value, and that without each text."""

    def __init__(self, cfg: Config):
        names = {"diffusion": cfg.diffusion, "gpt": cfg.gpt, "judge": cfg.judge}
        self.cfg, self.lms = cfg, {kind: load(name) for kind, name in names.items()}
        files = {name: (find(name) / "model.safetensors").read_bytes() for name in names.values()}
        self.models = {kind: {"name": name, "sha256": sha256(files[name]).hexdigest()} for kind, name in names.items()}
        lm, judge, n = self.lms["diffusion"], self.lms["judge"], cfg.length - cfg.prompt
        if judge.kind != "gpt" or judge.tokenizer != lm.tokenizer:
            raise UserError(f"{cfg.judge} cannot judge: give a GPT with the vocabulary of {cfg.diffusion}")
        if not 1 < n < cfg.length <= min(x.model.cfg.seq_len for x in self.lms.values()) or cfg.batch < 1:
            raise UserError("give a prompt of 1 or more, a longer length that fits the window, a batch of 1 or more")
        self.corpus, rng = load_corpus("shakespeare", lm.tokenizer), torch.Generator().manual_seed(cfg.seed)
        x, others = self.corpus.windows(cfg.length), max(8, cfg.texts // 4)  # texts that only the pace is measured on
        if not 2 <= cfg.texts <= len(x) - others:
            raise UserError(f"texts is {cfg.texts}: give 2 or more, and fewer than {len(x) * 4 // 5} of this length")
        x, k = x[torch.randperm(len(x), generator=rng)], torch.linspace(1, n, min(n, 12)).long()
        curve = cross_entropy_curve(lm.model, x[-others:], lm.mask_id, k, 2, rng, cfg.prompt)
        self.x_0, self.curve = x[: cfg.texts], np.interp(range(1, n + 1), k, curve.mean)  # it is smooth
        self.training = Verbatim(lm.tokenizer.decode(self.corpus.train), cfg.length)

    def write(self, lm, x, sampler: str, how: dict, temperature: float, seed: int):
        """The finished texts."""
        if "draft" in how:
            draft = self.write(lm, x, "ancestral", {"num_steps": how["draft"]}, temperature, seed)
            how = {k: v for k, v in how.items() if k != "draft"} | {"given": x != lm.mask_id}
            x = draft
        if how.get("pace") == "optimal":
            how = how | {"pace": optimal_pace(torch.tensor(self.curve), how["num_steps"])}
        *_, x = lm.write(x, sampler, seed, temperature=temperature, **how)
        return x

    def measure(self, way: str, **how) -> dict:
        lm, states, costs = self.lms["gpt" if way == "GPT" else "diffusion"], [], []
        for i, part in enumerate(self.x_0.split(self.cfg.batch)):
            x, counted, texts = part.clone(), CountForwards(lm.model), len(part)
            x[:, self.cfg.prompt :] = lm.mask_id
            seed, start = zlib.crc32(f"{way} {how} {i} {self.cfg.seed}".encode()), time.process_time()
            states.append(self.write(replace(lm, model=counted), x, seed=seed, **how))
            seconds, tokens = (time.process_time() - start) / texts, counted.token_forwards / texts
            passes = counted.passes if lm.kind == "gpt" else tokens / self.cfg.length  # a text at rest is not read
            costs += [(passes, tokens, seconds)] * texts
        names = ("passes", "tokens_read", "cpu_seconds")
        cost = {name: average(column) for name, column in zip(names, np.array(costs).T, strict=True)}
        return self.judged(torch.cat(states)) | cost

    def judged(self, x) -> dict:
        """What a sample is like; of real text, too."""
        judge, start = self.lms["judge"], self.cfg.prompt
        with torch.inference_mode():  # the row before a character predicts it
            nats = [next_token_nll(judge.model(p)[:, start - 1 :], p[:, start - 1 :]) for p in x.split(self.cfg.batch)]
        texts = [judge.tokenizer.decode(row) for row in x]
        return {"judge_nats": average(torch.cat(nats).numpy())} | measures(texts, start, self.training)


def study(cfg: Config) -> dict:
    """All the numbers, as data. Every point is kept as soon as it is measured."""
    made_by, bench = provenance(), Bench(cfg)  # of the code that runs, whatever is committed meanwhile
    kept = read_json(cfg.points) if cfg.points.exists() else {}
    weights = {name: model["sha256"] for name, model in bench.models.items()}
    settings = {k: getattr(cfg, k) for k in ("texts", "length", "prompt", "batch", "seed")}
    real, points, matches = bench.judged(bench.x_0), [], []
    todo = [(*who, knob, value, temps) for *who, knob, values in PLAN for value, temps in values.items()]
    for way, sampler, options, knob, value, temps in track(todo, "writing and judging", console=console):
        curve, name = [], f"{way}, {value:g} {knob}".replace("num_", "") if knob else way
        for t in temps:
            point = {"sampler": sampler, "how": options | ({knob: value} if knob else {}), "temperature": t}
            if (key := f"{way} {point} {settings} {weights}") not in kept:
                kept[key] = {k: [v, without.tolist()] for k, (v, without) in bench.measure(way, **point).items()}
                cfg.points.parent.mkdir(parents=True, exist_ok=True)
                write_json(cfg.points, kept)
            curve.append({k: (v, np.array(without)) for k, (v, without) in kept[key].items()})
            points.append({"way": way, "name": name, **point} | intervals(curve[-1]))
            curve[-1]["temperature"] = t, np.full(cfg.texts, t)
        if found := matched(curve, "entropy", real["entropy"]):
            matches.append({"way": way, "name": name} | intervals(found))
    corpus = {"name": bench.corpus.name, "sha256": bench.corpus.sha256}
    independent = weights["judge"] not in (weights["gpt"], weights["diffusion"])
    numbers = {"made_by": made_by, **settings, "models": bench.models, "judge_wrote_nothing": independent}
    numbers |= {"corpus": corpus, "curve": bench.curve.tolist(), "real_text": intervals(real)}
    return numbers | {"points": points, "at_the_entropy_of_real_text": matches}


def intervals(found: dict) -> dict:
    return {name: interval(*pair) for name, pair in found.items()}


def table(numbers: dict) -> Table:
    """A row a curve: its sample at temperature 1, and where it is as diverse as real text."""
    same = {p["name"]: p for p in numbers["at_the_entropy_of_real_text"]}
    t = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=CAPTION, caption_justify="left")
    t.add_column("at temperature 1", no_wrap=True)
    for name in ("judge", "entropy", "known\nwords", "copied", "tokens\nread", "CPU\nms", "judge, as\ndiverse as real"):
        t.add_column(name, justify="right", no_wrap=True)
    hot = [p for p in numbers["points"] if p["temperature"] == 1]
    for p in ({"name": "real text"} | numbers["real_text"], *hot):
        cells = [
            f"{p[k]['value']:{f}}" for k, f in (("entropy", ".2f"), ("known_words", ".0%"), ("longest_run", ".1f"))
        ]
        cost = (
            [f"{p['tokens_read']['value']:,.0f}", f"{1000 * p['cpu_seconds']['value']:.0f}"] if p in hot else ["", ""]
        )
        t.add_row(p["name"], nats(p), *cells, *cost, nats(same[p["name"]]) if p["name"] in same else "")
    return t


def nats(row: dict) -> str:
    return f"{row['judge_nats']['value']:.2f} ± {1.96 * row['judge_nats']['stderr']:.2f}"


CAPTION = """\
judge: nats per character under a GPT of another seed, ± 95 %. entropy: of
4-grams, nats. copied: the longest run of characters that the training text
holds. Tokens and CPU milliseconds: one text. Last column: at the temperature
that gives the entropy of real text, by a straight line between two around it."""


def main(cfg: Config) -> None:
    torch.set_num_threads(1)
    cfg = replace(cfg, texts=4, length=24) if cfg.smoke else cfg
    write_json(cfg.out, numbers := study(cfg))
    console.print(table(numbers))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
