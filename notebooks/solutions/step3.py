"""Solutions to notebook 3. One function, or one answer, for each check of the same name."""

import torch


def valid(k):
    return 2.0 ** (1 - k)  # the first letter is free, each other is a coin


def price(curve, plan):
    hidden, nats = len(curve), 0.0
    for k in plan:
        nats = nats + k * curve[hidden - 1]  # all k are asked while `hidden` are hidden
        hidden -= k
    return nats / len(curve)


def passes(T, N):
    return T * (1 - (1 - 1 / T) ** N)


def step(denoiser, x, mask_id, p, rng):
    opens = (x == mask_id) & (torch.rand(x.shape, generator=rng) < p)
    probabilities = denoiser(x)[opens].exp()  # (how many open, V)
    if not len(probabilities):
        return x
    return x.masked_scatter(opens, torch.multinomial(probabilities, 1, generator=rng)[:, 0])


exact = "ab"
