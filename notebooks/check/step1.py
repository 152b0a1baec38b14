"""Checks for notebook 1: entropy, what a wrong answer costs, the first loss, what the loss counts."""

import math

import torch

from check.exercise import EMPTY, NotYet, ask, compare, exercise, tensor

P = torch.tensor([0.5, 0.25, 0.125, 0.125]).double()
Q = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()


@exercise
def entropy(mine):
    """my_entropy(p) in nats."""
    truth = 1.75 * math.log(2)
    compare(
        tensor(ask(mine, P)),
        truth,
        {
            "This is in bits (logarithm to base 2). Nats use the natural logarithm: times ln 2.": 1.75,
            "The sign: probabilities are below 1, so their logarithms are negative. An entropy is not.": -truth,
            "Every logarithm counts alike here. A rare character is rare: weigh ln p by p.": -P.log().sum(),
            "This is the plain mean of -ln p. Weigh it by p: rare characters are seldom met.": -P.log().mean(),
            "This is ln V, the entropy if all were equally likely.": math.log(4),
        },
        tell="Of 1/2, 1/4, 1/8, 1/8",
    )
    with_zero = torch.tensor([0.5, 0.5, 0.0]).double()
    compare(tensor(ask(mine, with_zero)), math.log(2), {}, tell="Of 1/2, 1/2, 0 (what never occurs costs nothing)")
    return "Of 1/2, 1/4, 1/8, 1/8 it is 1.213 nats, or 1.75 bits: the length of the best code."


@exercise
def divergence(mine):
    """my_divergence(p, q): KL(p || q) in nats."""
    kl = (P * (P / Q).log()).sum()
    compare(
        tensor(ask(mine, P, Q)),
        kl,
        {
            "This is KL(q || p). The world draws from p: the mean is taken with p.": (Q * (Q / P).log()).sum(),
            "This is the cross-entropy. Take away what cannot be avoided, the entropy of p.": -(P * Q.log()).sum(),
            "The sign: what one pays for a wrong answer is not negative.": -kl,
            "Each character counts alike here: weigh ln(p/q) by p.": (P / Q).log().sum(),
            "In nats: the natural logarithm.": kl / math.log(2),
        },
        tell="Of p = 1/2, 1/4, 1/8, 1/8 and q = .1, .2, .3, .4",
    )
    compare(tensor(ask(mine, P, P)), 0.0, {}, tell="Of p and p itself")
    return "It is 0 only for q = p: the best answer is to count."


@exercise
def first_loss(mine):
    """my_first_loss(V): of a network that finds all characters equally likely; V counts MASK."""
    for V in (56, 3):
        compare(
            tensor(ask(mine, V)),
            math.log(V - 1),
            {
                "V counts MASK, and a blank is never a MASK underneath: one possibility less.": math.log(V),
                "In nats: the natural logarithm, not the one to base 2.": math.log2(V - 1),
                "The natural logarithm, and V counts MASK, which clean text does not hold.": math.log2(V),
                "This is the probability of one character. What does that cost?": 1 / (V - 1),
                "The sign: -ln of a probability is not negative.": -math.log(V - 1),
            },
            tell=f"For V = {V}",
        )
    return "ln(V - 1). If the first loss is far above it, the network starts with opinions: look at its initialisation."


@exercise
def masked_mean(mine):
    """my_masked_mean(nll, is_masked): one number, the mean over all hidden letters of the batch."""
    g = torch.Generator().manual_seed(0)
    nll = torch.rand(4, 10, generator=g).double() + 0.5
    is_masked = torch.rand(4, 10, generator=g) < torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None]
    is_masked[:, 0] = True
    hidden = (nll * is_masked).sum()
    compare(
        tensor(ask(mine, nll, is_masked)),
        hidden / is_masked.sum(),
        {
            "The visible letters are scored too. They are no question: with a network that copies, half of the loss "
            "would be 0.": nll.mean(),
            "You divide by all positions, B x L. Divide by how many are hidden.": hidden / nll.numel(),
            "This is the sum. Divide by how many are hidden.": hidden,
            "You score the visible letters, and leave out the hidden ones.": nll[~is_masked].mean(),
            "This is the mean of each text's mean: a letter in a text with few blanks counts for more. It is a loss "
            "too (notebook 4 is about that), but here every hidden letter counts alike.": (
                (nll * is_masked).sum(1) / is_masked.sum(1)
            ).mean(),
        },
        tell="For four texts of 10 letters",
    )
    return "Hidden letters only, each counted once."


@exercise
def report(answer):
    """Which of four reports is possible without a mistake."""
    if answer is None or answer is ...:
        raise NotYet(EMPTY)
    hints = {
        "b": "Half of the entropy: the visible letters were scored too, and copying them costs nothing.",
        "c": "Nobody without context knows the letters: the network was shown x_0 in place of x_t.",
        "d": "Above ln(V - 1): it starts with strong and wrong opinions. That is an initialisation that is too large.",
    }
    chosen = str(answer).strip().strip(".").lower()
    if chosen in hints:
        raise NotYet(hints[chosen])
    if chosen != "a":
        raise NotYet('Answer with one letter in quotation marks: "a", "b", "c" or "d".')
    return "It sits on its floor. The other three are bugs, and each has a number of its own to be known by."
