"""Solutions to notebook 7. One function, or the numbers, for each check of the same name."""

exams = (
    3 / 2,  # the area under 1 + u
    5 / 3,  # u = t: the integral of u (1 + u) over that of u, (1/2 + 1/3) / (1/2)
    7 / 4,  # u = sqrt(t), so dt = 2 u du: u^2 (1 + u) over u^2, (1/3 + 1/4) / (1/3)
)


def exam(m, alpha, t):
    u = 1 - alpha(t)
    return (u * m(u)).mean() / u.mean()  # every hidden token has one vote, and at u there are u L of them


def blank(c, p, L):
    return (p @ c.clamp(max=1)) ** L  # at u = 1 a token of type v is hidden with probability min(1, c_v)


def effect(a, b):
    d = (a - b).mean(1)  # one difference for each seed: what was repeated is the training
    return d.mean(), d.std() / len(d) ** 0.5


def alarms(n, level):
    return 1 - level**n, 1 - (1 - level) / n  # at least one of n; Bonferroni shares the allowed error out


def floor(a, b):
    return (a - b).abs().max()
