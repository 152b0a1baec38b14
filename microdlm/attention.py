"""Attention: every position asks all that it may see, and knows how far away they are."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


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

    def __init__(self, n_head: int, d_model: int, causal: bool):
        super().__init__()
        self.n_head, self.causal = n_head, causal
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, cache: KVCache | None, seen=None) -> Tensor:
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # each (B, H, L, K)
        # Norm before rotation keeps every logit within +-sqrt(K), whatever the width of the stream.
        q, k = rotate(rms_norm(q), cos, sin), rotate(rms_norm(k), cos, sin)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        causal = self.causal and seen is None and L > 1  # a single new query sees all keys anyway
        if causal and L < k.size(2):
            causal, seen = False, seen_by_new(L, k.size(2), x.device)
        y = attend(q.to(v.dtype), k.to(v.dtype), v, seen, causal)
        return self.out(y.transpose(1, 2).reshape(B, L, D))


def attend(
    q: Tensor, k: Tensor, v: Tensor, seen: Bool[Tensor, "new total"] | None, causal: bool
) -> Float[Tensor, "B H new K"]:
    """softmax(q k^T / sqrt(K)) v, over the keys that each query sees (1706.03762, eq. 1).

    torch's own kernel, except for bfloat16 on a CPU: there it multiplies in float32, and written out is faster.
    """
    if not (q.is_cpu and q.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal)
    score = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)  # (B, H, new, total)
    seen = seen_by_new(*score.shape[-2:], q.device) if causal else seen
    score = score if seen is None else score.masked_fill(~seen, -torch.inf)
    return score.softmax(-1).to(v.dtype) @ v


def seen_by_new(new: int, total: int, device) -> Bool[Tensor, "new total"]:
    """Causal mask for the last `new` of `total` positions."""
    return torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)
