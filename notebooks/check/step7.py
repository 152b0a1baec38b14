"""Checks for notebook 7: own exams, masking by type, what a difference is worth, how many questions were asked."""

import torch

from check.exercise import NotYet, ask, compare, exercise, pair, tensor
from microdlm.schedules import SCHEDULES

T = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000


@exercise
def exams(*answers):
    """Three numbers for m(u) = 1 + u: the bound, the exam under linear, the exam under sqrt."""
    names = ("the bound", "the exam under linear", "the exam under sqrt")
    hints = (
        {"The bound is the area under m, in which no schedule occurs.": 5 / 3,
         "That is m(1), the cost on a blank page. The bound is the area under m.": 2.0},
        {"That is the area under m. Where much is hidden there are more hidden tokens: weigh m(u) by u.": 3 / 2,
         "Divide by the integral of u: the exam is a mean over hidden tokens.": 5 / 6},
        {"That is the mean of m over time. A text with a share u hidden has u L votes: weigh m by u once more.": 5 / 3,
         "Divide by the integral of u, which is 2/3 here.": 7 / 6,
         "That is for u = t^2. With sqrt u is the root of t, so t = u^2 and dt = 2 u du.": 8 / 5},
    )  # fmt: skip
    for answer, name, value, known in zip(pair(answers, *names), names, (3 / 2, 5 / 3, 7 / 4), hints, strict=True):
        try:
            compare(tensor(answer), value, known)
        except NotYet as hint:
            raise NotYet(f"{name}: {hint}") from None
    return "1.5 for the model; 1.667 and 1.75 for the same model, asked in two ways. Neither is a likelihood."


@exercise
def exam(mine):
    """my_exam(m, alpha, t): the sum over hidden tokens divided by their number, expected, for t evenly spread."""
    for name, m in (("cosine", lambda u: 0.5 + 2 * u**2), ("sqrt", lambda u: 1 + u), ("linear", torch.exp)):
        alpha = SCHEDULES[name].alpha
        u = 1 - alpha(T)
        found, share = tensor(ask(mine, m, alpha, T)), u.mean()
        truth = (u * m(u)).mean() / share
        compare(
            found,
            truth,
            {
                "This is the mean of m over time: a text with one hidden token has as many votes as a blank page. Here "
                "every hidden *token* has one: weigh m(u) by u.": m(u).mean(),
                "This is the sum over hidden tokens, divided by L: divide by how many are hidden, the mean of u.": truth
                * share,
                "This is the bound, the area under m: no exam, and the same for every schedule.": m(T).mean(),
                "alpha is the share that is visible. The cost depends on u = 1 - alpha.": ((1 - u) * m(1 - u)).mean()
                / (1 - share),
                "You weigh by the share that is visible. It is the hidden tokens that are asked.": (
                    (1 - u) * m(u)
                ).mean()
                / (1 - share),
                "This is m at the mean share. A mean of m is not m of the mean.": m(share),
            },
            tell=f"For {name}",
        )
    return "From the curve of one network, all six grades: nobody has to be asked."


@exercise
def blank(mine):
    """my_blank(c, p, L): the probability that at u = 1 all L tokens are hidden; type v has share p_v and factor c_v."""
    c, p, L = torch.tensor([0.5, 0.8, 1.5]).double(), torch.tensor([0.3, 0.2, 0.5]).double(), 8
    found, hidden = tensor(ask(mine, c, p, L)), (p * c.clamp(max=1)).sum()
    compare(
        found,
        hidden**L,
        {
            "A probability ends at 1: the clamp is missing, min(1, c u).": (p * c).sum() ** L,
            "That is one token. All L have to be hidden, each on its own.": hidden,
            "That is the expected number of hidden tokens.": L * hidden,
            "That is the chance of a text of the hardest type only. Types are mixed: first the mean over them.": c.min()
            ** L,
            "These are the shares to the power of L, before the mean: a text need not be of one type.": p
            @ c.clamp(max=1) ** L,
            "So it would be if u = 1 hid everything. Types with c below 1 are never sure to be hidden.": 1.0,
            "That is the chance that nothing is hidden.": (1 - hidden) ** L,
        },
        tell="For c = .5 .8 1.5, p = .3 .2 .5, L = 8",
    )
    return (
        "A blank page is what writing begins with; in training such a network hardly meets one. (Of 64 tokens: never.)"
    )


