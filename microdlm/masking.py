"""The forward process: x_0 -> x_t by putting MASK over tokens. Two ways to say how many."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def uniform(shape, device, rng: torch.Generator | None) -> Tensor:
    """U[0, 1) numbers drawn where the generator lives and used where the tokens live."""
    return torch.rand(shape, generator=rng, device=device if rng is None else rng.device).to(device)


def mask_tokens(
    x_0: Int[Tensor, "B L"], alpha_t: Float[Tensor, "B *L"], mask_id: int, rng: torch.Generator | None = None
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Draw x_t ~ q(x_t | x_0): keep each token with probability alpha_t, else put mask_id (2406.07524, eq. 3).

    alpha_t is (B,), one rate a sequence, or (B, L), one a token. Each token draws one number and compares it
    with its rate, so the same generator state gives masks that are nested in t: MASK is absorbing.
    Returns (x_t, is_masked); is_masked is where the loss lives.

    >>> x_t, is_masked = mask_tokens(torch.tensor([[5, 6, 7]]), torch.tensor([0.0]), mask_id=9)
    >>> x_t.tolist(), is_masked.tolist()
    ([[9, 9, 9]], [[True, True, True]])
    """
    rate = alpha_t if alpha_t.dim() == 2 else alpha_t[:, None]
    is_masked = uniform(x_0.shape, x_0.device, rng) >= rate
    return x_0.masked_fill(is_masked, mask_id), is_masked


def mask_count(
    x_0: Int[Tensor, "B L"],
    k: Int[Tensor, "B"],
    mask_id: int,
    rng: torch.Generator | None = None,
    given: int = 0,
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Mask exactly k_b tokens of sequence b, every subset of that size alike. The first `given` stay visible.

    >>> x_t, is_masked = mask_count(torch.tensor([[5, 6, 7]]), torch.tensor([2]), mask_id=9)
    >>> is_masked.sum().item()
    2
    """
    L = x_0.size(1)
    if k.min() < 0 or k.max() > L - given:
        raise ValueError(f"k must lie between 0 and {L - given}: {L} tokens, {given} of them given")
    order = uniform(x_0.shape, x_0.device, rng)
    order[:, :given] = 2.0  # last in line
    is_masked = order.argsort(dim=1).argsort(dim=1) < k[:, None]  # a token's rank among L random numbers
    return x_0.masked_fill(is_masked, mask_id), is_masked


def stratified(rows: int, *shape: int, rng: torch.Generator | None = None, device="cpu") -> Tensor:
    """Numbers on [0, 1), one in each of `rows` equal parts of it along the first axis: all noise levels, evenly."""
    part = torch.arange(rows, device=device).view(-1, *[1] * len(shape))
    return (part + uniform((rows, *shape), device, rng)) / rows


def to_count(u: Float[Tensor, "*B"], n: int) -> Int[Tensor, "*B"]:
    """Numbers on [0, 1) to counts 1..n, uniform if they are."""
    return (u * n).long().clamp(max=n - 1) + 1
