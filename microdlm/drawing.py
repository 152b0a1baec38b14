"""From logits to a token: temperature, top-k and top-p in one place, for every sampler; and how sure a guess is."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microdlm.objectives import without_mask


def draw(
    logits: Float[Tensor, "*rows V"],
    mask_id: int,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: torch.Generator | None = None,
) -> Int[Tensor, "*rows"]:
    """One token from each row of logits, never MASK. Temperature 0 takes the most probable one.

    In float64: float32 noise has no large values, never draws rare tokens and so lowers the temperature
    without saying so (2409.02908).
    """
    logits = without_mask(logits.double(), mask_id)
    if temperature == 0 or logits.numel() == 0:
        return logits.argmax(-1)
    p = keep_top(logits / temperature, top_k, top_p).softmax(-1)
    # A race of exponential clocks: token v rings after Exp(p_v), and is first with probability p_v.
    clocks = -torch.log1p(-uniform64(p.shape, p.device, rng))
    return (p / clocks.clamp(min=1e-300)).argmax(-1)


def uniform64(shape, device, rng) -> Tensor:
    home = device if rng is None else rng.device
    return torch.rand(shape, generator=rng, device=home, dtype=torch.float64).to(device)


def keep_top(logits: Float[Tensor, "*rows V"], top_k: int | None, top_p: float | None) -> Float[Tensor, "*rows V"]:
    """Rule out all but the top_k most probable tokens, then all but the smallest set that holds top_p."""
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.size(-1)), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p is not None:
        ordered, index = logits.sort(dim=-1, descending=True)
        p = ordered.softmax(-1)
        beyond = p.cumsum(-1) - p >= top_p  # what came before already holds top_p
        beyond[..., 0] = False  # the first is always kept
        logits = logits.masked_fill(beyond.gather(-1, index.argsort(-1)), -torch.inf)
    return logits


# How sure is a guess? Each takes the model's probabilities (M, V) and the drawn tokens (M,); more is surer.
def by_confidence(p: Tensor, token: Tensor, rng) -> Tensor:
    return p.gather(-1, token[:, None]).squeeze(-1)


def by_margin(p: Tensor, token: Tensor, rng) -> Tensor:
    first, second = p.topk(2, dim=-1).values.unbind(-1)
    return first - second


def by_entropy(p: Tensor, token: Tensor, rng) -> Tensor:
    return torch.special.entr(p).sum(-1).neg()


def at_random(p: Tensor, token: Tensor, rng) -> Tensor:
    return uniform64(token.shape, token.device, rng)


ORDERS: dict[str, Callable] = {
    "confidence": by_confidence,
    "margin": by_margin,
    "entropy": by_entropy,
    "random": at_random,
}
