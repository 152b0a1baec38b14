"""What are the options of the backbone worth? One at a time against a base that has none of them, three seeds each.

    python results/ablations.py          24 trainings; stopped, it goes on where it was

Does it help to tell the network t, which it could count for itself? By a vector added to the stream, or by adaLN in
each block, which also makes the network larger? Do learned positions do as well as RoPE? Does an average
of the weights help, where the learning rate falls to 0 and where it does not? What is Muon worth? All read as many
characters of Tiny Shakespeare; the score is the count form of the bound, on the same held-out windows and masks.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from microdlm import cli
from microdlm.corpus import Corpus, load_corpus
from microdlm.runs import ROOT
from microdlm.search import in_counts, search, trained
from microdlm.state import State, TrainConfig
from microdlm.training import pick_device
from microdlm.transformer import Transformer, TransformerConfig

BASE = {"optimizer": "muon", "lr": 6e-3, "batch_size": 16}
FACTORS = {  # variant: what it changes, of the network or of the training
    "base": {"base": {}},
    "time": {"t added": {"time": "add"}, "t by adaLN-Zero": {"time": "adaln"}},
    "positions": {"learned positions": {"positions": "learned"}},
    "average": {
        "EMA 0.99": {"ema": 0.99},
        "constant rate": {"final_lr": 1.0},
        "constant rate, EMA 0.99": {"final_lr": 1.0, "ema": 0.99},
    },
    "optimizer": {"AdamW, lr 3e-3": {"optimizer": "adamw", "lr": 3e-3}},
}
VARIANTS = {name: changes for variants in FACTORS.values() for name, changes in variants.items()}
NANO, TINY = dict(seq_len=128, n_layer=3, n_head=2, d_model=96), dict(seq_len=64, n_layer=1, n_head=2, d_model=16)
OF_THE_NETWORK = ("time", "positions")


@dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1, 2)
    chars: int = 1_024_000  # that each run reads: 500 steps
    windows: int = 64  # held out, for the score
    samples: int = 16  # masks of each
    smoke: bool = False  # every variant for four tiny steps: does it run?
    out: Path = ROOT / "results" / "ablations.json"


def run(name: str, seed: int, cfg: Config, corpus: Corpus, sizes: dict) -> dict:
    """Train one variant with one seed; its score and what it took."""
    changes, mask_id, L = VARIANTS[name], corpus.tokenizer.mask_id, sizes["seq_len"]
    net = TransformerConfig(mask_id + 1, **sizes, **{k: v for k, v in changes.items() if k in OF_THE_NETWORK})
    training = BASE | {k: v for k, v in changes.items() if k not in OF_THE_NETWORK}
    how = TrainConfig(steps=max(1, cfg.chars // (BASE["batch_size"] * L)), seed=seed, **training)
    model = Transformer(net, torch.Generator().manual_seed(seed))
    found = trained(
        f"{name}, seed {seed}",
        State(model, how, pick_device()),
        how,
        in_counts,
        lambda rng: corpus.batch(how.batch_size, L, rng),
        corpus.windows(L, cfg.windows),
        cfg.samples,
    )
    return found | {"parameters": model.num_parameters(), "network": asdict(net), "training": asdict(how)}


def main(cfg: Config) -> None:
    if cfg.smoke:
        cfg = replace(cfg, chars=4096, windows=2, samples=2, seeds=cfg.seeds[:2])
    sizes = TINY if cfg.smoke else NANO
    corpus = load_corpus("playlets" if cfg.smoke else "shakespeare", min_length=sizes["seq_len"])
    setting = {"windows": cfg.windows, "samples": cfg.samples, "chars": cfg.chars, "sizes": sizes}
    search(cfg.out, setting, FACTORS, cfg.seeds, lambda name, seed: run(name, seed, cfg, corpus, sizes))


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
