"""The one backbone. A GPT and a denoiser are the same class: `causal` is the switch, `seen` is what lies between."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from microdlm.attention import Attention, KVCache, rms_norm, rotation_angles


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `Transformer`. D = d_model, H = n_head, K = D / H, L = seq_len, V = vocab_size."""

    vocab_size: int  # V: how many ids there are; for a diffusion model the last of them is MASK
    seq_len: int  # L: the longest window
    n_layer: int = 4  # blocks
    n_head: int = 4  # H
    d_model: int = 128  # D
    causal: bool = False  # True: a position sees only itself and what is left of it (GPT)
    mlp: str = "relu2"  # relu2 (4 D wide) or swiglu (8/3 D wide, the same number of weights)
    dropout: float = 0.0  # on what attention and the MLP add to the stream; on only in training
    tied: bool = False  # the output head is the embedding table
    rope_base: float = 10_000.0  # the slowest rotation turns once in about 2 pi rope_base positions

    def __post_init__(self):
        for name, kind in self.__annotations__.items():  # a file may hold anything
            value = getattr(self, name)
            if not isinstance(value, int | float if kind is float else kind):
                raise TypeError(f"{name} = {value!r} is not of type {kind.__name__}")
        if min(self.vocab_size, self.seq_len, self.n_layer, self.n_head, self.d_model) < 1:
            raise ValueError("sizes are whole numbers from 1")
        if not (0 <= self.dropout < 1 and 1 <= self.rope_base < float("inf")):
            raise ValueError(f"dropout = {self.dropout} is no share below 1, or rope_base = {self.rope_base} no number")
        if self.d_model % self.n_head or (self.d_model // self.n_head) % 2:
            raise ValueError(f"d_model = {self.d_model} does not split into {self.n_head} heads of even size")
        if self.mlp not in MLPS:
            raise ValueError(f"mlp = {self.mlp!r} is not one of {', '.join(MLPS)}")


class ReluSquared(nn.Module):
    """Linear, ReLU squared, linear (2109.08668)."""

    def __init__(self, D: int):
        super().__init__()
        self.up, self.out = nn.Linear(D, 4 * D, bias=False), nn.Linear(4 * D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.up(x)).square())


class SwiGLU(nn.Module):
    """A gate times a value (2002.05202); 8/3 D wide, so that its three matrices weigh what ReLU²'s two do."""

    def __init__(self, D: int):
        super().__init__()
        self.up, self.out = nn.Linear(D, 2 * (8 * D // 3), bias=False), nn.Linear(8 * D // 3, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


MLPS = {"relu2": ReluSquared, "swiglu": SwiGLU}


class Block(nn.Module):
    """x + attention, then x + MLP, each reading a normalised copy of the stream."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.attention, self.mlp = Attention(cfg.n_head, cfg.d_model, cfg.causal), MLPS[cfg.mlp](cfg.d_model)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, cache: KVCache | None, seen=None) -> Tensor:
        x = x + self.dropout(self.attention(rms_norm(x), cos, sin, layer, cache, seen))
        return x + self.dropout(self.mlp(rms_norm(x)))


class Transformer(nn.Module):
    """Tokens in, logits out, one row of V for each position.

    The same class is the GPT and the denoiser. What it does not know:

    * t. The number of MASK in the input already tells how noisy it is, and the best prediction for masked
      diffusion needs nothing more (2406.03736; 2406.07524, table 12).
    * that MASK must not be predicted and visible tokens stay: objectives.denoise_log_probs says so.
    * any loss. objectives and likelihood are functions of what it returns.
    """

    takes_at = True  # see objectives.logits_at

    def __init__(self, cfg: TransformerConfig, rng: torch.Generator | None = None):
        super().__init__()
        self.cfg, self.causal = cfg, cfg.causal
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        if cfg.tied:
            self.head.weight = self.embedding.weight
        self.reset(rng)

    def reset(self, rng: torch.Generator | None = None) -> None:
        """Matrices at standard deviation 1/sqrt(fan in); what writes to the stream starts at zero, so a fresh
        block is the identity and the first loss is close to ln V."""
        for name, p in self.named_parameters():
            std = 0.0 if name.endswith("out.weight") else p.size(1) ** -0.5
            if self.cfg.tied and p is self.embedding.weight:
                std = 1 / p.size(1)  # as a head it meets its own rows again: any larger and "repeat me" wins
            nn.init.normal_(p, std=std, generator=rng)
        if not self.cfg.tied:
            nn.init.zeros_(self.head.weight)

    def forward(
        self,
        x: Int[Tensor, "B L"],
        at: Bool[Tensor, "B L"] | Int[Tensor, "M"] | None = None,
        cache: KVCache | None = None,
        seen: Bool[Tensor, "L total"] | None = None,
        positions: Int[Tensor, "L"] | None = None,
    ) -> Float[Tensor, "*rows V"]:
        """Logits (B, L, V); with `at`, only some rows: (M, V), where it is True or at those places of the flat page.

        The head is a quarter of a small-vocabulary step and most of a large one, and a masked loss needs it at
        masked positions only. With `cache`, x is what follows the positions already read. `seen`, in place of the
        switch: whether a row's position sees a column's. `positions`: where x stands, if not one after another.
        """
        start = cache.length if cache is not None else 0
        if positions is None and start + x.size(1) > self.cfg.seq_len:
            raise ValueError(f"{start + x.size(1)} positions do not fit a window of {self.cfg.seq_len}")
        if cache is not None and not self.causal and seen is None:
            raise ValueError("a cache needs a causal model: elsewhere, what comes later changes what came before")
        positions = torch.arange(start, start + x.size(1), device=x.device) if positions is None else positions
        angles = rotation_angles(positions, self.cfg.d_model // self.cfg.n_head, self.cfg.rope_base)
        h = rms_norm(self.embedding(x))
        cos, sin = angles.cos().to(h.dtype), angles.sin().to(h.dtype)
        for layer, block in enumerate(self.blocks):
            h = block(h, cos, sin, layer, cache, seen)
        return self.head(rms_norm(h if at is None else h.flatten(0, 1)[at.flatten()]))

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())
