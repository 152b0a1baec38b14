"""The twins on one number line: nats per character on the same held-out text, and what writing costs each of them.

python -m microdlm.comparison runs/diffusion-playlets-nano runs/gpt-playlets-nano
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich import box
from rich.progress import track
from rich.table import Table

from microdlm import cli
from microdlm.corpus import Corpus, load_corpus
from microdlm.cost import CountForwards
from microdlm.errors import UserError
from microdlm.likelihood import Estimate
from microdlm.playlets import Playlets
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import provenance, write_json
from microdlm.terminal import STYLES, console
from microdlm.tokenizers import CharTokenizer

# How each kind of model writes here. Temperature 1 and nothing cut off, so all aim at the same distribution.
WAYS = {
    "gpt": {"left to right": dict(sampler="left_to_right")},
    "diffusion": {
        "surest first": dict(sampler="confidence", num_steps=32),
        "one by one": dict(sampler="first_hitting"),
    },
}


@dataclass(frozen=True)
class Config:
    models: Annotated[tuple[str, ...], tyro.conf.Positional]  # folders of runs, or names of shipped models
    data: str = ""  # held-out text to score; default: the one the models were trained on
    windows: int = 0  # how many held-out windows; 0: all of them
    samples: int = 32  # masks a window for a diffusion model's bound
    texts: int = 16  # texts to write with each
    seed: int = 0  # of masks and texts
    out: Path | None = None  # write the numbers here too, as JSON


def compare(cfg: Config) -> dict:
    """All the numbers, as data."""
    models = {name: load(name) for name in cfg.models}
    if not models or len({lm.kind for lm in models.values()}) < len(models):
        raise UserError("give the folder of a run or the name of a model: one gpt, one diffusion, or one of each")
    first = next(iter(models.values()))
    for name, lm in models.items():
        if (lm.tokenizer, lm.model.cfg.seq_len) != (first.tokenizer, first.model.cfg.seq_len):
            raise UserError(
                f"{name} has another vocabulary or window than {cfg.models[0]}: their numbers do not compare"
            )
    corpus = load_corpus(cfg.data or learned_from(first, cfg.models[0])["name"], first.tokenizer)
    if not cfg.data and corpus.sha256 != learned_from(first, cfg.models[0])["sha256"]:
        raise UserError(f"{corpus.name} is not the text these models learned from: name the text to score with --data")
    x_0 = corpus.windows(first.model.cfg.seq_len, cfg.windows or None)
    language = Playlets() if corpus.entropy_rate is not None else None
    likelihood, writing, races = {}, [], {}
    for lm in track(models.values(), "scoring and writing", console=console, transient=True):
        score = nats_per_char(lm.score_windows(x_0, cfg.samples, cfg.seed), corpus)
        likelihood[lm.kind] = score | {"parameters": lm.model.num_parameters()}
        writing += [time_writing(lm, way, how, cfg, language) for way, how in WAYS[lm.kind].items()]
        races[lm.kind] = race(lm, cfg.seed)
    numbers = {"corpus": {"name": corpus.name, "sha256": corpus.sha256}, "windows": len(x_0), "seed": cfg.seed}
    if language is not None:
        ids = CharTokenizer(language.alphabet)  # a model that knows more characters has other ids
        its_own = torch.tensor([ids.encode(first.tokenizer.decode(row)) for row in x_0])
        exact = nats_per_char(Estimate.of(language.denoiser().nll(its_own, given=1)), corpus)
        numbers["exact"] = exact | {"entropy_rate": corpus.entropy_rate}
    return numbers | {"likelihood": likelihood, "writing": writing, "race": races, "made_by": provenance()}


def learned_from(lm: LanguageModel, name: str) -> dict:
    """The name and sha256 of its corpus. A model of others might name any file of this machine: a path is refused."""
    told = lm.config.get("corpus")
    if isinstance(told, dict) and {"name", "sha256"} <= told.keys() and Path(str(told["name"])).name == told["name"]:
        return told
    raise UserError(f"{name} does not say by a plain name what it learned from: name the text to score with --data")


def nats_per_char(e: Estimate, corpus: Corpus) -> dict:
    return {"nats_per_char": e.mean / corpus.chars_per_token, "stderr": e.stderr / corpus.chars_per_token}


def time_writing(lm: LanguageModel, way: str, how: dict, cfg: Config, language: Playlets | None) -> dict:
    """Write cfg.texts texts of a whole window from a newline, and count."""
    counted = replace(lm, model=CountForwards(lm.model))
    start = time.perf_counter()
    texts = counted.generate(cfg.texts, prompt="\n", seed=cfg.seed, temperature=1.0, **how)
    cost = {"passes": counted.model.passes, "token_forwards": counted.model.token_forwards // cfg.texts}
    found = {"kind": lm.kind, "way": way, **cost, "seconds": time.perf_counter() - start, "texts": cfg.texts}
    if language is not None:
        # Lines begun or broken off by the window's edges are nobody's fault.
        lines = [line for text in texts for line in text.split("\n")[1:-1] if line]
        accepted = sum(map(language.accepts, lines))
        found |= {"lines": len(lines), "lines_accepted": accepted}
    return found | {"sample": texts[0]}


def race(lm: LanguageModel, seed: int, length: int = 72, frames: int = 4) -> list[dict]:
    """One short text as it appears: how many passes were made, and what stood there then."""
    way, how = next(iter(WAYS[lm.kind].items()))
    x = lm.canvas("\n", min(length, lm.model.cfg.seq_len))
    states = [x, *lm.write(x, seed=seed, temperature=0.8, **how | {"num_steps": 24})]
    last = len(states) - 1
    moments = sorted({round(i * last / frames) for i in range(frames + 1)})
    return [{"way": way, "passes": i, "text": lm.tokenizer.decode(states[i][0])} for i in moments]


def table(numbers: dict) -> Table:
    """One row a way of writing; below them, where there is one, the exact answer."""
    exact = numbers.get("exact")
    t = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=CAPTION + (EXACT if exact else ""),
        caption_justify="left",
    )
    t.title = f"The twins on {numbers['corpus']['name']}"
    t.add_column("", no_wrap=True)
    for name in ("nats/char", *(["above\nexact"] if exact else []), "passes", "tokens\nread", "secs"):
        t.add_column(name, justify="right", no_wrap=True)
    if exact:
        t.add_column("lines\nvalid", justify="right", no_wrap=True)
    for w in numbers["writing"]:
        e = numbers["likelihood"][w["kind"]]
        label = f"[{STYLES[w['kind']]}]{w['kind']}[/], {w['way']}"
        above = [f"{e['nats_per_char'] - exact['nats_per_char']:+.3f}"] if exact else []
        lines = [f"{w['lines_accepted'] / max(1, w['lines']):.0%}"] if exact else []
        cost = [f"{w['passes']:,}", f"{w['token_forwards']:,}", f"{w['seconds']:.1f}"]
        t.add_row(label, value(e, "≤ " if w["kind"] == "diffusion" else ""), *above, *cost, *lines)
    if exact:
        t.add_section()
        t.add_row("exact, these windows", value(exact), "", "", "", "", "100%", style=STYLES["exact"])
        t.add_row("exact entropy rate", f"{exact['entropy_rate']:.3f}        ", style=STYLES["exact"])
    return t


def value(e: dict, sign: str = "") -> str:
    return f"{sign}{e['nats_per_char']:.3f} ± {e['stderr']:.3f}"


CAPTION = """\
nats/char: held-out text, its first character given; ≤ marks an upper bound.
Passes and tokens read are counted for one text, seconds for all texts at once."""
EXACT = """
No model can beat the exact rows: the language scored on the same windows, and
its entropy, which is what an endless context would allow. Lines valid: the
share of generated lines that the language accepts."""


def main(cfg: Config) -> None:
    numbers = compare(cfg)
    if cfg.out is not None:
        write_json(cfg.out, numbers)
    console.print(table(numbers))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
