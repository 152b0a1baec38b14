"""How good is a model? Nats per token on held-out text, as a bound or exactly, always with a standard error.

`estimate_nelbo` bounds -log p of any denoiser; `left_to_right_nll` is exact, for a GPT and for a denoiser decoded
in that order. `given` leading tokens are visible and scored by nobody: with given=1 the twins answer for exactly
the same tokens.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from microdlm.masking import mask_count, mask_tokens, stratified, to_count
from microdlm.objectives import count_nelbo, masked_nll, next_token_nll
from microdlm.schedules import Schedule, complete

ROWS = 64  # sequences in one forward pass of an evaluation


@dataclass(frozen=True)
class Estimate:
    """A mean over sequences in nats per token. `stderr` says how far another held-out sample could lie.

    To compare two models, or a model and the truth, take the difference of `per_sequence` first: it is
    far less noisy than the difference of the means (same text, same masks).
    """

    mean: float
    stderr: float
    per_sequence: Float[Tensor, "B"]

    @classmethod
    def of(cls, draws: Float[Tensor, "*S B"]) -> "Estimate":
        """From one value a sequence, or S independent estimates of it. Of a single sequence, `stderr` is what the
        masks alone leave open: 0 for an exact value."""
        draws = torch.atleast_2d(draws.double().cpu())
        per_sequence = draws.mean(0)
        scatter = per_sequence if len(per_sequence) > 1 else draws[:, 0]
        error = scatter.std().item() / math.sqrt(len(scatter)) if len(scatter) > 1 else 0.0
        return cls(per_sequence.mean().item(), error, per_sequence)

    @property
    def bits(self) -> float:
        return self.mean / math.log(2)


@torch.no_grad()
def estimate_nelbo(
    denoiser,
    x_0: Int[Tensor, "B L"],
    mask_id: int,
    samples: int = 64,
    rng: torch.Generator | None = None,
    given: int = 0,
    schedule: Schedule | None = None,
) -> Estimate:
    """Upper bound on -log p(x_0), nats per token, from `samples` masks a sequence.

    Without a schedule: the count form, k stratified over the samples. With one: the form in time, of which
    every schedule has the same expectation. The same generator state gives every model the same masks.
    """
    repeated = x_0.repeat(samples, 1)
    make_masks = masks_by_count if schedule is None else masks_by_time
    x_t, is_masked, weight = make_masks(repeated, mask_id, samples, rng, given, schedule)
    nll = [
        masked_nll(denoiser, *chunk, mask_id).sum(1)
        for chunk in zip(repeated.split(ROWS), x_t.split(ROWS), is_masked.split(ROWS), strict=True)
    ]
    return Estimate.of((weight * torch.cat(nll).double()).view(samples, -1))


def num_scored(x_0: Int[Tensor, "B L"], given: int) -> int:
    """How many tokens of a sequence are scored. ValueError: none."""
    if not 0 <= given < x_0.size(1):
        raise ValueError(f"given = {given} leaves nothing to score of {x_0.size(1)} tokens")
    return x_0.size(1) - given


def masks_by_count(x_0, mask_id, samples, rng, given, schedule=None):
    """k ~ U{1..n} of n tokens masked, weight 1/k."""
    n = num_scored(x_0, given)
    k = to_count(stratified(samples, len(x_0) // samples, rng=rng, device=x_0.device).flatten(), n)
    return *mask_count(x_0, k, mask_id, rng, given), 1 / k.double()


def masks_by_time(x_0, mask_id, samples, rng, given, schedule):
    """Each of n tokens masked with probability 1 - alpha(t), weight w(t)/n, and t = s^3 for s ~ U(0, 1).

    With t itself uniform the sum is right and its error bar is not: the rarer a mask, the larger its weight, and for
    sqrt (probability sqrt(t), weight 1/2t) the variance is infinite. s^3 looks at small t more often, dt = 3 s^2 ds.
    """
    whole, n = complete(schedule), num_scored(x_0, given)
    s = stratified(samples, len(x_0) // samples, rng=rng, device=x_0.device).flatten().double().clamp(min=1e-6)
    alpha_t = whole.alpha(s**3)[:, None].repeat(1, x_0.size(1))
    alpha_t[:, :given] = 1.0
    return *mask_tokens(x_0, alpha_t, mask_id, rng), whole.weight(s**3) * 3 * s**2 / n


@torch.no_grad()
def left_to_right_nll(
    model, x_0: Int[Tensor, "B L"], mask_id: int | None = None, given: int | None = None
) -> Float[Tensor, "B"]:
    """Exact -log p(x_0), nats per token, when text is written from left to right.

    A GPT (no mask_id) needs one pass and at least one given token. A denoiser needs a pass for each token: token i
    is scored with i.. masked. That is its exact likelihood under this decoding order, below or above its bound.
    """
    if mask_id is None:
        if given not in (None, 1):
            raise ValueError("a GPT scores all tokens but the first: given must be 1")
        return torch.cat([next_token_nll(model(rows), rows) for rows in x_0.split(ROWS)]).double()
    given = given or 0
    n, L = num_scored(x_0, given), x_0.size(1)
    here = torch.eye(L, dtype=torch.bool, device=x_0.device)[given:]  # (n, L): one row for each scored token
    hidden = here.cumsum(1).bool()  # that token and all to the right of it
    return torch.stack([denoise_in_order(model, row, here, hidden, mask_id) for row in x_0]) / n


def denoise_in_order(denoiser, row, here, hidden, mask_id) -> Float[Tensor, ""]:
    """-log p of one sequence, the sum over the rows of `here` of one token given what `hidden` leaves visible."""
    x_0 = row.expand(len(here), -1)
    x_t = x_0.masked_fill(hidden, mask_id)
    chunks = zip(x_0.split(ROWS), x_t.split(ROWS), here.split(ROWS), strict=True)
    return sum(masked_nll(denoiser, *chunk, mask_id).double().sum() for chunk in chunks)


@dataclass(frozen=True)
class Curve:
    """c_k: mean cross-entropy (nats) of a masked token when exactly k tokens are masked. Its mean over k = 1..L is
    the NELBO; its steps are what decoding in parallel costs."""

    k: Int[Tensor, "n"]
    mean: Float[Tensor, "n"]
    stderr: Float[Tensor, "n"]


def cross_entropy_curve(
    denoiser,
    x_0: Int[Tensor, "B L"],
    mask_id: int,
    counts: Int[Tensor, "n"] | None = None,
    samples: int = 4,
    rng: torch.Generator | None = None,
    given: int = 0,
) -> Curve:
    """Measure c_k at `counts` (default: every k from 1 to L - given), `samples` masks a sequence and k."""
    counts = torch.arange(1, x_0.size(1) - given + 1) if counts is None else counts
    points = [cross_entropy_at(denoiser, x_0, mask_id, int(k), samples, rng, given) for k in counts]
    return Curve(counts, torch.tensor([p.mean for p in points]), torch.tensor([p.stderr for p in points]))


def exact_curve(language, L: int) -> Float64[Tensor, "L"]:
    """c_1 .. c_L of an exact denoiser, over all its texts of L tokens and all masks: for tiny languages.

    What a masked token costs on average, given what is visible, is the entropy of its exact posterior.
    """
    x_0 = torch.tensor(list(product(range(language.mask_id), repeat=L)))
    p, total = (-L * language.nll(x_0)).exp(), torch.zeros(L, dtype=torch.float64)
    for hidden in product([False, True], repeat=L):
        if k := sum(hidden):
            entropy = torch.special.entr(language(x_0.masked_fill(torch.tensor(hidden), language.mask_id)).exp())
            total[k - 1] += p @ entropy.sum((1, 2)) / math.comb(L, k)
    return total / torch.arange(1, L + 1)


def exact_logits(language, x_t: Int[Tensor, "B L"], rate: Float64[Tensor, "B V"]) -> Float64[Tensor, "B L V"]:
    """What an exact denoiser answers when type v is masked at a rate of its own: for tiny languages, over all texts.

    That a token elsewhere is masked says something of its type. That this one is says log rate_v, and is left out.
    """
    texts, hidden = torch.tensor(list(product(range(language.mask_id), repeat=x_t.size(1)))), x_t == language.mask_id
    fits = ((x_t[:, None] == texts) | hidden[:, None]).all(2)  # (B, N): which of the N texts it can be
    of_masks = torch.where(hidden[:, None], rate.log()[:, texts], 0.0).sum(2)
    log_p = (-x_t.size(1) * language.nll(texts) + of_masks).masked_fill(~fits, -torch.inf)
    logits = [log_p[..., None].masked_fill(texts != v, -torch.inf).logsumexp(1) for v in range(language.mask_id)]
    return torch.stack(logits, 2) - rate.log()[:, None]


@torch.no_grad()
def cross_entropy_at(denoiser, x_0, mask_id, k, samples, rng, given) -> Estimate:
    """One point of the curve."""
    x = x_0.repeat(samples, 1)
    x_t, is_masked = mask_count(x, torch.full((len(x),), k, device=x.device), mask_id, rng, given)
    chunks = zip(x.split(ROWS), x_t.split(ROWS), is_masked.split(ROWS), strict=True)
    nll = torch.cat([count_nelbo(masked_nll(denoiser, *c, mask_id), c[2]) for c in chunks])
    return Estimate.of(nll.view(samples, -1))
