"""What a sample of texts is like: varied or all alike, made of real words or not, copied from the training text or not.

Every measure is a function of counts that a text brings and that add up: so means, ratios, entropies and numbers of
kinds all get their error in the same way, by leaving out one text after the other.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

WORD = re.compile(r"[A-Za-z']+")


def leave_one_out(f: Callable, counts) -> tuple[float, np.ndarray]:
    """f of what all texts (rows of counts) hold together, and of what is left without each of them."""
    counts = np.asarray(counts, dtype=float)
    return float(f(counts.sum(0))), f(counts.sum(0) - counts)


def interval(value: float, without: np.ndarray) -> dict:
    """95 %, by the jackknife: for a mean it is the usual standard error; for other measures its square is not too
    small in expectation (Efron and Stein, 1981). A bootstrap would repeat texts, and so miscount what is distinct."""
    n = len(without)
    stderr = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return {"value": value, "stderr": stderr, "low": value - 1.96 * stderr, "high": value + 1.96 * stderr}


def ratio(c):
    return c[..., 0] / np.maximum(c[..., 1], 1)


def entropy(c):
    """In nats, of the shares of the kinds as they were counted: too low for few counts, equally so for equally many.

    >>> float(entropy(np.array([5.0, 0.0]))), round(float(entropy(np.array([1.0, 1.0]))), 4)
    (-0.0, 0.6931)
    """
    p = c / np.maximum(c.sum(-1, keepdims=True), 1)
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def kinds(c):
    return (c > 0).sum(-1)


def tally(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """How often each text holds each kind of thing.

    >>> tally(["abba", "bc"]).tolist()
    [[2.0, 2.0, 0.0], [0.0, 1.0, 1.0]]
    """
    column = {kind: i for i, kind in enumerate(sorted({kind for text in texts for kind in text}))}
    counts = np.zeros((len(texts), len(column)))
    for text, row in zip(texts, counts, strict=True):
        np.add.at(row, np.array([column[kind] for kind in text], dtype=int), 1)
    return counts


def whole_words(text: str, start: int = 0) -> list[str]:
    """Runs of letters and apostrophes in text[start:] that no end of the text and not `start` cuts.

    >>> whole_words("And I'll go, for tr"), whole_words("speak low", 2)
    (["I'll", 'go', 'for'], [])
    """
    return [w[0] for w in WORD.finditer(text) if w.start() >= max(1, start) and w.end() < len(text)]


class Verbatim:
    """A training text, to look up what stands in it."""

    def __init__(self, text: str, longest: int):
        """`longest`: no piece to look up is longer."""
        self.text, self.words = text, set(WORD.findall(text))
        self.order = sorted(range(len(text)), key=lambda i: text[i : i + longest])

    def __contains__(self, piece: str) -> bool:
        n = len(piece)
        i = bisect_left(self.order, piece, key=lambda j: self.text[j : j + n])
        return i < len(self.order) and self.text.startswith(piece, self.order[i])

    def longest_run(self, text: str) -> int:
        """The most characters in a row that stand so in the training text. A window that never shrinks finds them."""
        n = 0
        for i in range(len(text)):
            while i + n < len(text) and text[i : i + n + 1] in self:
                n += 1
        return n


def measures(texts: list[str], start: int, training: Verbatim) -> dict[str, tuple[float, np.ndarray]]:
    """All of it about text[start:] of each text; what stands before was given."""
    written, words = [t[start:] for t in texts], [whole_words(t, start) for t in texts]
    fours = tally([[t[i : i + 4] for i in range(len(t) - 3)] for t in written])
    return {
        "entropy": leave_one_out(entropy, fours),  # of 4-grams of characters, over all texts
        "text_entropy": average([entropy(c) for c in tally(written)]),  # of characters, within a text
        "distinct_4grams": leave_one_out(lambda c: kinds(c) / np.maximum(c.sum(-1), 1), fours),
        "distinct_words": leave_one_out(kinds, tally(words)),  # how many, in equally many characters
        "known_words": leave_one_out(ratio, [(sum(w in training.words for w in row), len(row)) for row in words]),
        "longest_run": average([training.longest_run(t) for t in written]),
    }


def average(values) -> tuple[float, np.ndarray]:
    """The mean over texts."""
    return leave_one_out(ratio, np.stack([np.asarray(values, dtype=float), np.ones(len(values))], 1))


def matched(curve: list[dict[str, tuple]], at: str, target: tuple) -> dict[str, tuple] | None:
    """Every measure of a curve of samples where its measure `at` is the target's, by a straight line between the first
    two neighbours around it; None if there are none. The i-th texts belong together, so leaving out goes through."""
    for low, high in zip(curve, curve[1:], strict=False):
        a, b = low[at], high[at]
        if min(a[0], b[0]) <= target[0] <= max(a[0], b[0]) and a[0] != b[0] and (a[1] != b[1]).all():
            share = [(t - x) / (y - x) for t, x, y in zip(target, a, b, strict=True)]  # of all texts; without each
            return {k: tuple(x + s * (y - x) for s, x, y in zip(share, low[k], high[k], strict=True)) for k in low}
    return None
