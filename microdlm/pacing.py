"""How fast to write: how much is still masked after each step, and what that costs.

Tokens revealed in one step do not see each other. If n tokens are masked when k of them open, they cost k c_n nats
instead of c_n + .. + c_{n-k+1}, where c_n is the mean cross-entropy of a masked token when n are masked
(likelihood.Curve). So with counts k_1, k_2, .. and n_i masked before step i,

    -log p  <=  k_1 c_{n_1} + k_2 c_{n_2} + ..        in expectation, for positions chosen at random,

the right Riemann sum of the curve (2510.25544; 2511.04647). It is an equality for a sampler that opens random
positions and an average over them; a sampler that chooses where may do better or worse.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from microdlm.schedules import SCHEDULES

# The share still masked when a share s of the steps is done.
PACES: dict[str, Callable[[float], float]] = {
    "linear": lambda s: 1 - s,
    "cosine": lambda s: math.cos(math.pi / 2 * s),
}


def masked_shares(schedule: str, num_steps: int) -> Float64[Tensor, "points"]:
    """The share of the starting MASKs that is left at each of num_steps + 1 times from 1 down to 0, first 1, last 0.

    A schedule whose ends are not clean and all MASK is stretched to them: a text starts and ends there.
    """
    u = 1 - SCHEDULES[schedule].alpha(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64))
    u = u / u[0].item()
    u[-1] = 0
    return u


def expected_passes(schedule: str, num_steps: int, n: int) -> float:
    """In how many of its steps `ancestral` opens at least one of n MASKs; the others need no pass. Exact.

    >>> round(expected_passes("linear", 40, 224), 2), round(expected_passes("linear", 1000, 224), 1)
    (39.86, 200.8)
    """
    opens = -masked_shares(schedule, num_steps).diff()
    return (1 - (1 - opens) ** n).sum().item()


def step_counts(pace: str | Sequence[int], num_steps: int, n: int) -> list[int]:
    """How many of n MASKs each step opens. At least one, so that no pass is for nothing: never more steps than MASKs.

    `pace` is a name in PACES, or counts (of optimal_pace, say), which set the steps themselves and are scaled to n.

    >>> step_counts("linear", 4, 12), step_counts("cosine", 4, 12), step_counts([1, 2, 3], 0, 12)
    ([3, 3, 3, 3], [1, 3, 4, 4], [2, 4, 6])
    """
    if isinstance(pace, str):
        left = [PACES[pace]((i + 1) / num_steps) for i in range(num_steps)]
    else:
        left = [sum(pace[i + 1 :]) / sum(pace) for i in range(len(pace))]
    counts, masked = [], n
    for share in left:
        counts.append(min(masked, max(1, masked - math.floor(n * share + 1e-9))))
        masked -= counts[-1]
    return [k for k in counts if k]


def parallel_bound(curve: Float[Tensor, "L"], counts: Sequence[int]) -> float:
    """(k_1 c_{n_1} + k_2 c_{n_2} + ..) / L in nats per token; curve[n - 1] is c_n, counts sum to L = len(curve).

    >>> parallel_bound(torch.tensor([1.0, 2.0]), [1, 1]), parallel_bound(torch.tensor([1.0, 2.0]), [2])
    (1.5, 2.0)
    """
    if sum(counts) != len(curve) or min(counts) < 1:
        raise ValueError(f"counts must be 1 or more and sum to {len(curve)}, the length of the curve")
    masked, nats = len(curve), 0.0
    for k in counts:
        nats += k * curve[masked - 1].item()
        masked -= k
    return nats / len(curve)


def optimal_pace(curve: Float[Tensor, "L"], num_steps: int) -> list[int]:
    """The counts that make parallel_bound smallest with num_steps steps (L if that is fewer), by dynamic programming.

    If the curve does not fall with n, no plan of fewer steps is better. Exact for the curve given; measured on a
    model, the curve has its errors. Time O(num_steps L^2).
    """
    L, c = len(curve), torch.cat([torch.zeros(1), curve.cpu()]).double()
    n = torch.arange(L + 1)
    step = (n[:, None] - n) * c[:, None]  # from n MASKs to m
    step[n[:, None] <= n] = torch.inf
    cost = torch.where(n == 0, 0.0, torch.inf).double()  # the least that n MASKs cost, with no step left
    onward: list[Tensor] = []  # each (L + 1,): from n MASKs best to so many
    for _ in range(min(num_steps, L)):
        cost, m = (step + cost).min(dim=1)
        onward.append(m)
    counts, masked = [], L
    for m in reversed(onward):
        counts.append(masked - int(m[masked]))
        masked = int(m[masked])
    return counts
