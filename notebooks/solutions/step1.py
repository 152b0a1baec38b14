"""Solutions to notebook 1. One function, or one answer, for each check of the same name."""

import math

import torch


def entropy(p):
    return -torch.xlogy(p, p).sum()


def divergence(p, q):
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


def first_loss(V):
    return math.log(V - 1)  # a blank can be any of the V ids but MASK


def masked_mean(nll, is_masked):
    return (nll * is_masked).sum() / is_masked.sum()


report = "a"