@exercise
def effect(mine):
    """my_effect(a, b) -> (mean, standard error) of how much worse a is; a, b (S, N): seeds, windows."""
    g = torch.Generator().manual_seed(3)
    text, luck = torch.randn(200, generator=g).double() / 4, torch.randn(3, 1, generator=g).double() / 10
    a, b = (
        2 + text + luck + own + torch.randn(3, 200, generator=g).double() / 20
        for own in (torch.tensor([[0.07], [0.02], [0.06]]), torch.tensor([[-0.01], [0.02], [0.0]]))
    )
    mean, error = pair(ask(mine, a, b), "mean difference", "standard error")
    d = a - b
    by_seed = d.mean(1)
    compare(tensor(mean, what="The mean"), d.mean(), {"The sign: above 0 where a is worse.": -d.mean()}, "The mean")
    compare(
        tensor(error, what="The standard error"),
        by_seed.std() / 3**0.5,
        {
            "That treats 600 windows as 600 trainings. There were three: first the mean over windows, then the scatter "
            "of those three.": d.std() / 600**0.5,
            "That says how far other *texts* could lie. The question is whether another *training* would say the "
            "same: take the mean over windows first.": d.mean(0).std() / 200**0.5,
            "The seeds are shared: what a seed does to both cancels in the difference. Take it first.": (
                (a.mean(1).var() + b.mean(1).var()) / 3
            ).sqrt(),
            "That is the scatter of one training. The mean of three scatters less.": by_seed.std(),
            "Divide the sum of squares by S - 1, not by S: the mean was taken from the same three.": by_seed.std(
                correction=0
            )
            / 3**0.5,
        },
        tell="The standard error",
    )
    return "What was repeated is the training. So n is 3, however many windows there are."


@exercise
def alarms(mine):
    """my_alarms(n, level) -> (chance of at least one false alarm, level for each by Bonferroni)."""
    for n, level in ((8, 0.95), (6, 0.9)):
        chance, each = pair(ask(mine, n, level), "chance of a false alarm", "level for each")
        compare(
            tensor(chance, what="The chance"),
            1 - level**n,
            {
                "That many false alarms are *expected*. The chance of at least one is less: some studies have two.": n
                * (1 - level),
                "That is the chance that there is none.": level**n,
                "That is the chance of one comparison. Here are several.": 1 - level,
            },
            tell=f"The chance for n = {n}, level {level}",
        )
        compare(
            tensor(each, what="The level"),
            1 - (1 - level) / n,
            {
                "That is the error that each may make. Its level is 1 less that.": (1 - level) / n,
                "It is the error that is shared out, not the level.": level / n,
                "So together they would err more often than one: each has to be surer, not as sure.": level,
                "Each has to be surer than the whole, not less sure.": level**n,
            },
            tell=f"The level for n = {n}, together {level}",
            rtol=5e-4,  # level^(1/n), which is right for independent ones, is as good
        )
    return "Eight looks at nothing at 95% each: 34% to see something. At 99.4% each, 5%."


@exercise
def floor(mine):
    """my_floor(a, b): scores (maskings, seeds) of two arms that are equal -> what a difference of nothing can be."""
    a = torch.tensor([[2.01, 1.97, 2.03], [2.05, 1.94, 2.00]]).double()
    b = torch.tensor([[2.03, 1.98, 2.02], [2.04, 1.99, 1.97]]).double()
    d = a - b
    compare(
        tensor(ask(mine, a, b)),
        d.abs().max(),
        {
            "That is the difference of the means: ups and downs cancel. How large can *one* be?": d.mean().abs(),
            "That is the usual difference. The floor is the largest that equal arms have shown.": d.abs().mean(),
            "Up or down, both are noise: the absolute value is missing.": d.max(),
            "That is the largest in the wrong direction, with its sign: take the absolute value.": d.min(),
            "That is between any two runs, and seeds differ by more than arms do. Same seed, same masking.": torch.cat(
                [a, b]
            ).max()
            - torch.cat([a, b]).min(),
            "That is the scatter of the differences. The floor is the largest of them.": d.std(),
        },
        tell="For two maskings and three seeds",
    )
    return "Two arms that differ by one part in a thousand differed by this much. What is smaller has not been seen."
