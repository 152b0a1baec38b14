"""What does a small story model know? Its bound on held-out stories, and whether its own ones end.

    python results/stories.py --model runs/diffusion-tinystories-quick   writes results/tinystories.json
    python results/stories.py                                            the one in weights/, and its card
    python results/stories.py --card                                     the card alone, from the numbers there are

Stories that end are counted, and words that stand in the training text; held-out stories are measured the same way.
Then it is asked something: a question with the answer to be filled in, and a story of which only the middle is missing.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from microdlm import cli
from microdlm.comparison import nats_per_char
from microdlm.corpus import Corpus, load_corpus
from microdlm.errors import UserError
from microdlm.hub import WEIGHTS
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.stories import TEXTS
from microdlm.terminal import console
from microdlm.tokenizers import END

WAYS = {
    "surest first": {"sampler": "confidence", "num_steps": 64},
    "one by one": {"sampler": "first_hitting"},
}
QUESTION = 'Tom looked at the big tree. "Mom, can I climb it?" he asked. His mom said, "'
MIDDLE = "Lily lost her red ball in the park. She was very sad. {40} Lily was happy again." + END

READS = (  # as a reader found them
    "Its stories begin, go on and end. Sentences break off; surest first it repeats itself; who did what it forgets."
)


@dataclass(frozen=True)
class Config:
    model: str = "tinystories-diffusion"
    data: str = "tinystories"
    windows: int = 0  # held out, for the bound; 0: all
    samples: int = 16  # masks of each
    texts: int = 64  # of each way
    temperature: float = 0.8
    seed: int = 0  # of everything random
    card: bool = False  # only write the card
    out: Path = ROOT / "results" / "tinystories.json"


def share(hits: int, n: int) -> dict:
    """With its standard error, each of the n a draw of its own."""
    return {"value": hits / n, "stderr": math.sqrt(hits * (n - hits) / n**3)}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def about(wholes: list[str], known: set[str]) -> dict:
    """Of texts that begin at the beginning: which of them end, how long those are, which of all words are known."""
    texts, ended = [whole.split(END)[0] for whole in wholes], [END in whole for whole in wholes]
    said = [word for text in texts for word in words(text)]
    long = [len(words(text)) for text, over in zip(texts, ended, strict=True) if over]
    new = sum(word not in known for word in said)
    lengths = {"words_if_ended": sum(long) / len(long)} if long else {}
    return {"texts": len(texts), "ended": share(sum(ended), len(texts)), **lengths, "unknown_words": new / len(said)}


def beginnings(lm: LanguageModel, corpus: Corpus, n: int) -> list[str]:
    """The first n held-out stories, each as much of it as a window shows."""
    stories, L = corpus.tokenizer.decode(corpus.val).split(END)[:n], lm.model.cfg.seq_len
    return [corpus.tokenizer.decode(corpus.tokenizer.encode(story + END)[:L]) for story in stories]


def measure(cfg: Config) -> dict:
    """All the numbers, as data."""
    lm = load(cfg.model)
    if lm.kind != "diffusion" or not lm.tokenizer.has_end:
        raise UserError(f"{cfg.model} is not a diffusion model that knows where a text ends: give one of TinyStories")
    corpus = load_corpus(cfg.data, lm.tokenizer, lm.model.cfg.seq_len)
    known, how = set(words(corpus.tokenizer.decode(corpus.train))), dict(seed=cfg.seed, temperature=cfg.temperature)
    x_0, prompt, writing = corpus.windows(lm.model.cfg.seq_len, cfg.windows or None), TEXTS["tinystories-quick"], {}
    for way, options in track(WAYS.items(), "writing", console=console, transient=True):
        wholes = lm.generate(cfg.texts, prompt=prompt["prompt"], whole=True, **options, **how)
        writing[way] = about(wholes, known) | {"samples": [whole.split(END)[0] for whole in wholes[:2]]}
    made = {key: lm.config.get(key) for key in ("model", "training")} | {"by": lm.config.get("made_by", {})}
    return {
        "model": cfg.model,
        "trained": made | {"parameters": lm.model.num_parameters()},
        "corpus": {"name": corpus.name, "sha256": corpus.sha256, "chars_per_token": corpus.chars_per_token},
        **{"windows": len(x_0), "masks": cfg.samples, "seed": cfg.seed, "temperature": cfg.temperature},
        "bound": nats_per_char(lm.score_windows(x_0, cfg.samples, cfg.seed), corpus),
        "writing": writing,
        "held_out": about(beginnings(lm, corpus, 1000), known),
        "answer": lm.generate(2, length=120, prompt=QUESTION, num_steps=64, **how),
        "middle": [text.removesuffix(END) for text in lm.infill(MIDDLE, n=2, num_steps=40, **how)],
        "made_by": provenance(),
    }


def card(numbers: dict, config: dict) -> str:
    """What stands beside the weights: how they were made, what was measured, what they write."""
    net, how, made, summary, of = (config[key] for key in ("model", "training", "made_by", "summary", "corpus"))
    each, bound, real = of["chars_per_token"], numbers["bound"], numbers["held_out"]
    curve = ", ".join(f"{v['val'] / each:.3f} ({v['step']:,})" for v in summary["validations"])
    lines = [
        f"# {numbers['model']}\n",
        f"A small diffusion language model that tells stories, trained on TinyStories (2305.07759): {net['n_layer']} "
        f"layers, {net['n_head']} heads, width {net['d_model']}, window {net['seq_len']}, {net['vocab_size'] - 1:,} "
        f"byte pairs and MASK, {summary['parameters']:,} parameters, stored in bfloat16.\n",
        f"* Made with `{made['command']}` at commit `{made['commit']}`, torch {made['torch']}, {made['threads']} CPU "
        f"threads, seed {how['seed']}.",
        f"* Data: stories of TinyStories, sha256 `{of['sha256']}`; the last tenth held out.",
        f"* Training: {summary['steps']:,} steps of {how['batch_size']} windows; the weights are those of the best of "
        f"{how['evals']} validations, on 64 windows spread over the held-out text: {curve} nats per character after so "
        "many steps.",
        f"* Held-out score: ≤ {bound['nats_per_char']:.3f} ± {bound['stderr']:.3f} nats per character (a bound), "
        f"{numbers['windows']} windows, those 64 among them, first token given; the end of a story is one character.",
    ]
    told_by = {f"Written {way}": told for way, told in numbers["writing"].items()} | {"Held-out stories": real}
    for whose, told in told_by.items():
        lines.append(
            f"* {whose}: {told['ended']['value']:.0%} ± {told['ended']['stderr']:.0%} of {told['texts']} texts "
            f"end within the window; {told['unknown_words']:.1%} of the words stand in no story it learned from."
        )
    lines += [
        "* Licence: MIT, as the code. The stories it learned from are under CDLA-Sharing-1.0, and are not here.",
        f"* {READS} It is for learning, not for use.\n",
        *(shown(f"the first story, {way}", told["samples"][0]) for way, told in numbers["writing"].items()),
        shown("asked a question", numbers["answer"][0]),
        shown("only the middle left open", numbers["middle"][0]),
        f"At temperature {numbers['temperature']}. Numbers: `results/tinystories.json`, made by "
        f"`{numbers['made_by']['command']}`.\n",
    ]
    return "\n".join(lines)


def shown(what: str, text: str) -> str:
    return f"## Not chosen: {what}\n\n```\n{text.strip()}\n```\n"


def main(cfg: Config) -> None:
    numbers = read_json(cfg.out) if cfg.card else measure(cfg)
    if not cfg.card:
        write_json(cfg.out, numbers)
        parts = ("bound", "writing", "held_out", "answer", "middle")
        console.print_json(data={key: numbers[key] for key in parts}, ensure_ascii=False)
    if (folder := WEIGHTS / cfg.model).is_dir() and folder.parent == WEIGHTS:
        (folder / "README.md").write_text(card(numbers, read_json(folder / "config.json")), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
