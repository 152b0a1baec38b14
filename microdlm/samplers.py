"""Ways to write with a denoiser. All have one signature and fill every MASK of `x`; visible tokens never change.

    for x_t in confidence(denoiser, x, mask_id, num_steps=32, temperature=0.8, rng=g): ...

`x` (B, L) may be all MASK, a prompt, a text with holes: visible tokens are the condition, nothing else is needed.
Each is a generator that yields the state (B, L) after every step; the last one holds no MASK. `**how` is what `draw`
takes: temperature, top_k, top_p, rng.

They differ in what they choose, where and when:

    ancestral      each MASK opens with the probability of the reverse process    exact as num_steps grows
    first_hitting  one MASK at a time, uniformly                                  exact
    confidence     the surest guesses first, at a given pace                      not exact: it prefers easy text
    threshold      every guess surer than tau                                     not exact
    left_to_right  in reading order; a GPT's way, with a KV cache                 exact
"""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microdlm.drawing import ORDERS, draw, uniform64
from microdlm.masking import uniform
from microdlm.objectives import without_mask
from microdlm.schedules import SCHEDULES
from microdlm.transformer import KVCache

States = Iterator[Int[Tensor, "B L"]]


def sampler(steps: Callable[..., States]) -> Callable[..., States]:
    """What all samplers share: no gradients, and a text without MASK comes back once, as it is."""

    @functools.wraps(steps)
    @torch.no_grad()
    def states(denoiser, x, mask_id, *args, **kwargs):
        if (x == mask_id).any():
            yield from steps(denoiser, x, mask_id, *args, **kwargs)
        else:
            yield x

    return states


def reveal(denoiser, x, where: Bool[Tensor, "B L"], mask_id: int, **how) -> Int[Tensor, "B L"]:
    """x with the tokens at `where` drawn, each from its own marginal: in one pass they do not see each other."""
    return x.masked_scatter(where, draw(denoiser(x)[where], mask_id, **how))


@sampler
def ancestral(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int = 64,
    *,
    schedule: str = "linear",
    rng: torch.Generator | None = None,
    **how,
) -> States:
    """The reverse process on a grid of times: from t to s a MASK opens with probability (alpha_s - alpha_t) /
    (1 - alpha_t) (2406.07524, eq. 7). Where opens is drawn first; a step that opens nothing needs no pass."""
    masked_share = 1 - SCHEDULES[schedule].alpha(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64))
    for i in range(num_steps):
        stays = masked_share[i + 1] / masked_share[i] if i + 1 < num_steps else 0.0
        opens = (x == mask_id) & (uniform64(x.shape, x.device, rng) >= stays)
        if opens.any():
            x = reveal(denoiser, x, opens, mask_id, rng=rng, **how)
        yield x


@sampler
def first_hitting(
    denoiser, x: Int[Tensor, "B L"], mask_id: int, num_steps: int | None = None, *, rng=None, **how
) -> States:
    """The reverse process without a grid (2409.02908): MASKs open one by one in a uniformly random order.

    When each opens is random too, but a denoiser that is not told t does not need to know. So num_steps is
    not used: there are as many passes as MASKs.
    """
    order = torch.where(x == mask_id, uniform(x.shape, x.device, rng), 2.0).argsort(dim=1)  # MASKs first
    for i in range((x == mask_id).sum(1).max()):
        where = torch.zeros_like(x, dtype=torch.bool).scatter(1, order[:, i : i + 1], True) & (x == mask_id)
        x = reveal(denoiser, x, where, mask_id, rng=rng, **how)
        yield x


# The share still masked when a share s of the steps is done.
PACES: dict[str, Callable[[float], float]] = {
    "linear": lambda s: 1 - s,
    "cosine": lambda s: math.cos(math.pi / 2 * s),
}


def guess(denoiser, x, mask_id: int, order: str, rng, **how) -> tuple[Tensor, Float[Tensor, "B L"]]:
    """Draw a token for every MASK; return x filled in, and how sure each guess is (-inf where nothing was open)."""
    is_masked = x == mask_id
    logits = denoiser(x)[is_masked]
    token = draw(logits, mask_id, rng=rng, **how)
    sure = ORDERS[order](without_mask(logits.double(), mask_id).softmax(-1), token, rng)
    nowhere = torch.full(x.shape, -torch.inf, dtype=torch.float64, device=x.device)
    return x.masked_scatter(is_masked, token), nowhere.masked_scatter(is_masked, sure)


@sampler
def confidence(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int = 32,
    *,
    order: str = "confidence",
    pace: str = "cosine",
    rng: torch.Generator | None = None,
    **how,
) -> States:
    """Guess every MASK, keep the surest guesses, as many as the pace asks for (2202.04200; LLaDA's low-confidence
    remasking). Tokens are drawn first and ranked after, so sure guesses win: a hidden, lower temperature."""
    open_at_first = (x == mask_id).sum(1)
    for i in range(num_steps):
        target = (open_at_first.double() * PACES[pace]((i + 1) / num_steps) + 1e-9).floor()
        # At least one: no pass for nothing. So no more passes than MASKs either.
        keep = ((x == mask_id).sum(1) - target).clamp(min=1)
        filled, sure = guess(denoiser, x, mask_id, order, rng, **how)
        rank = sure.argsort(dim=1, descending=True).argsort(dim=1)
        x = torch.where((x == mask_id) & (rank < keep[:, None]), filled, x)
        yield x
        if not (x == mask_id).any():
            return


@sampler
def threshold(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int | None = None,
    *,
    tau: float = 0.9,
    rng=None,
    **how,
) -> States:
    """Keep every guess more probable than tau, and always the surest (2505.22618). The text sets the pace:
    num_steps is not used."""
    while (x == mask_id).any():
        filled, sure = guess(denoiser, x, mask_id, "confidence", rng, **how)
        surest = torch.zeros_like(x, dtype=torch.bool).scatter(1, sure.argmax(dim=1, keepdim=True), True)
        x = torch.where((x == mask_id) & ((sure > tau) | surest), filled, x)
        yield x


@sampler
def left_to_right(
    denoiser, x: Int[Tensor, "B L"], mask_id: int, num_steps: int | None = None, *, rng=None, **how
) -> States:
    """Open the MASKs in reading order, one pass each. A causal model reads every token once, thanks to its cache;
    any other denoiser reads the whole window each time. num_steps is not used."""
    logits_at = reading(denoiser) if getattr(denoiser, "causal", False) else lambda x, i: denoiser(x)[:, i]
    for i in range(x.size(1)):
        where = x[:, i] == mask_id
        if where.any():
            token = draw(logits_at(x, i), mask_id, rng=rng, **how)
            x = x.clone()
            x[:, i] = torch.where(where, token, x[:, i])
            yield x


def reading(gpt) -> Callable[[Tensor, int], Float[Tensor, "B V"]]:
    """A function (x, i) -> logits for token i that gives the GPT only the tokens it has not read yet."""
    cache = KVCache(gpt.cfg.n_layer)

    def logits_at(x, i):
        if i == 0:
            raise ValueError("a GPT predicts from what stands before: the first token must be visible")
        return gpt(x[:, cache.length : i], cache=cache)[:, -1]

    return logits_at


SAMPLERS: dict[str, Callable[..., States]] = {
    f.__name__: f for f in (ancestral, first_hitting, confidence, threshold, left_to_right)
}
