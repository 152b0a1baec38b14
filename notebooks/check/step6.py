"""Checks for notebook 6: the bound in blocks, how many questions, who sees whom, what a text costs."""

import torch

from check.exercise import NotYet, ask, compare, exercise, pair, tensor
from microdlm.blocks import block_attention
from microdlm.blocks import block_nelbo as core_nelbo


@exercise
def block_nelbo(mine):
    """my_block_nelbo(nll, is_masked, n) -> (B,) nats per token."""
    g, n = torch.Generator().manual_seed(0), 4
    is_masked = torch.rand(3, 12, generator=g) < 0.5
    is_masked[:, ::n] = True
    nll = (torch.rand(3, 12, generator=g).double() + torch.arange(12) / 4) * is_masked
    blocks, k = nll.view(3, 3, n), is_masked.view(3, 3, n).sum(-1)
    answer = ask(mine, nll, is_masked, n)
    if torch.as_tensor(answer).dim() == 0:
        raise NotYet("This is one number for the whole batch. Return one for each text, (B,).")
    compare(
        tensor(answer, (3,)),
        core_nelbo(nll, is_masked, n),
        {
            "This is one mean over all hidden tokens of the text: a block with many of them counts for more. Each "
            "block is a text of its own; take its mean first.": nll.sum(1) / is_masked.sum(1),
            "You sum over the blocks. Per token: the mean over blocks (they have equally many tokens).": (
                blocks.sum(-1) / k
            ).sum(1),
            "This is the bound for the whole text. Per token: divide by L.": n * (blocks.sum(-1) / k).sum(1),
            "You divide by L. Within a block the sum is divided by the number of its hidden tokens.": nll.sum(1) / 12,
            "You divide each block by n. Divide by the number of its hidden tokens.": (blocks.sum(-1) / n).sum(1),
        },
        tell="For three texts of three blocks of 4",
    )
    return "With n = L it is notebook 4; with n = 1 nothing is random, and it is a GPT's chain rule."


@exercise
def questions(mine):
    """my_questions(L, n)."""
    for L, n in ((64, 4), (8, 8)):
        compare(
            tensor(ask(mine, L, n)),
            L // n * (2**n - 1),
            {
                "To hide nothing is no question: one less in every block.": L // n * 2**n,
                "That is for one block. There are L / n of them.": 2**n - 1,
                "There are L / n blocks, not L.": L * (2**n - 1),
                "That counts how many are hidden, not which.": L // n * n,
                "The blocks are asked one by one, each with clean text before it: add, do not multiply.": 2.0**L - 1,
            },
            tell=f"For L = {L}, n = {n}",
            rtol=1e-9,
        )
    return "64 for a GPT with a text of 64 tokens, about 2^64 for diffusion. It is a wonder that it learns at all."


@exercise
def page(mine):
    """my_page(L, n): (2 L, 2 L) bool."""
    L, n = 8, 2
    seen = tensor(ask(mine, L, n), (2 * L, 2 * L)).bool()
    block, is_clean = (torch.arange(2 * L) % L) // n, torch.arange(2 * L) >= L
    row, column = block[:, None], block[None]
    same = is_clean[:, None] == is_clean
    truth = (row == column) & same | is_clean & (column < row)
    core = block_attention(L, n)  # without the last clean block, which nobody needs
    assert torch.equal(truth[: len(core), : len(core)], core)
    noised, clean = seen[:L], seen[L:]
    if torch.equal(seen, truth.T):
        raise NotYet("Rows and columns have changed places: the row looks, the column is looked at.")
    if (noised[:, L:] & (row[:L] == column[:, L:])).any():
        raise NotYet("A noised block sees its own clean copy: the answers are on the page.")
    if (clean[:, L:] & (column[:, L:] > row[L:])).any():
        raise NotYet(
            "Clean blocks see what comes after them. No arrow leads from a token to its own blank, yet in two "
            "layers it gets there."
        )
    if (noised[:, L:] & (column[:, L:] > row[:L])).any():
        raise NotYet("Noised blocks see clean blocks to their right: those are not written yet.")
    if (noised[:, :L] & (row[:L] != column[:, :L])).any():
        raise NotYet("A noised block sees other noised blocks. What lies before it is read clean.")
    if clean[:, :L].any():
        raise NotYet("Clean tokens see noised ones: what is finished does not depend on what is being written.")
    if not (noised[:, :L] | (row[:L] != column[:, :L])).all():
        raise NotYet("Inside its block a noised token sees all tokens, to both sides: there any order is possible.")
    if not (clean[:, L:] | (row[L:] != column[:, L:])).all():
        raise NotYet("Inside its block a clean token sees all tokens, to both sides.")
    if not torch.equal(noised[:, L:], truth[:L, L:]):
        raise NotYet("Noised tokens should see all clean blocks before their own.")
    if not torch.equal(seen, truth):
        raise NotYet("Clean tokens should see all clean blocks before their own.")
    return "All blocks in one pass, and nobody sees their own answer."


@exercise
def cost(mine):
    """my_cost(L, n, at_once) -> (passes, tokens read)."""
    for L, n, k in ((64, 16, 2), (64, 1, 1), (64, 64, 4)):
        passes, read = pair(ask(mine, L, n, k), "passes", "tokens read")
        where = f"L = {L}, n = {n}, at_once = {k}"
        compare(
            tensor(passes),
            L // k,
            {
                "These are the passes of one block. There are L / n of them.": n // k,
                "One pass for each token: but a pass opens at_once of them.": L,
                "One pass for each block: but it opens only at_once tokens.": L // n,
            },
            tell=f"Passes for {where}",
        )
        compare(
            tensor(read),
            L // k * n + L - n,
            {
                "A finished block is read once more, without blanks, so that it can be kept: all but the last.": L
                // k
                * n,
                "The last block need not be read again: nothing follows it.": L // k * n + L,
                "That would be so without a cache: each pass reads only its own block.": L // k * L,
                "Each token once: but a block is read anew in every pass while it has blanks.": L,
            },
            tell=f"Tokens read for {where}",
        )
    return "127 tokens for blocks of one, 2,048 for one block of 64 in 32 passes. The slider moves the bill too."
