"""Checks for notebook 4: SUBS, the weight, the bound, what the habits give, and what a schedule leaves out."""

import math

import torch

from check.exercise import NotYet, ask, compare, exercise, pair, tensor
from microdlm.objectives import denoise_log_probs
from microdlm.objectives import nelbo as core_nelbo
from microdlm.schedules import SCHEDULES

T = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
MASK = 4


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@exercise
def subs(mine):
    """my_log_probs(logits, x_t, mask_id) -> log p(x_0 | x_t), (B, L, V)."""
    logits = torch.randn(3, 6, MASK + 1, generator=_seeded(1)).double()
    x_t = torch.tensor([[MASK] * 6, [0, MASK, 1, MASK, 2, 3], [MASK, MASK, 3, 2, 1, MASK]])
    if ask(mine, logits, x_t, MASK) is logits:
        raise NotYet("These are the logits as they came.")
    log_p = tensor(ask(mine, logits, x_t, MASK), logits.shape)
    p, hidden = log_p.exp(), x_t == MASK
    if (log_p[:, MASK] == -math.inf).all() and not (log_p[..., MASK] == -math.inf).all():
        raise NotYet(
            "logits[:, mask_id] is a position, of every text the one with that number. The vocabulary is the last axis."
        )
    if (p[..., MASK] > 0).any():
        raise NotYet("MASK keeps some probability. Clean text holds no MASK: give it -inf before you normalise.")
    total = p[hidden].sum(-1)
    if (total < 0.999).any():
        raise NotYet(
            "At hidden positions the probabilities sum to less than 1: take MASK out of the logits first, and "
            "normalise after that."
        )
    if (total > 1.001).any():
        raise NotYet("At hidden positions the probabilities sum to more than 1: these are not normalised yet.")
    if not torch.allclose(p[hidden], denoise_log_probs(logits, x_t, MASK).exp()[hidden], atol=1e-6):
        raise NotYet("At hidden positions the probabilities are not those of the logits: softmax over the last axis.")
    if not torch.equal(p[~hidden].argmax(-1), x_t[~hidden]) or (p[~hidden].amax(-1) < 0.999).any():
        raise NotYet("A visible token is x_0 already: there all probability belongs to it (carry-over).")
    return "No mass on MASK, and what is visible is known. That is all of SUBS."


@exercise
def weight(mine):
    """my_weight(t): -alpha'(t) / (1 - alpha(t)) of the cosine."""
    alpha, slope, truth = (
        torch.cos(math.pi / 2 * T),
        -math.pi / 2 * torch.sin(math.pi / 2 * T),
        SCHEDULES["cosine"].weight(T),
    )
    compare(
        tensor(ask(mine, T), T.shape),
        truth,
        {
            "The sign: alpha falls, so -alpha' is positive, and so is a weight.": -truth,
            "This is the weight of the linear schedule. With the cosine other times count more.": 1 / T,
            "This is 1 / u: the slope of the schedule is missing.": 1 / (1 - alpha),
            "This is -alpha', how fast tokens are hidden. Divide by the share that is hidden.": -slope,
            "You divide by alpha, the share visible. It is the hidden tokens that are scored.": -slope / alpha,
            "The chain rule: the derivative of cos(pi t / 2) has a factor pi / 2.": truth / (math.pi / 2),
        },
        tell="w(t) at t = 0.1, 0.2, ..",
    )
    return "(pi/2) cot(pi t / 4): large where little is hidden, because there a hidden token is rare."


