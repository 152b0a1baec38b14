"""Samplers that revise: a token that was written can be masked again and written anew. Given tokens never change.

Given are the tokens that are visible at the start, as for every sampler. A model cannot be asked how sure it is of a
token it sees, for it was never trained to say; it can be asked what it thinks of a token that is hidden.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microdlm.drawing import uniform64
from microdlm.objectives import without_mask
from microdlm.pacing import masked_shares
from microdlm.stepping import States, ask, guess, highest, open_positions, reveal, sampler

# Which go back, of the tokens that may? Each takes as many as chance sent back, and how sure each guess was.
LEAVE: dict[str, Callable[[Bool[Tensor, "B L"], Float[Tensor, "B L"]], Bool[Tensor, "B L"]]] = {
    "random": lambda back, sure: back,
    "confidence": lambda back, sure: highest(-sure, back.sum(1)),
}


@sampler
def remask(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int = 64,
    *,
    eta: float | int = 0.5,
    again: str = "random",
    schedule: str = "linear",
    rng: torch.Generator | None = None,
    **how,
) -> States:
    """ReMDM, rescaled (2503.00307): from t to s a token that was written is masked again with probability sigma, and a
    MASK opens with the probability that leaves the share of MASKs what it would be without: with alpha = P(visible),

        P(MASK opens) = (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t),    sigma = eta min(1, (1 - alpha_s) / alpha_t)

    eta = 0 is ancestral, eta = 1 redraws as much as can be. Tokens drawn together do not see each other, here as
    everywhere; but near the end few are masked at once, and there it is Gibbs sampling, which mends what came before.
    So it is exact as num_steps grows, if one token at a time leads from any text of the language to any other; but an
    exact denoiser makes no mistakes to mend, and slowly: on the chain of tests/test_revising.py the error falls as
    num_steps^(-1/2), that of ancestral as 1/num_steps.
    `again`="confidence" masks the guesses that were least sure when drawn, as many as otherwise: not exact.
    """
    given, sure = x != mask_id, torch.full(x.shape, torch.inf, dtype=torch.float64, device=x.device)
    for u_t, u_s in pairwise(masked_shares(schedule, num_steps).tolist()):  # u = 1 - alpha
        sigma = eta * min(1.0, u_s / (1 - u_t)) if u_t < 1 else 0.0
        stays = (u_s - sigma * (1 - u_t)) / u_t
        is_open, noise = x == mask_id, uniform64(x.shape, x.device, rng)
        opens = (is_open & (noise >= stays)).flatten().nonzero().squeeze(1).cpu()
        back = LEAVE[again](~given & ~is_open & (noise < sigma), sure)
        if len(opens):
            x, now = guess(denoiser, x, opens, mask_id, "confidence", rng, **how)
            sure = torch.where(now > -torch.inf, now, sure)
        x, sure = x.masked_fill(back, mask_id), sure.masked_fill(back, torch.inf)
        yield x


@sampler
def forward_backward(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int = 32,
    *,
    correctors: int = 1,
    schedule: str = "linear",
    rng: torch.Generator | None = None,
    **how,
) -> States:
    """Predictor and corrector (2205.14987): after the step from t to s, go forward to t again, which masks some of what
    was written, and back to s anew; `correctors` times. Each move is the process itself, in one direction or the
    other, so the share of MASKs is the schedule's after every step; 1 + correctors passes a step.
    """
    given = x != mask_id
    for u_t, u_s in pairwise(masked_shares(schedule, num_steps).tolist()):
        for turn in range(1 + correctors * (u_t < 1)):  # from nothing but MASK the corrector would only start anew
            if turn:
                again = uniform64(x.shape, x.device, rng) < (u_t - u_s) / (1 - u_s)
                x = x.masked_fill(again & ~given, mask_id)
            opens = (x == mask_id) & (uniform64(x.shape, x.device, rng) >= u_s / u_t)
            if len(where := opens.flatten().nonzero().squeeze(1).cpu()):
                x = reveal(denoiser, x, where, mask_id, rng=rng, **how)
            yield x


@torch.no_grad()
def refine(
    denoiser,
    x: Int[Tensor, "B L"],
    mask_id: int,
    num_steps: int = 8,
    *,
    share: float | int = 0.1,
    again: str = "random",
    given: Bool[Tensor, "B L"] | None = None,
    rng: torch.Generator | None = None,
    **how,
) -> States:
    """num_steps times: mask a share of what is not given (at least one token) and draw it anew, all in one pass.

    MASKs of `x` are filled first, in one pass, much as in mask-predict (1904.09324), whose share falls. To go over a
    finished text say what is `given`, torch.zeros_like(x, dtype=torch.bool) for nothing: by default all that is
    visible is, as for every sampler, and a text without MASK comes back once, as it is.

    `again`: "random" tokens, or those the model is least sure of ("confidence": some passes more a round, see
    unsure). One random token a round is Gibbs sampling: a text of the language stays one, exactly. More at once, or
    the least sure, change the distribution.
    """
    free = (x == mask_id) if given is None else (x == mask_id) | ~given
    filling, revisable = (x == mask_id).sum(1), free.sum(1)
    some = (share * revisable).round().long().clamp(min=1).minimum(revisable)
    total, missing = int(some.sum()), int(filling.sum())
    if missing:
        x = reveal(denoiser, x, open_positions(x, mask_id, missing), mask_id, rng=rng, **how)
    if missing or not total:
        yield x
    for _ in range(num_steps if total else 0):
        doubt = DOUBTS[again](denoiser, x, free, mask_id, rng)
        masked = x.masked_fill(highest(doubt.masked_fill(~free, -torch.inf), some), mask_id)
        x = reveal(denoiser, masked, open_positions(masked, mask_id, total), mask_id, rng=rng, **how)
        yield x


# How much is each token in doubt? Each takes (denoiser, x, free, mask_id, rng); larger goes first.
def anything(denoiser, x, free, mask_id, rng) -> Float[Tensor, "B L"]:
    return uniform64(x.shape, x.device, rng)


def unsure(denoiser, x: Int[Tensor, "B L"], free, mask_id: int, rng, parts: int = 4) -> Float[Tensor, "B L"]:
    """-log p(token | the text without its part), in `parts` passes, each of which hides another random part."""
    part, doubt = (parts * uniform64(x.shape, x.device, rng)).long(), torch.zeros_like(x, dtype=torch.float64)
    for i in range(parts):
        if not len(where := (free & (part == i)).flatten().nonzero().squeeze(1).cpu()):
            continue
        hidden = x.masked_fill(free & (part == i), mask_id)
        log_p = without_mask(ask(denoiser, hidden, where).double(), mask_id).log_softmax(-1)
        nll = -log_p.gather(1, x.flatten()[where, None]).squeeze(1)
        doubt = doubt.flatten().scatter(0, where, nll).view(x.shape)
    return doubt


DOUBTS: dict[str, Callable] = {"random": anything, "confidence": unsure}
