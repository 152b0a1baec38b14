"""Checks for notebook 2: what two neighbours tell, attention, the one switch, how far an edit reaches."""

import torch

from check.exercise import EMPTY, NotYet, ask, compare, exercise, tensor

TABLE = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1]]).double()


@exercise
def middle(mine):
    """my_middle(P, a, b): p(middle | left a, right b)."""
    for a, b in ((0, 2), (1, 0)):
        P = TABLE
        both = P[a] * P[:, b]
        turned = P[:, a] * P[b]
        compare(
            tensor(ask(mine, P, a, b), (3,)),
            both / both.sum(),
            {
                "This is what the left neighbour says, a GPT's answer. The right one knows something too.": P[a],
                "The right shape, and they do not sum to 1: divide by their sum.": both,
                "Only the right neighbour is heard here.": P[:, b] / P[:, b].sum(),
                "P[b] is what follows b. You need what b follows: the column P[:, b].": P[a]
                * P[b]
                / (P[a] * P[b]).sum(),
                "Left and right have changed places: P[a] is the row of what follows a.": turned / turned.sum(),
                "Two opinions of the same thing are multiplied, not added.": (P[a] + P[:, b]) / (P[a] + P[:, b]).sum(),
            },
            tell=f"For a = {a}, b = {b}",
        )
    return "Likelihood from the right times prior from the left, normalised: Bayes."


@exercise
def attention(mine):
    """my_attention(q, k, v)."""
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 5, 8, generator=g).double()
    score = q @ k.T
    compare(
        tensor(ask(mine, q, k, v), v.shape),
        (score / 8**0.5).softmax(-1) @ v,
        {
            "The scores are not divided by sqrt(K): the softmax is too sharp.": score.softmax(-1) @ v,
            "You divide by K. By sqrt(K): that is the standard deviation of a score.": (score / 8).softmax(-1) @ v,
            "Softmax over the wrong axis: of each asking row the weights over all columns sum to 1.": (
                score / 8**0.5
            ).softmax(0)
            @ v,
            "The offers ask and the questions offer: q @ k.T, not k @ q.T.": (score.T / 8**0.5).softmax(-1) @ v,
            "There is no softmax: weights must be positive and sum to 1.": score / 8**0.5 @ v,
            "K is the number of components, the last axis; you divide by the root of L.": (score / 5**0.5).softmax(-1)
            @ v,
        },
        tell="For random q, k, v",
    )
    return "A weighted mean of what is told. The network does this in several heads at once."


@exercise
def causal(mine):
    """my_causal(L): (L, L) bool."""
    seen = tensor(ask(mine, 6), (6, 6)).bool()
    square = torch.ones(6, 6).bool()
    if torch.equal(seen, square.triu()) or torch.equal(seen, square.triu(1)):
        raise NotYet("Upside down: here a position sees what comes after it, the very letters it has to predict.")
    if torch.equal(seen, square.tril(-1)):
        raise NotYet("A position must see itself: it holds the last letter read. (And row 0 would see nothing at all.)")
    if torch.equal(seen, square):
        raise NotYet("Everybody sees everybody: that is the denoiser.")
    if torch.equal(seen, torch.eye(6).bool()):
        raise NotYet("Everybody is alone: that is notebook 1.")
    if not torch.equal(seen, square.tril()):
        raise NotYet("Row i should be True at the columns 0 .. i.")
    return "A triangle. It is the only difference between the two networks."


@exercise
def reach(mine):
    """my_reach(i, L, causal)."""
    for i, L in ((5, 24), (0, 10), (9, 10)):
        free = tensor(ask(mine, i, L, False))
        if free.item() == L - 1:
            raise NotYet("A denoiser: the answer at the edited place changes too (it sees itself).")
        if free.item() != L:
            raise NotYet(
                f"A denoiser: everybody listens to everybody. With L = {L} that is not {free.item():.0f} answers."
            )
        found = tensor(ask(mine, i, L, True)).item()
        hints = {
            i + 1: "You count what stands left of it. In a GPT those come before and cannot know of it.",
            L - i - 1: "The answer at its own place counts too: that position has read it.",
            L: "That is the denoiser. A GPT's positions before i have not seen the edit.",
            i: "You count the letters before it. They have not seen it.",
        }
        if found != L - i:
            raise NotYet(
                hints.get(int(found), f"For i = {i} of {L}, causal: expected {L - i}, and you say {found:.0f}.")
            )
    return "L for a denoiser, L - i for a GPT. The last letter moves one answer of a GPT, and all of a denoiser's."


@exercise
def impossible(answer):
    """Two letters: which curves cannot be."""
    if answer is None or answer is ...:
        raise NotYet(EMPTY)
    chosen = set(str(answer).lower()) & set("abcd")
    if "a" in chosen:
        raise NotYet("a is possible: it is the network of notebook 1.")
    if "c" in chosen:
        raise NotYet(
            "c is possible: a network that always practised with 15% hidden (as BERT) knows nothing of blank pages."
        )
    if chosen != {"b", "d"}:
        missing = "Look at the right end: there nobody has any context." if "b" not in chosen else (
            "Look at the exact curve: it is the entropy of what is hidden, given what is visible."
        )  # fmt: skip
        raise NotYet(f"Two letters. {missing}")
    return "b knows letters without any context, and d knows more than there is to know. Both would be bugs: a leak."