@exercise
def nelbo(mine):
    """my_nelbo(nll, is_masked, weight_t) -> (B,) nats per token; nll (B, L) is 0 where nothing is hidden."""
    is_masked = torch.rand(5, 8, generator=_seeded(2)) < torch.tensor([0.15, 0.3, 0.5, 0.7, 1.0])[:, None]
    is_masked[0, 0] = True
    nll = torch.rand(5, 8, generator=_seeded(3)).double() * is_masked
    w, n = torch.tensor([6.0, 3.0, 2.0, 1.5, 1.1]).double(), is_masked.sum(1)
    log_p = torch.full((5, 8, 2), -math.inf).double()
    log_p[..., 0] = -nll
    truth = core_nelbo(log_p, torch.zeros(5, 8).long(), is_masked, w)
    answer = ask(mine, nll, is_masked, w)
    if torch.as_tensor(answer).dim() == 0:
        raise NotYet("This is one number for the whole batch. Every text has its own t and weight: return (B,).")
    compare(
        tensor(answer, (5,)),
        truth,
        {
            "You divide by the number of hidden tokens, and the weight is about 1 / u already: they are counted twice. "
            "Divide by L.": w * nll.sum(1) / n,
            "The weight is missing. Texts with little hidden must count for more.": nll.sum(1) / 8,
            "This is the plain mean over hidden tokens: neither weight nor L.": nll.sum(1) / n,
            "This is the sum over a text. Per token: divide by L.": w * nll.sum(1),
            "The hidden tokens of the whole batch went into one ratio.": w * nll.sum() / n.sum(),
        },
        tell="For five texts of 8 tokens",
    )
    return "The weighted sum, divided by L. Its mean over t and masks bounds -log p, per token."


@exercise
def area(mine):
    """my_bound(curve): from c_1 .. c_L, the cost of a hidden token when k are hidden, the bound per token."""
    curve = torch.tensor([0.5, 0.6, 0.9, 1.4, 2.1, 3.0]).double()
    k = torch.arange(1, 7).double()
    compare(
        tensor(ask(mine, curve)),
        curve.mean(),
        {
            "This is for the whole text. Per token: divide by L.": curve.sum(),
            "Each c_k is a mean over its k tokens already. Weighing it by k is the habit `sum / sum`: long gaps count "
            "more.": (k * curve).sum() / k.sum(),
            "1/k has been applied once: c_k is the mean, not the sum, over k tokens.": (curve / k).mean(),
            "This is only the end of the curve, where all is hidden.": curve[-1],
        },
        tell="Of the curve .5 .6 .9 1.4 2.1 3.0",
    )
    return "A plain mean: every number of hidden tokens counts alike. It is the area under the curve."


@exercise
def habits(*answers):
    """Nats of 16 independent tokens, 4 equally likely values: 1/t on the sum; no weight; the plain mean, times 16."""
    names = ("1/t times the sum", "the sum, no weight", "the mean over hidden tokens, times 16")
    total = 16 * math.log(4)
    half = "The mean of t is 1/2: on average only half of the 16 tokens are hidden, and only those are summed."
    hints = (
        {"You left out the weight: this is the second number.": total / 2,
         "Sixteen coins with four sides: the entropy is 16 ln 4, in nats.": 32.0},
        {half: total},
        {"Of the hidden tokens each costs ln 4, and their mean does not care how many they are.": total / 2,
         "Per token that is right. Times 16.": math.log(4)},
    )  # fmt: skip
    values = (total, total / 2, total)
    for answer, name, value, known in zip(pair(answers, *names), names, values, hints, strict=True):
        try:
            compare(tensor(answer), value, known, rtol=2e-3)
        except NotYet as hint:
            raise NotYet(f"{name}: {hint}") from None
    return "22.18, 11.09, 22.18. The weight 1/t belongs to the sum; on the mean it would count twice, and diverge."


@exercise
def missing(mine):
    """my_missing(L, u_0, u_1): nats of ABAB.. that a schedule finds which goes from u_0 to u_1, of ln 2."""
    for L, low, high in ((16, 0.05, 0.95), (4, 0.2, 0.9)):
        ln2 = math.log(2)
        compare(
            tensor(ask(mine, L, low, high)),
            (high**L - low**L) * ln2,
            {
                "The cost is not spread evenly over u: only when all L letters are hidden is there anything to ask.": (
                    high - low
                )
                * ln2,
                "This is what it misses. It finds the rest.": (1 - high**L + low**L) * ln2,
                "The walk begins at u_0, not at 0: what lies before is missing too.": high**L * ln2,
                "In nats: the secret is one of two, ln 2 = 0.6931.": high**L - low**L,
                "m(u) = u^(L-1) ln 2 is the cost of one hidden letter, per token. Integrate it from u_0 to u_1, and "
                "multiply by L.": (high ** (L - 1) - low ** (L - 1)) * ln2,
            },
            tell=f"L = {L}, from u = {low} to {high}",
        )
    return "0.3051 for the clipped cosine with L = 16, where ln 2 = 0.6931 is true: less than the truth is no bound."
