"""The one backbone. A GPT and a denoiser are the same class: `causal` is the switch, `seen` is what lies between."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


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
        if self.d_model % self.n_head or (self.d_model // self.n_head) % 2:
            raise ValueError(f"d_model = {self.d_model} does not split into {self.n_head} heads of even size")
        if self.mlp not in MLPS:
            raise ValueError(f"mlp = {self.mlp!r} is not one of {', '.join(MLPS)}")


def rms_norm(x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
    """Scale every vector to root mean square 1. No learned gain: the next matrix can do that."""
    return F.rms_norm(x, (x.size(-1),))


def rotation_angles(positions: Int[Tensor, "L"], head_size: int, base: float) -> Float[Tensor, "L half"]:
    """RoPE: position p turns the i-th pair of coordinates by p * base^(-2i/K) radians (2104.09864, eq. 15)."""
    frequency = base ** (-torch.arange(0, head_size, 2, device=positions.device) / head_size)
    return torch.outer(positions.float(), frequency)


def rotate(x: Float[Tensor, "B H L K"], cos: Float[Tensor, "L K/2"], sin: Float[Tensor, "L K/2"]) -> Tensor:
    """Turn the pairs (x_i, x_{i+K/2}); queries and keys then meet at an angle that knows only their distance."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class KVCache:
    """Keys and values of the positions a model has already read, so that it reads each only once. Written in place,
    into room for `room` positions that doubles when it must: for decoding, not for gradients."""

    def __init__(self, n_layer: int, room: int = 0):
        self.layers: list[Tensor | None] = [None] * n_layer  # each (2, B, H, room, K): keys, values
        self.ends, self.room = [0] * n_layer, room

    @property
    def length(self) -> int:
        return self.ends[0]

    def forget(self, after: int) -> None:
        """Drop all but the first `after` positions."""
        self.ends = [after] * len(self.ends)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, new, K) keys and values of one layer and return all of them."""
        kv, held, start = torch.stack([k, v]), self.layers[layer], self.ends[layer]
        end = self.ends[layer] = start + k.size(2)
        if held is None or held.size(3) < end:
            more = kv.new_empty(*kv.shape[:3], max(end, 2 * start, self.room), kv.size(4))
            self.layers[layer] = more if held is None else more.slice_scatter(held[:, :, :, :start], 3, end=start)
        self.layers[layer][:, :, :, start:end] = kv
        return tuple(self.layers[layer][:, :, :, :end])


class Attention(nn.Module):
    """Every position asks (q), every position it may see answers (k, v)."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.n_head, self.causal = cfg.n_head, cfg.causal
        self.qkv = nn.Linear(cfg.d_model, 3 * cfg.d_model, bias=False)
        self.out = nn.Linear(cfg.d_model, cfg.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, cache: KVCache | None, seen=None) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # each (B, H, L, K)
        # Norm before rotation keeps every logit within +-sqrt(K), whatever the width of the stream.
        q, k = rotate(rms_norm(q), cos, sin), rotate(rms_norm(k), cos, sin)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        # SDPA's is_causal aligns the first query with the first key. A single new query sees all keys anyway.
        seen = seen_by_new(L, k.size(2), x.device) if seen is None and self.causal and 1 < L < k.size(2) else seen
        y = F.scaled_dot_product_attention(q, k, v, seen, is_causal=self.causal and seen is None and L == k.size(2) > 1)
        return self.out(y.transpose(1, 2).reshape(B, L, D))


def seen_by_new(new: int, total: int, device) -> Bool[Tensor, "new total"]:
    """Causal mask for the last `new` of `total` positions."""
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)


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
        self.attention, self.mlp = Attention(cfg), MLPS[cfg.mlp](cfg.d_model)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, cache: KVCache | None, seen=None) -> Tensor:
        x = x + self.dropout(self.attention(rms_norm(x), cos, sin, layer, cache, seen))
        return x + self.dropout(self.mlp(rms_norm(x)))


class Transformer(nn.Module):
    """Tokens in, logits out, one row of V for each position. What it does not know:

    * t. The number of MASK in the input already tells how noisy it is, and the best prediction for masked
      diffusion needs nothing more (2406.03736; 2406.07524, table 12).
    * that MASK must not be predicted and visible tokens stay: objectives.denoise_log_probs says so.
    * any loss. objectives and likelihood are functions of what it returns."""

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
        """Standard deviation 1/sqrt(fan in), but 0 for what writes to the stream: a fresh block is the identity."""
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
        switch: whether a row's position sees a column's. `positions`: where x stands, if not one after another."""
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
