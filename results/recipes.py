"""Which recipe trains a small diffusion model best? One factor at a time around a base, three seeds each.

    python results/recipes.py            78 trainings; stopped, it goes on where it was

Every run reads as many characters of Tiny Shakespeare, and is scored by the count form of the bound on the same
held-out windows under the same masks. A variant is compared with the base seed by seed.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from microdlm import attention, cli
from microdlm.corpus import Corpus, load_corpus
from microdlm.masking import mask_count, mask_tokens, stratified, to_count, uniform
from microdlm.objectives import count_nelbo, masked_nll
from microdlm.runs import ROOT
from microdlm.search import ratio_in_counts, search, trained
from microdlm.state import State, TrainConfig
from microdlm.training import pick_device
from microdlm.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class Recipe:
    """One way to train. The defaults are the base."""

    objective: str = "count, stratified"
    optimizer: str = "muon"
    lr: float = 6e-3
    warmup: float = 0.05
    final_lr: float = 0.0
    weight_decay: float = 0.1
    dropout: float = 0.0
    ema: float = 0.0
    batch_size: int = 16
    cut: int = 1  # each window into so many pieces, for training; scored are whole ones
    embedding_std: float | None = None  # None: 1 / sqrt(D)
    attention_scale: float = 1.0  # times 1 / sqrt(K)


FACTORS = {  # variant: what it changes; in each, first what is likely to matter most
    "base": {"base": {}},
    "optimizer": {
        "AdamW, lr 3e-3": {"optimizer": "adamw", "lr": 3e-3},
        "AdamW, lr 6e-3": {"optimizer": "adamw"},
        "AdamW, lr 1.5e-3": {"optimizer": "adamw", "lr": 1.5e-3},
    },
    "objective": {"batch ratio": {"objective": "batch ratio"}, "in time, weight 1/t": {"objective": "in time"}},
    "attention": {"attention × 2": {"attention_scale": 2.0}, "attention × 4": {"attention_scale": 4.0}},
    "batch": {"batch 8": {"batch_size": 8}, "batch 32": {"batch_size": 32}, "windows cut in two": {"cut": 2}},
    "learning rate": {"lr 1.2e-2": {"lr": 1.2e-2}, "lr 3e-3": {"lr": 3e-3}},
    "masks": {
        "complementary masks": {"objective": "complementary"},
        "few masked more often": {"objective": "few"},
        "many masked more often": {"objective": "many"},
        "shares from 10 to 90 % only": {"objective": "middle"},
        "counts not stratified": {"objective": "count"},
    },
    "embedding": {"embedding std 1": {"embedding_std": 1.0}, "embedding std 0.02": {"embedding_std": 0.02}},
    "weight decay": {"weight decay 0": {"weight_decay": 0.0}, "weight decay 0.3": {"weight_decay": 0.3}},
    "regulariser": {"EMA 0.99": {"ema": 0.99}, "dropout 0.1": {"dropout": 0.1}},
    "schedule of the rate": {"down to a tenth": {"final_lr": 0.1}, "warm-up 1 %": {"warmup": 0.01}},
}
VARIANTS = {name: changes for variants in FACTORS.values() for name, changes in variants.items()}
SIZES = {
    "tiny": dict(seq_len=64, n_layer=1, n_head=2, d_model=16),
    "nano": dict(seq_len=128, n_layer=3, n_head=2, d_model=96),
    "small": dict(seq_len=256, n_layer=4, n_head=4, d_model=128),
    "full": dict(seq_len=256, n_layer=6, n_head=6, d_model=384),
}


@dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1, 2)
    size: str = "nano"  # nano, small, or full: 10.7M, wants a GPU
    chars: int = 1_024_000  # that each run reads: 500 steps of the base at nano
    windows: int = 64  # held out, for the score
    samples: int = 16  # masks of each
    variants: tuple[str, ...] = ()  # these only ("base" is one); the others are left to another process
    smoke: bool = False  # every variant for two tiny steps: does it run?
    out: Path = ROOT / "results" / "recipes.json"


def evenly(x_0: Tensor, rng: torch.Generator) -> Tensor:
    """A number between 0 and 1 for each sequence (B,), evenly spread over the batch."""
    return stratified(len(x_0), rng=rng, device=x_0.device)


def hide(model: nn.Module, x_0: Tensor, share: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """-log p (B, L) of that share of each sequence's tokens, hidden, and which those were."""
    mask_id = model.cfg.vocab_size - 1
    x_t, is_masked = mask_count(x_0, to_count(share, x_0.size(1)), mask_id, rng)
    return masked_nll(model, x_0, x_t, is_masked, mask_id), is_masked


def count(model, x_0, rng):
    return count_nelbo(*hide(model, x_0, uniform((len(x_0),), x_0.device, rng), rng)).mean()


