"""Checks for notebook 3: letters at once, the price of a plan, passes, a step of a sampler."""

import torch

from check.exercise import EMPTY, NotYet, ask, compare, exercise, tensor
from microdlm.oracle import MarkovDenoiser
from microdlm.pacing import expected_passes, parallel_bound


@exercise
def valid(mine):
    """my_valid(k): the probability that k letters of ABAB.., drawn at once, fit together."""
    k = torch.tensor([1.0, 2.0, 3.0, 8.0]).double()
    found = torch.stack([tensor(ask(mine, int(n))) for n in k])
    compare(
        found,
        2 ** (1 - k),
        {
            "This is the probability of one particular text. Two texts are possible: the first letter is free.": 2**-k,
            "The first letter is free, but then each of the others must fit: k - 1 coins.": torch.full((4,), 0.5),
            "They do not see each other: nothing makes them fit.": torch.ones(4),
            "1/k: each of the k letters is a coin of its own. Coins multiply.": 1 / k,
            "Only k - 1 letters have to fit: with k = 1 nothing can go wrong.": 2 ** -(k + 1),
        },
        tell="For k = 1, 2, 3, 8",
    )
    return "1, 1/2, 1/4, .., 1/128 for eight at once. The denoiser is perfect; it is the haste."


@exercise
def price(mine):
    """my_price(curve, plan): nats per token."""
    curve = torch.tensor([0.2, 0.5, 0.9, 1.4, 2.1, 3.0]).double()
    for plan in ([2, 1, 3], [1, 1, 1, 1, 1, 1], [6]):
        before = [sum(plan[i:]) for i in range(len(plan))]
        after = [n - k for n, k in zip(before, plan, strict=True)]
        pays = [k * curve[n - 1] for n, k in zip(before, plan, strict=True)]
        compare(
            tensor(ask(mine, curve, list(plan))),
            parallel_bound(curve, plan),
            {
                "This is for the whole text. Per token: divide by L.": sum(pays),
                "You look at the curve after the pass. All tokens of a pass are asked before any of them is known: "
                "c_n with n counted before.": sum(
                    k * (curve[n - 1] if n else 0) for n, k in zip(after, plan, strict=True)
                )
                / 6,
                "Each pass costs c_n for every token that it opens: times k.": sum(curve[n - 1] for n in before) / 6,
                "That is one token at a time, whatever the plan: the mean of the curve.": curve.mean(),
                "curve[n - 1] is c_n: the first entry is one hidden token. You are one too far to the right.": sum(
                    k * curve[min(n, 5)] for n, k in zip(before, plan, strict=True)
                )
                / 6,
                "A plan begins with a blank page: n counts down from L.": sum(
                    k * curve[n - 1] for n, k in zip(_up(plan), plan, strict=True)
                )
                / 6,
            },
            tell=f"For the plan {plan}",
        )
    return "The right Riemann sum of the curve. One at a time it is the mean, the bound of notebook 4."


def _up(plan):
    return [sum(plan[: i + 1]) for i in range(len(plan))]


@exercise
def passes(mine):
    """my_passes(T, N): how many of T steps open at least one of N blanks, on average."""
    for T, N in ((40, 224), (1000, 224)):
        nothing = (1 - 1 / T) ** N
        compare(
            tensor(ask(mine, T, N)),
            expected_passes("linear", T, N),
            {
                "Every step costs a pass, you say. A step that opens nothing has nothing to ask.": T,
                "One pass for each blank, you say. Several blanks may open in the same step.": N,
                "There are never more passes than steps or blanks, but on average fewer than either.": min(T, N),
                "This counts the steps that open nothing. The others need a pass.": T * nothing,
                "This is the probability that a step opens something. There are T of them.": 1 - nothing,
                "Of N blanks, N coins: the power is N, and there are T steps.": T * (1 - (1 - 1 / N) ** T),
                "That would be so if blanks never met. They do: 1 - (1 - 1/T)^N is less than N/T.": T * (N / T),
            },
            tell=f"For T = {T}, N = {N}",
            rtol=1e-4,
        )
    return "39.86 of 40 steps, but 200.8 of 1,000: many steps are free."


@exercise
def step(mine):
    """my_step(denoiser, x, mask_id, p, rng) -> the next x."""
    language = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.8, 0.2], [0.2, 0.8]]))
    g, B = torch.Generator().manual_seed(0), 4000
    x = torch.where(torch.rand(B, 6, generator=g) < 0.5, language.sample(B, 6, g), 2)

    def denoiser(x):
        """As a network does, it says something at visible places too."""
        return torch.where((x == 2)[..., None], language(x), torch.tensor([0.5, 0.5, 0.0]).log())

    after = tensor(ask(mine, denoiser, x, 2, 0.3, torch.Generator().manual_seed(1)), x.shape, "The next x").long()
    was_open, opened = x == 2, (x == 2) & (after != 2)
    if not torch.equal(after[~was_open], x[~was_open]):
        raise NotYet("A visible token has changed. What is written stays: only MASK may open.")
    share = opened.sum() / was_open.sum()
    if share == 1:
        raise NotYet("All blanks open at once. Each opens with probability p.")
    if share == 0:
        raise NotYet("Nothing opens: either none is chosen, or MASK itself is drawn.")
    if abs(share - 0.7) < 0.03:
        raise NotYet("A share 1 - p opens: it should be p.")
    if abs(share - 0.3) > 0.03:
        raise NotYet(f"With p = 0.3 a share {share:.2f} of the blanks opens. (Is MASK drawn too?)")
    if torch.equal(opened, opened[:1].expand_as(opened)) or (opened.sum(1) == was_open.sum(1))[opened.any(1)].all():
        raise NotYet("Blanks of one text open all together or not at all: each needs a number of its own, (B, L).")
    believed = language(x).exp()[..., 1]
    guess = after[opened].double()
    if torch.equal(after[opened], language(x)[opened].argmax(-1)):
        raise NotYet("You take the most probable token. Draw one: blanks that look alike would all get the same.")
    off = (guess - believed[opened]).mean().abs() / ((believed * (1 - believed))[opened].mean() / opened.sum()).sqrt()
    sure = (believed[opened] - 0.5).double()
    lean = ((guess - believed[opened]) * sure).mean() / (
        (sure**2 * (believed * (1 - believed))[opened]).mean() / opened.sum()
    ).sqrt()
    if off > 5 or abs(lean) > 5:
        raise NotYet("Tokens are not drawn with the denoiser's probabilities (exp of what it returns, at that place).")
    return "Called with p = 1/T, 1/(T-1), .., 1/2, 1 it is the ancestral sampler, whole."


@exercise
def exact(answer):
    """Letters: which samplers write the language itself."""
    if answer is None or answer is ...:
        raise NotYet(EMPTY)
    chosen = set(str(answer).lower()) & set("abcd")
    if "d" in chosen:
        raise NotYet("d: two tokens of one pass do not see each other, a perfect denoiser or not.")
    if "c" in chosen:
        raise NotYet("c: the order depends on what was drawn, and so easy guesses win. See the middle histogram.")
    if chosen != {"a", "b"}:
        raise NotYet("One is missing: the chain rule holds in every order that is fixed beforehand.")
    return "Any order, fixed without a look at what is drawn. From left to right is one of them: a GPT's."
