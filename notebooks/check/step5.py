"""Checks for notebook 5: what MASK costs, the next token, one unit, paired differences, tokens read."""

import math

import torch

from check.exercise import NotYet, ask, compare, exercise, pair, tensor
from microdlm.objectives import next_token_nll


@exercise
def extra(mine):
    """my_extra(D, tied): parameters that MASK costs."""
    compare(
        tensor(ask(mine, 96, False)),
        192,
        {
            "Only the embedding, or only the head: MASK has a row in both, if they are two tables.": 96,
            "MASK is one more id, and every id has a vector (two, if the head is a table of its own).": 0,
            "Not one number for each table, but a vector of D.": 2,
            "Attention does not know the vocabulary: only the embedding and the head grow.": 3 * 96,
        },
        tell="For D = 96, not tied",
    )
    compare(
        tensor(ask(mine, 96, True)), 96, {"Tied: the head is the embedding table, so there is one row.": 192}, "Tied"
    )
    return "2 D, or D if tied. All else is equal: the twins may be compared."


@exercise
def next_token(mine):
    """my_next(logits, x): (B,) nats per predicted token."""
    g = torch.Generator().manual_seed(0)
    logits, x = torch.randn(3, 7, 5, generator=g), torch.randint(5, (3, 7), generator=g)
    log_p = logits.log_softmax(-1).double()

    def score(rows, tokens):
        return -log_p[:, rows].gather(-1, x[:, tokens, None])[..., 0]

    right = score(slice(0, 6), slice(1, 7))
    answer = ask(mine, logits, x)
    if torch.as_tensor(answer).dim() == 0:
        raise NotYet("This is one number for the whole batch. Return one for each text, (B,).")
    compare(
        tensor(answer, (3,)),
        next_token_nll(logits, x),
        {
            "Row i is held against token i, which it has just read. It predicts token i + 1: shift by one.": score(
                slice(0, 7), slice(0, 7)
            ).mean(1),
            "Shifted the wrong way: row i is held against token i - 1.": score(slice(1, 7), slice(0, 6)).mean(1),
            "This is the sum over tokens. Per token: the mean of the L - 1 that are predicted.": right.sum(1),
            "You divide by L. L - 1 tokens are predicted: nobody predicts the first.": right.sum(1) / 7,
            "The sign: -log of a probability is not negative.": -right.mean(1),
        },
        tell="For three texts of 7 tokens",
    )
    return "L - 1 factors of the chain rule from one pass."


@exercise
def bits(mine):
    """my_bits(nats_per_token, chars_per_token)."""
    nats, chars = 3.1, 4.5
    compare(
        tensor(ask(mine, nats, chars)),
        nats / chars / math.log(2),
        {
            "These are bits per token. A token of 4.5 characters pays for all of them: divide.": nats / math.log(2),
            "These are nats per character. A bit is ln 2 nats: divide by ln 2.": nats / chars,
            "A bit is smaller than a nat, so there are more bits than nats: divide by ln 2, do not multiply.": nats
            / chars
            * math.log(2),
            "More characters in a token make a character cheaper: divide by them.": nats * chars / math.log(2),
            "e to the nats is a perplexity, not bits.": math.exp(nats / chars),
        },
        tell="3.1 nats per token, 4.5 characters a token",
    )
    return "Now models with any vocabulary stand on one line. (Perplexities per token do not.)"


@exercise
def paired(mine):
    """my_paired(a, b) -> (mean of a - b, standard error)."""
    g = torch.Generator().manual_seed(0)
    hard = torch.randn(200, generator=g).double()
    a, b = 2 + hard + 0.1 * torch.randn(200, generator=g), 1.9 + hard + 0.1 * torch.randn(200, generator=g)
    mean, error = pair(ask(mine, a, b), "mean difference", "standard error")
    d, n = a - b, 200
    compare(tensor(mean), d.mean(), {"The sign: a - b.": -d.mean()}, "The mean")
    compare(
        tensor(error),
        d.std() / n**0.5,
        {
            "This is the error of two independent samples. They are the same texts: take differences first.": (
                (a.var() + b.var()) / n
            ).sqrt(),
            "This is the scatter of one difference. The mean of n scatters less: divide by sqrt(n).": d.std(),
            "Divide by the square root of n, not by n.": d.std() / n,
            "This is a variance. Take the root.": d.var() / n,
        },
        tell="The standard error",
        rtol=5e-3,  # n or n - 1 under the root: either will do
    )
    return "Ten times less noise here, for nothing: hard texts are hard for both."


@exercise
def tokens_read(mine):
    """my_tokens_read(L, given, steps) -> (diffusion, GPT without a cache, GPT with one)."""
    L, given, steps = 240, 16, 38
    names = ("diffusion", "GPT without a cache", "GPT with a cache")
    truth = (steps * L, sum(range(given, L)), L - 1)
    known = (
        {
            "Frames are one more than passes: the blank page is no pass.": (steps + 1) * L,
            "It reads the whole page in every pass, the prompt too.": steps * (L - given),
            "That is the number of passes. Each reads a page.": steps,
        },
        {
            "The prompt is written already: the first pass is for token number `given`.": sum(range(L)),
            "The pass for token i reads tokens 0 .. i-1: that is i of them, not i + 1.": sum(range(given + 1, L + 1)),
            "That would be so if each pass read the whole page. It reads what stands so far.": (L - given) * L,
            "That is the number of passes. Each reads all that stands so far.": L - given,
        },
        {
            "The last token is written and never read.": L,
            "The prompt has to be read too, once.": L - given,
            "The prompt has to be read too, and the last token not.": L - given - 1,
        },
    )
    for answer, name, value, hints in zip(pair(ask(mine, L, given, steps), *names), names, truth, known, strict=True):
        try:
            compare(tensor(answer), value, hints, tell=f"L = {L}, given = {given}, steps = {steps}", rtol=1e-6)
        except NotYet as hint:
            raise NotYet(f"{name}: {hint}") from None
    return "9,120 against 28,560, or against 239 with a cache. In passes it is 38 against 224: fewer is not less."