def in_time(model, x_0, rng):
    """Each token hidden with probability t, t stratified; the weight of the linear schedule is 1/t."""
    t, mask_id = evenly(x_0, rng).clamp(min=1e-3), model.cfg.vocab_size - 1
    x_t, is_masked = mask_tokens(x_0, 1 - t, mask_id, rng)
    return (masked_nll(model, x_0, x_t, is_masked, mask_id).mean(1) / t).mean()


def proposed(share: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Callable:
    """The share that is hidden is share(s), s stratified. Weighted by its slope, the same bound from other masks."""

    def objective(model, x_0, rng):
        s = evenly(x_0, rng)
        return (slope(s) * count_nelbo(*hide(model, x_0, share(s), rng))).mean()

    return objective


def complementary(model, x_0, rng):
    """Half of the windows, each twice: what is hidden the first time is visible the second, and the reverse."""
    half, mask_id = x_0[: (len(x_0) + 1) // 2], model.cfg.vocab_size - 1
    _, hidden = mask_count(half, to_count(evenly(half, rng), half.size(1)), mask_id, rng)
    both, is_masked = half.repeat(2, 1), torch.cat([hidden, ~hidden])
    nll = masked_nll(model, both, both.masked_fill(is_masked, mask_id), is_masked, mask_id)
    return (nll.sum(1) / is_masked.sum(1).clamp(min=1)).mean()  # where all is hidden, nothing is left for the second


QUARTER = math.pi / 2
OBJECTIVES = {  # objective(model, x_0 (B, L), rng): nats per token
    "count, stratified": proposed(lambda s: s, lambda s: 1.0),
    "count": count,
    "batch ratio": ratio_in_counts,
    "in time": in_time,
    "complementary": complementary,
    "few": proposed(lambda s: 1 - (QUARTER * s).cos(), lambda s: QUARTER * (QUARTER * s).sin()),
    "many": proposed(lambda s: (QUARTER * s).sin(), lambda s: QUARTER * (QUARTER * s).cos()),
    "middle": proposed(lambda s: 0.1 + 0.8 * s, lambda s: 0.8),
}


def sharpened(by: float):
    """with sharpened(2): attention's logits are twice as large."""
    plain = attention.attend
    return mock.patch.object(attention, "attend", lambda q, *rest: plain(q * by, *rest))


def begin(recipe: Recipe, seed: int, steps: int, vocab_size: int, sizes: dict) -> tuple[State, TrainConfig]:
    names = ("batch_size", "optimizer", "lr", "warmup", "final_lr", "weight_decay", "ema")
    cfg = TrainConfig(steps=steps, seed=seed, **{name: getattr(recipe, name) for name in names})
    net = TransformerConfig(vocab_size, dropout=recipe.dropout, **sizes)
    model = Transformer(net, torch.Generator().manual_seed(seed))
    if recipe.embedding_std is not None:
        nn.init.normal_(model.embedding.weight, std=recipe.embedding_std, generator=torch.Generator().manual_seed(seed))
    return State(model, cfg, pick_device()), cfg


def run(name: str, seed: int, cfg: Config, corpus: Corpus) -> dict:
    """Train one variant with one seed; its score and what it took."""
    recipe, L = replace(Recipe(), **VARIANTS[name]), SIZES[cfg.size]["seq_len"]
    steps, loss = max(1, cfg.chars // (recipe.batch_size * L)), OBJECTIVES[recipe.objective]
    state, how = begin(recipe, seed, steps, len(corpus.tokenizer) + 1, SIZES[cfg.size])
    x_0 = corpus.windows(L, cfg.windows)

    def batch(rng):
        return corpus.batch(recipe.batch_size * recipe.cut, L // recipe.cut, rng)

    with sharpened(recipe.attention_scale):
        result = trained(f"{name}, seed {seed}", state, how, loss, batch, x_0, cfg.samples)
    return {**result, "recipe": asdict(recipe)}


def main(cfg: Config) -> None:
    cli.one_of(cfg.size, SIZES, "size")
    for name in cfg.variants:
        cli.one_of(name, VARIANTS, "variant")
    if cfg.smoke:
        cfg = replace(cfg, size="tiny", chars=2048, windows=2, samples=2, seeds=cfg.seeds[:2])
    corpus = load_corpus("playlets" if cfg.smoke else "shakespeare", min_length=SIZES[cfg.size]["seq_len"])
    setting = {"windows": cfg.windows, "samples": cfg.samples, "chars": cfg.chars, "sizes": SIZES[cfg.size]}
    search(cfg.out, setting, FACTORS, cfg.seeds, lambda name, seed: run(name, seed, cfg, corpus), cfg.variants)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
