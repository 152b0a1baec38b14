"""Noise schedules: alpha(t), the share of tokens still visible at time t.

t runs from 0 (clean) to 1 (noise) and u = 1 - alpha is the share that is masked. A schedule says only how fast u
grows; along u they all walk the same line. Three things follow from alpha in closed form:

    alpha(t)    P(a token is still visible)
    weight(t)   -alpha'(t) / (1 - alpha(t)), what the ELBO multiplies the masked cross-entropy by
    time(u)     the t at which a share u is masked: the inverse

Closed form matters: -alpha' / (1 - alpha), computed as written, is 0/0 in float32 near t = 0. Names differ between
papers. "cosine" is two curves, so both are here; and what SEDD and MDLM call log-linear is linear to one part in a
thousand.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HALF_PI = math.pi / 2


@dataclass(frozen=True)
class Schedule:
    """Three functions of a tensor, elementwise: t, t and u in [0, 1]. `weight` is finite for t in (0, 1].

    >>> s = SCHEDULES["linear"]
    >>> t = torch.tensor([0.25, 1.0])
    >>> s.alpha(t).tolist(), s.weight(t).tolist(), s.time(1 - s.alpha(t)).tolist()
    ([0.75, 0.0], [4.0, 1.0], [0.25, 1.0])
    """

    name: str
    alpha: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]
    _inverse: Callable[[Tensor], Tensor]

    def time(self, u: Tensor) -> Tensor:
        """The t at which a share u is masked. A share the schedule never reaches gives the nearer end, 0 or 1."""
        return self._inverse(u).clamp(0, 1)

    @property
    def ends(self) -> tuple[float, float]:
        """(u(0), u(1)): (0, 1) when the schedule starts at clean text and ends at nothing but MASK.

        Where they are not, the weighted integral alone is not a bound: it covers only part of the way
        (likelihood.estimate_nelbo walks the rest; MD4, 2406.04329, appendix D).
        """
        alpha = self.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return 1 - alpha[0].item(), 1 - alpha[1].item()


def linear(end: float = 1.0) -> tuple:
    """u = end * t. LLaDA's, BD3-LM's, and with end = 0.999 SEDD's and MDLM's: the ratio u'/u does not see `end`."""
    return lambda t: 1 - end * t, lambda t: 1 / t, lambda u: u / end


def cosine() -> tuple:
    """alpha = cos(pi t / 2): masks late, a third of the text on average. MDLM's and BD3-LM's code."""
    # 1 - cos(2x) = 2 sin(x)^2 turns the weight into a cotangent and keeps the inverse exact near u = 0.
    return (
        lambda t: torch.cos(HALF_PI * t),
        lambda t: HALF_PI / torch.tan(HALF_PI / 2 * t),
        lambda u: 2 / HALF_PI * torch.asin((u / 2).clamp(0, 1).sqrt()),
    )


def maskgit_cosine() -> tuple:
    """u = sin(pi t / 2): masks early, almost two thirds on average. MaskGIT's and MD4's cosine."""
    return (
        lambda t: 1 - torch.sin(HALF_PI * t),
        lambda t: (HALF_PI / torch.tan(HALF_PI * t)).clamp(min=0),  # float32 pi/2 lies beyond pi/2: tan < 0 at t = 1
        lambda u: torch.asin(u.clamp(0, 1)) / HALF_PI,
    )


def square_root() -> tuple:
    """u = sqrt(t): two thirds of the text on average."""
    return lambda t: 1 - t.sqrt(), lambda t: 0.5 / t, lambda u: u.square()


def clipped_cosine(low: float = 0.05, high: float = 0.95) -> tuple:
    """alpha between `high` and `low` along a cosine: never clean, never all MASK, so both ends need a term."""

    def u(t):
        return 1 - low - (high - low) * torch.cos(HALF_PI * t)

    return (
        lambda t: 1 - u(t),
        lambda t: (high - low) * HALF_PI * torch.sin(HALF_PI * t) / u(t),
        lambda u: torch.acos(((1 - low - u) / (high - low)).clamp(-1, 1)) / HALF_PI,
    )


def sigmoid(k: float = 10.0) -> tuple:
    """u = sigmoid(k (t - 1/2)): quick in the middle. It stops 0.0067 short of both ends."""
    return (
        lambda t: torch.sigmoid(-k * (t - 0.5)),
        lambda t: k * torch.sigmoid(-k * (t - 0.5)),  # u' = k u (1 - u)
        lambda u: 0.5 + torch.logit(u.clamp(0, 1)) / k,
    )


def complete(s: Schedule, share: float = 1 / 8) -> Schedule:
    """`s` with its missing ends walked in straight lines, each in `share` of the time: u then goes from 0 to 1.

    The result has the same area under the cross-entropy curve as every other whole schedule, so the boundary terms
    are measured by the same estimator and not by a cruder one (a unigram prior costs more than the network).
    """
    clean, noise = s.ends
    first, last = share * (clean > 1e-9), share * (noise < 1 - 1e-9)
    middle = 1 - first - last
    if middle == 1:
        return s

    def by_part(t, before, between, after):
        inner = ((t - first) / middle).clamp(1e-12, 1)
        return torch.where(t < first, before(t), torch.where(t > 1 - last, after(t), between(inner)))

    def alpha(t):
        return by_part(
            t, lambda t: 1 - clean * t / (first or 1), s.alpha, lambda t: (1 - noise) * (1 - t) / (last or 1)
        )

    def weight(t):
        slope = (1 - noise) / (last or 1)
        return by_part(t, lambda t: 1 / t, lambda t: s.weight(t) / middle, lambda t: slope / (1 - alpha(t)))

    def time(u):
        before, after = u * first / (clean or 1), 1 - (1 - u) * last / ((1 - noise) or 1)
        return torch.where(u < clean, before, torch.where(u > noise, after, first + middle * s.time(u)))

    return Schedule(f"complete {s.name}", alpha, weight, time)


SCHEDULES: dict[str, Schedule] = {
    name: Schedule(name, *functions)
    for name, functions in {
        "linear": linear(),
        "cosine": cosine(),
        "loglinear": linear(end=1 - 1e-3),
        "sqrt": square_root(),
        "clipped_cosine": clipped_cosine(),
        "sigmoid": sigmoid(),
        "maskgit_cosine": maskgit_cosine(),
    }.items()
}
