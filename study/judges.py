"""How runs write, and who reads it: a language model that is not of the study, or the language itself.

A judge has a `name`, and `nats(texts)` gives for each text its nats and how many tokens they are for (B, 2). `beside`
is what else it counts of each text, in pairs likewise; `features` is what MAUVE compares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from microdlm.errors import UserError
from microdlm.hub import WEIGHTS
from microdlm.objectives import next_token_nll
from microdlm.oracle import FiniteStateDenoiser
from microdlm.playlets import Playlets
from microdlm.pretrained import load
from microdlm.runs import ROOT, read_json
from microdlm.terminal import console

SLIP = 0.01  # how often a letter is misheard
HUB = "hub"  # as --wikitext: fetch it


@dataclass(frozen=True)
class Evaluate:
    """Have the finished runs write, and what they write judged: JSON. `analyse` then shows it beside the scores."""

    preset: str = "nano"  # nano, shakespeare-10m or fineweb-124m
    grid: str = "exact"  # exact or published
    seeds: tuple[int, ...] = ()  # which of the preset's; none: all
    out: Path = Path("runs/study")  # folder of the runs
    results: Path = ROOT / "results"  # folder for what is found
    device: str = "auto"  # auto (a GPU of CUDA if there is one), cpu, cuda
    sampler: str = "ancestral"  # any of microdlm.samplers
    num_steps: int = 32  # of the sampler
    temperature: float = 1.0
    texts: int = 64  # that each run writes, a whole window each
    batch: int = 16  # texts written at once
    seed: int = 0  # of the texts, the same for all runs
    judge: str = ""  # a GPT of yours or of transformers, by name or folder; none: playlets itself, or gpt2
    wikitext: str = ""  # score WikiText-2 raw as well: the path of its test text, or "hub" to fetch it
    windows: int = 256  # of it
    mauve: bool = False  # MAUVE against held-out text; of few texts it is noise

    def run(self) -> None:
        from study.evaluate import evaluate

        path = evaluate(self)
        console.print(f"{path}; to see it: python -m study analyse --preset {self.preset}")


@dataclass(frozen=True)
class Reader:
    """A causal language model. The first of a text's ids is given; of a text longer than its window, the rest is not
    read."""

    name: str
    encode: Callable[[str], list[int]]
    logits: Callable[[Tensor], Tensor]  # (1, L) -> (1, L, V)
    last: Callable[[Tensor], Tensor]  # (1, L) -> (1, D): what it makes of the text as a whole
    window: int

    def ids(self, text: str) -> Int[Tensor, "1 L"]:
        return torch.tensor([self.encode(text)[: self.window]])

    @torch.no_grad()
    def nats(self, texts: list[str]) -> np.ndarray:
        every = [self.ids(text) for text in texts]
        per_token = [next_token_nll(self.logits(ids), ids).item() for ids in every]
        n = np.array([ids.size(1) - 1 for ids in every])
        return np.stack([np.array(per_token) * n, n], 1)

    def beside(self, texts: list[str]) -> dict[str, np.ndarray]:
        return {}

    @torch.no_grad()
    def features(self, texts: list[str]) -> np.ndarray:
        return torch.cat([self.last(self.ids(text)) for text in texts]).double().cpu().numpy()


def our_gpt(folder: str | Path, device: str = "cpu") -> Reader:
    """A GPT of ours: the folder of its run, or its name. Nats per token of its vocabulary, the first one given."""
    lm = load(folder, device)
    if lm.kind != "gpt":
        raise UserError(f"{folder} is a {lm.kind} model and cannot judge: give a GPT")
    model, kept = lm.model, []
    model.head.register_forward_pre_hook(lambda _, args: kept.__setitem__(slice(None), args))

    def last(ids):
        model(ids.to(device))
        return kept[0][:, -1]

    return Reader(str(folder), lm.tokenizer.encode, lambda ids: model(ids.to(device)).cpu(), last, model.cfg.seq_len)


def of_transformers(name: str, device: str = "cpu") -> Reader:
    """A causal model of `transformers`, by its name on the Hub or its folder; its begin-of-text token is given."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise UserError(
            f"the judge {name} needs transformers: pip install -e '.[study]', or name a GPT of yours"
        ) from None
    try:
        tok, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name).eval().to(device)
    except (OSError, ValueError) as e:
        what = f"the judge {name} is not on this disk and cannot be fetched ({type(e).__name__})"
        raise UserError(f"{what}: name a folder with --judge, of transformers' or of a GPT of yours") from None
    begin = tok.bos_token_id if tok.bos_token_id is not None else tok.eos_token_id

    def last(ids):
        return model(ids.to(device), output_hidden_states=True).hidden_states[-1][:, -1]

    window = getattr(model.config, "max_position_embeddings", 1024)
    encode = lambda text: [begin, *tok(text)["input_ids"]]  # noqa: E731
    return Reader(name, encode, lambda ids: model(ids.to(device)).logits.cpu(), last, window)


class Language:
    """Playlets itself: exact nats per character, with one letter in a hundred misheard.

    What the language cannot say has probability 0, and every text of a small model holds some of that: exact nats
    alone would be infinite for all of them. So each letter is, with probability SLIP, replaced by any letter: a
    process of known probabilities too, in which a slip costs about ln(V / SLIP) and what is sound costs what it does.
    """

    name = f"the language itself, {SLIP:.0%} of the letters misheard"

    def __init__(self):
        self.language = Playlets()

    def nats(self, texts: list[str]) -> np.ndarray:
        ids = torch.tensor([[self.language.alphabet.index(c) for c in text] for text in texts])
        nats = misheard_nll(self.language.denoiser(), ids) * ids.size(1)
        return np.stack([nats.numpy(), np.full(len(texts), ids.size(1))], 1)

    def beside(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Lines that the language accepts. Those begun or broken off by the text's ends are nobody's fault."""
        lines = [[line for line in text.split("\n")[1:-1] if line] for text in texts]
        return {"lines_accepted": np.array([[sum(map(self.language.accepts, of)), len(of)] for of in lines])}

    def features(self, texts: list[str]) -> np.ndarray:
        raise UserError("MAUVE compares what a network makes of texts: name a GPT with --judge")


def misheard_nll(language: FiniteStateDenoiser, x: Int[Tensor, "B L"], slip: float = SLIP) -> Float64[Tensor, " B"]:
    """-log p(x), exact nats per token, if each symbol of the language is replaced with probability `slip` by one of all
    symbols, evenly."""
    V, expected, log_p = language.mask_id, language.initial[:, None].expand(-1, len(x)), 0.0
    for x_i in x.T:
        said = language.symbol[:, None] == x_i
        belief = expected * (said * (1 - slip) + slip / V)
        evidence = belief.sum(0)
        log_p = log_p + evidence.log()
        moved = language.prob[:, None] * (belief / evidence)[language.source]
        expected = torch.zeros_like(belief).index_add_(0, language.target, moved)
    return -log_p / x.size(1)


def pick(name: str, corpus: str, device: str = "cpu"):
    """The judge of this name; none given: the language itself where it is known, else GPT-2."""
    if name == "exact" or (not name and corpus == "playlets"):
        if corpus != "playlets":
            raise UserError(f"{corpus} is not a language whose probabilities are known: name a GPT with --judge")
        return Language()
    folder = next((f for f in (Path(name), WEIGHTS / name) if name and (f / "config.json").exists()), None)
    ours = folder is not None and "tokenizer" in read_json(folder / "config.json")
    return our_gpt(name, device) if ours else of_transformers(name or "gpt2", device)
