"""Step 2's picture with every point of it: what a hidden letter costs when k of 128 are hidden, k = 1 .. 128.

python results/curve.py     some minutes on one thread; writes results/curve.json

The step itself asks the exact denoiser and the one without context at twelve counts, which is enough for a picture.
The page lets its reader cut the area under the curve into slices (web/explore/curve.js), and for that it needs all.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from microdlm import cli
from microdlm.corpus import load_corpus
from microdlm.lesson import fit
from microdlm.likelihood import Estimate
from microdlm.playlets import Playlets
from microdlm.runs import ROOT, provenance, write_json
from microdlm.state import TrainConfig
from microdlm.transformer import TransformerConfig


@dataclass(frozen=True)
class Config:
    seed: int = 0  # of weights, masks and the order of the text
    steps: int | None = None  # of training; as many as step 2 makes
    windows: int | None = None  # held-out windows to ask about; as many as step 2 asks about
    out: Path = ROOT / "results" / "curve.json"


def load_step():
    """The step as a module. It is not a package: it is meant to be run."""
    spec = importlib.util.spec_from_file_location("step2", ROOT / "steps" / "step2_transformer.py")
    step = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(step)
    return step


def trained(step, corpus, cfg: Config):
    """The network of step 2, trained as it trains it."""
    sizes = TransformerConfig(corpus.tokenizer.mask_id + 1, step.L, **step.SIZES)
    model = step.Transformer(sizes, torch.Generator().manual_seed(cfg.seed))
    how = TrainConfig(**step.TRAINING | ({"steps": cfg.steps} if cfg.steps else {}), seed=cfg.seed)
    fit(model, how, step.loss, corpus.batch, "cpu", "hide k letters, name them")
    return model.requires_grad_(False)


def without_context(corpus):
    """A denoiser that looks at nothing and answers with the letter counts of the training text."""
    counted = torch.nn.functional.pad(torch.bincount(corpus.train, minlength=len(corpus.tokenizer)) + 1.0, (0, 1))
    return lambda x_t: counted.log().log_softmax(0).expand(*x_t.shape, -1)


def measured(by_count: dict[int, Estimate]) -> dict:
    """c_1 .. c_L, and their mean: the area under the curve. Each with its standard error over windows."""
    area = Estimate.of(torch.stack([c.per_sequence for c in by_count.values()]).mean(0))
    points = {"nats": [c.mean for c in by_count.values()], "stderr": [c.stderr for c in by_count.values()]}
    return {"area": area.mean, "area_stderr": area.stderr} | points


def main(cfg: Config) -> None:
    step = load_step()
    corpus = load_corpus("playlets", min_length=2 * step.L)
    x_0, mask_id = corpus.windows(step.L, cfg.windows or step.WINDOWS), corpus.tokenizer.mask_id
    denoisers = {
        "transformer": trained(step, corpus, cfg),
        "no context": without_context(corpus),
        "exact": Playlets().denoiser(),
    }
    curves = {
        name: measured(step.curve(denoiser, x_0, mask_id, range(1, step.L + 1), cfg.seed))
        for name, denoiser in denoisers.items()
    }
    write_json(cfg.out, {"length": step.L, "windows": len(x_0), "seed": cfg.seed, **curves, "made_by": provenance()})


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
