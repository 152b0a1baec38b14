"""Checks for notebook 0: schedules, masks, how many, and the way back."""

import math

import torch

from check.exercise import NotYet, ask, compare, exercise, pair, tensor
from microdlm.schedules import SCHEDULES

T = torch.linspace(0, 1, 11, dtype=torch.float64)
MASK = 9


@exercise
def alpha(mine):
    """my_alpha(t): the cosine schedule, for t (n,) in [0, 1]."""
    truth = SCHEDULES["cosine"].alpha(T)
    compare(
        tensor(ask(mine, T), T.shape),
        truth,
        {
            "This is u(t) = 1 - alpha(t), the share that is hidden. alpha is the share that is still visible.": 1
            - truth,
            "This is the other cosine, 1 - sin(pi t / 2): it hides early. Here alpha(1/2) should be 0.7071.": 1
            - torch.sin(math.pi / 2 * T),
            "Time runs backwards: alpha(0) should be 1, a clean text, and alpha(1) should be 0.": torch.sin(
                math.pi / 2 * T
            ),
            "cos(pi t) falls to -1, and a probability cannot. A quarter of a turn is enough.": torch.cos(math.pi * T),
            "This is the square of it. It is a schedule too, but not the one that is asked for.": truth**2,
            "cos takes radians: 90 degrees are pi / 2.": torch.cos(90 * T),
            "This is the straight line. The cosine stays near 1 at first: cos(pi t / 2).": 1 - T,
        },
        tell="alpha(t) at t = 0, 0.1, 0.2, ..",
    )
    return "At t = 1/2 a token is still visible with probability 0.7071."


@exercise
def mask(mine):
    """my_mask(x_0, alpha_t, mask_id, rng) -> (x_t, is_masked)."""
    x_0 = torch.randint(MASK, (600, 50), generator=_seeded(1))
    levels = torch.linspace(0, 1, 600)
    x_t, is_masked = _masks(mine, x_0, levels)
    _same_story(x_0, x_t, is_masked)
    share = is_masked.double().mean(1)
    if share[:100].mean() < share[-100:].mean():
        raise NotYet("Where alpha is large, much is hidden. alpha is the probability to stay visible.")
    half = torch.full((600,), 0.5)
    _, at_half = _masks(mine, x_0, half)
    count = at_half.sum(1).double()
    if ((count == 0) | (count == 50)).all():
        raise NotYet("Each text is all visible or all hidden: every token needs a number of its own, (B, L) of them.")
    if (at_half == at_half[0]).all():
        raise NotYet("All texts have the same holes: draw (B, L) numbers, not (L,).")
    if count.std() < 1:
        raise NotYet("The count is always the same. Each token decides for itself, so the count scatters.")
    expected, error = 600 * 50 * 0.5, math.sqrt(600 * 50 / 4)
    if abs(count.sum() - expected) > 5 * error:
        raise NotYet(f"At alpha = 0.5 you hide {count.sum() / 30_000:.1%} of all tokens: it should be half of them.")
    if not torch.equal(at_half, _masks(mine, x_0, half)[1]):
        raise NotYet("The same generator state must give the same mask: hand `generator=rng` to torch.rand.")
    if (at_half & ~_masks(mine, x_0, 0.4 * half / 0.5)[1]).any():
        raise NotYet("With the same numbers and a smaller alpha, letters come back. Compare the numbers with alpha.")
    return "Tokens hide independently, at the right rate; and with the same numbers nothing comes back."


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _masks(mine, x_0, alpha_t):
    found = pair(ask(mine, x_0, alpha_t, MASK, _seeded()), "x_t", "is_masked")
    return [tensor(part, x_0.shape, what).bool() if what == "is_masked" else tensor(part, x_0.shape, what).long()
            for part, what in zip(found, ("x_t", "is_masked"), strict=True)]  # fmt: skip


def _same_story(x_0, x_t, is_masked) -> None:
    if torch.equal(x_t == MASK, ~is_masked):
        raise NotYet("is_masked is upside down: it should be True where x_t holds MASK.")
    if not torch.equal(x_t == MASK, is_masked):
        raise NotYet("is_masked does not say where x_t holds MASK.")
    if not torch.equal(x_t[~is_masked], x_0[~is_masked]):
        raise NotYet("A visible token has become another one. What is not hidden stays as it is.")


@exercise
def count(mine):
    """my_count(L, u) -> (mean, standard deviation) of how many of L tokens are hidden."""
    for L, u in ((100, 0.2), (256, 1 - math.cos(math.pi / 4))):
        mean, spread = (tensor(part, what=what) for part, what in zip(
            pair(ask(mine, L, u), "mean", "standard deviation"), ("The mean", "The standard deviation"), strict=True
        ))  # fmt: skip
        compare(mean, L * u, {"The mean counts the visible tokens. u is the share hidden.": L * (1 - u)}, "The mean")
        variance = L * u * (1 - u)
        compare(
            spread,
            math.sqrt(variance),
            {
                "This is the variance. The standard deviation is its square root.": variance,
                "sqrt(L u) is right only while u is small: a count of L coins has variance L u (1 - u).": math.sqrt(
                    L * u
                ),
                "This is the spread of a share, not of a count: times L.": math.sqrt(u * (1 - u) / L),
            },
            "The standard deviation",
        )
    return "Of 256 tokens at t = 1/2 the cosine hides 75.0 ± 7.3."


@exercise
def mean_share(answer):
    """A number: what share of a text the cosine hides on average, when t is uniform."""
    compare(
        tensor(answer),
        1 - 2 / math.pi,
        {
            "This is the mean of t. A schedule decides how t becomes a share: average u(t), not t.": 0.5,
            "This is u(1/2), the share at the mean time. The mean of u(t) is another number: u is no straight line.": 1
            - math.cos(math.pi / 4),
            "This is what stays visible on average (and what the other cosine hides).": 2 / math.pi,
            "This is alpha(1/2), the share visible in the middle.": math.cos(math.pi / 4),
        },
        rtol=2e-3,
    )
    return "1 - 2/pi = 0.3634. The other cosine hides 2/pi = 0.6366: two curves, one name."


@exercise
def opens(mine):
    """my_opens(alpha_s, alpha_t): the probability that a token hidden at t is visible at the earlier s."""
    alpha_s, alpha_t = torch.tensor([1.0, 0.9, 0.6, 0.5]).double(), torch.tensor([0.5, 0.4, 0.0, 0.5]).double()
    compare(
        tensor(ask(mine, alpha_s, alpha_t), (4,)),
        (alpha_s - alpha_t) / (1 - alpha_t),
        {
            "This is the probability to be hidden between s and t, of any token. Ours is known to be hidden at t: "
            "divide by the probability of that.": alpha_s - alpha_t,
            "This looks forward: of tokens visible at s, the share that is hidden by t. Look back from t: divide by "
            "P(hidden at t).": (alpha_s - alpha_t) / alpha_s,
            "This is P(visible at s) as if nothing were known of t.": alpha_s,
            "This is the probability that it stays hidden. What opens is the rest.": (1 - alpha_s) / (1 - alpha_t),
        },
        tell="alpha_s = 1, .9, .6, .5 and alpha_t = .5, .4, 0, .5",
    )
    return "Bayes' rule, with one letter for every word of it. The samplers of notebook 3 are made of this line."
