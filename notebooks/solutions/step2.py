"""Solutions to notebook 2. One function, or one answer, for each check of the same name."""

import torch


def middle(P, a, b):
    both = P[a] * P[:, b]  # p(x | a) from the left, p(b | x) from the right
    return both / both.sum()


def attention(q, k, v):
    score = q @ k.T / q.size(-1) ** 0.5  # row i asks, column j offers
    return score.softmax(-1) @ v


def causal(L):
    return torch.ones(L, L, dtype=torch.bool).tril()


def reach(i, L, causal):
    return L - i if causal else L


impossible = "bd"
