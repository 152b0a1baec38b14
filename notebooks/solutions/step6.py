"""Solutions to notebook 6. One function for each check of the same name."""

import torch


def block_nelbo(nll, is_masked, n):
    blocks, k = nll.reshape(len(nll), -1, n), is_masked.reshape(len(nll), -1, n).sum(-1)
    return (blocks.sum(-1) / k).mean(1)  # the mean over a block's hidden tokens; then over blocks


def questions(L, n):
    return L // n * (2**n - 1)  # every set of hidden tokens but the empty one


def page(L, n):
    block = torch.arange(L).repeat(2) // n
    is_clean = torch.arange(2 * L) >= L
    own = (block[:, None] == block) & (is_clean[:, None] == is_clean)
    before = is_clean & (block < block[:, None])
    return own | before


def cost(L, n, at_once):
    passes = L // at_once
    return passes, passes * n + L - n  # its block in every pass; all blocks but the last once more
