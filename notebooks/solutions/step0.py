"""Solutions to notebook 0. One function, or one number, for each check of the same name."""

import math

import torch


def alpha(t):
    return torch.cos(math.pi / 2 * t)


def mask(x_0, alpha_t, mask_id, rng):
    drawn = torch.rand(x_0.shape, generator=rng)  # every token its own number
    is_masked = drawn >= alpha_t[:, None]  # one rate a text, beside all of its tokens
    return x_0.masked_fill(is_masked, mask_id), is_masked


def count(L, u):
    return L * u, math.sqrt(L * u * (1 - u))


mean_share = 1 - 2 / math.pi  # the integral of 1 - cos(pi t / 2) from 0 to 1


def opens(alpha_s, alpha_t):
    # P(visible at s | hidden at t) = P(visible at s, hidden at t) / P(hidden at t)
    return (alpha_s - alpha_t) / (1 - alpha_t)
