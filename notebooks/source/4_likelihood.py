# %% [markdown]
# # 4. When is masked cross-entropy a likelihood?
#
# A GPT's loss is $-\log p(\text{text})$, exactly. A diffusion model's loss is the cross-entropy of letters that were
# hidden. The second looks like the first and is printed in the same unit. It *is* a bound on the first, but only if
# it is weighted and normalised in one particular way, and many published "validation losses" are not.
#
# Here are the five lines of algebra that lead from one to the other. Each is followed by a cell that computes both of
# its sides. There is a denoiser that makes no errors in this notebook, so whatever is wrong is the formula's fault.
#
# *You need* notebooks 0 (masking) and 2 (the curve). *The step* of the same name is `steps/step4_likelihood.py`; it
# does the same at full size.

# %%
import itertools
import math
from fractions import Fraction
from functools import partial

import check
import matplotlib.pyplot as plt
import torch
from show import BLUE, COLOURS, agree, plain, size, slider

from microdlm.corpus import load_corpus
from microdlm.lesson import fit
from microdlm.likelihood import estimate_nelbo, exact_curve, left_to_right_nll
from microdlm.masking import mask_count, mask_tokens, stratified, to_count
from microdlm.objectives import count_nelbo, denoise_log_probs, masked_nll
from microdlm.oracle import MarkovDenoiser
from microdlm.playlets import Playlets
from microdlm.schedules import SCHEDULES, complete
from microdlm.state import TrainConfig
from microdlm.transformer import Transformer, TransformerConfig

rng = torch.Generator().manual_seed(0)

# %% [markdown]
# ## A language without secrets
#
# Two letters, 0 and 1. The first is a fair coin; after that a letter comes again with probability 0.9. Of such a
# chain $p(x_i \mid \text{visible letters})$ can be computed, and `MarkovDenoiser` does. MASK is id 2.

# %%
L = 8
sticky = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
x_t = torch.tensor([[0, 2, 2, 0, 2, 2, 2, 1]])
print("visible:", "  ".join("·" if i == 2 else str(i) for i in x_t[0].tolist()))
print("P(0):  ", " ".join(f"{p:.2f}" for p in sticky(x_t).exp()[0, :, 0].tolist()))

texts = sticky.sample(8, L, rng)
print("\neight texts and their exact nats per letter:")
for x, nats in zip(texts, sticky.nll(texts), strict=True):
    print("  ", "".join(map(str, x.tolist())), f"{nats:.3f}")

# %% [markdown]
# ## What is known before any training: SUBS
#
# A denoiser returns logits. Two things about $p(x_0 \mid x_t)$ need not be learned. Clean text holds no MASK, so MASK
# gets no probability. And a visible letter *is* $x_0$, so all of the probability goes there. Without the first, some
# probability leaks away and every likelihood is too large by $-\log(1 - p(\text{MASK}))$.
#
# ### Exercise 4.1: from logits to log-probabilities


# %%
def my_log_probs(logits, x_t, mask_id):
    """logits (B, L, V), x_t (B, L) -> log p(x_0 | x_t), (B, L, V). MASK gets none, visible tokens are certain."""
    ...


# %%
check.step4.subs(my_log_probs)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Put `-torch.inf` at `logits[..., mask_id]` of a copy, then `log_softmax(-1)`. For visible tokens make a row that is
# 0 at the token and -inf elsewhere: the logarithm of `one_hot`. `torch.where` picks one or the other. The solution is
# in [solutions/step4.py](solutions/step4.py).
# </details>

# %% [markdown]
# ## Line 0. A bound, by Jensen
#
# Text $x_0$ is dissolved in $T$ small steps, $x_0 \to \dots \to x_1$ = nothing but MASK; this process $q$ is known.
# The model $p$ runs it backwards. For any such pair
#
# $$-\log p(x_0) \;\le\; \sum_{\text{steps } t \to s} \mathbb{E}_{x_t \sim q}\;
#   \mathrm{KL}\big(\, q(x_s \mid x_t, x_0) \;\|\; p(x_s \mid x_t) \,\big),$$
#
# because $-\log$ of a mean is at most the mean of $-\log$. There is no term for the start, for all texts end as the
# same page of MASKs. (If a schedule stops short of that, there is one: see "The ends" below.)
#
# ## Line 1. What one step costs
#
# Take one token that is hidden at $t$. At the earlier time $s$ it has opened with probability $r = \frac{\alpha_s -
# \alpha_t}{1 - \alpha_t}$ (exercise 0.5), and if so it shows $x_0$. The model opens it with the same probability, and
# then shows $v$ with probability $\mu_v = p(x_0 = v \mid x_t)$. So both stay at MASK with $1 - r$, that part cancels,
# and
#
# $$\mathrm{KL} \;=\; r \log\frac{r}{r\,\mu_{x_0}} \;=\; \frac{\alpha_s - \alpha_t}{1 - \alpha_t}\;
#   \big(-\log \mu_{x_0}\big).$$
#
# A KL divergence over $V$ outcomes has become the cross-entropy of one token.

# %%
alpha_s, alpha_t, token = 0.7, 0.4, 1
mu = torch.tensor([0.2, 0.5, 0.3])  # what the model says of a hidden token
r = (alpha_s - alpha_t) / (1 - alpha_t)
q = torch.tensor([0.0, r, 0.0, 1 - r])  # 0, 1, 2, MASK
p = torch.cat([r * mu, torch.tensor([1 - r])])
agree("KL over four outcomes, and r times cross-entropy", torch.xlogy(q, q / p).sum(), -r * mu[token].log())

# %% [markdown]
# ## Line 2. Many small steps become an integral
#
# Write $u = 1 - \alpha$ for the share that is hidden and $m(u)$ for the mean cross-entropy of a hidden token when
# each is hidden with probability $u$: the curve of notebook 2. Of $L$ tokens $uL$ are hidden, so per token
#
# $$\sum_{t \to s} \frac{u_t - u_s}{u_t}\; u_t\, m(u_t) \;=\; \sum (u_t - u_s)\, m(u_t)
#   \;\;\xrightarrow{\;T \to \infty\;}\;\; \int_0^1 m(u)\, du .$$
#
# The bound with $T$ steps is a staircase over the curve, and with more steps it becomes the area under it. For our
# language the curve is computed exactly, over all texts and all masks.

# %%
curve = exact_curve(sticky, L)  # c_1 .. c_L: what a hidden token costs when exactly k are hidden
entropy = curve.mean().item()


def m(u, curve=curve):
    """c_k averaged over how many are hidden when each is, with probability u: given one hidden token, k - 1 others."""
    u = torch.as_tensor(u, dtype=torch.float64)[..., None]
    k = torch.arange(1, len(curve) + 1)
    ways = torch.tensor([math.comb(len(curve) - 1, j - 1) for j in k.tolist()])
    return (ways * u ** (k - 1) * (1 - u) ** (len(curve) - k) * curve).sum(-1)


def staircase(T):
    """The bound with T steps at equal times, of the cosine schedule."""
    u = 1 - SCHEDULES["cosine"].alpha(torch.linspace(0, 1, T + 1).double())
    return (u.diff() * m(u[1:])).sum().item()


for T in (1, 2, 4, 8, 16, 64, 1024):
    print(f"{T:5} steps  {staircase(T):.5f} nats per token")
agree("a million steps, and the mean of c_1 .. c_L (line 4)", staircase(10**6), entropy)

# %%
u = torch.linspace(0, 1, 200).double()


def draw_stairs(ax, T):
    steps = 1 - SCHEDULES["cosine"].alpha(torch.linspace(0, 1, T + 1).double())
    ax.bar(steps[:-1], m(steps[1:]), steps.diff(), align="edge", color=BLUE, alpha=0.25, edgecolor=BLUE, linewidth=0.5)
    ax.plot(u, m(u), "--", color=COLOURS["exact"], linewidth=1.5)
    ax.set(xlabel="share hidden, u", ylim=(0, 0.72), title=f"{T} steps: {staircase(T):.3f}")


slider(draw_stairs, "steps", [1, 2, 3, 4, 6, 8, 12, 16, 32, 64], still=[2, 8, 64], sharey=True)

# %% [markdown]
# Every model is scored with infinitely many steps, the whole area. (When it *writes* in few steps, the stairs are
# back: notebook 3.)
#
# ## Line 3. The schedule cancels
#
# In training a time $t$ is drawn, not a share $u$. Substituting $u = u(t)$, $du = u'(t)\,dt = -\alpha'(t)\,dt$:
#
# $$\int_0^1 m(u)\,du \;=\; \int_0^1 \underbrace{\frac{-\alpha'(t)}{1 - \alpha(t)}}_{w(t)}\; u(t)\, m(u(t))\; dt .$$
#
# On the right is what a training script computes: draw $t$, hide tokens, sum the cross-entropy of the hidden ones,
# divide by $L$ (that gives $u\,m(u)$), and multiply by the weight $w(t)$. On the left there is no schedule any more.
# A schedule says how long one stays at each place of the curve, and the weight takes exactly that back.

# %%
part = (torch.arange(200_000).double() + 0.5) / 200_000
t, dt = part**3, 3 * part**2  # more points where t is small, for there a weight can be large
for name in ("linear", "cosine", "loglinear", "maskgit_cosine", "sqrt", "clipped_cosine", "sigmoid"):
    s = complete(SCHEDULES[name])  # whole: from clean text to nothing but MASK
    share = 1 - s.alpha(t)
    agree(f"{name}: integral over t, area under m", (s.weight(t) * share * m(share) * dt).mean(), entropy)

# %% [markdown]
# Four integrands, one area. The strokes at the top are the shares $u$ met at equal steps of time: where a schedule
# hurries they are far apart, and the weight makes up for it.


# %%
def draw_integrand(ax, name):
    s, time = SCHEDULES[name], torch.linspace(0.002, 1, 400).double()
    share = 1 - s.alpha(time)
    height = s.weight(time) * share * m(share)
    ax.fill_between(time, height, color=BLUE, alpha=0.2)
    ax.plot(time, height, color=BLUE)
    at = 1 - s.alpha(torch.linspace(0.0, 1, 13).double())
    ax.plot(at, torch.full_like(at, 1.28), "|", color="black", markersize=9)
    ax.text(0.98, 1.12, "u at equal steps of time", size=8, ha="right")
    ax.set(xlabel="time t", ylim=(0, 1.4), title=name)


slider(draw_integrand, "schedule", ["linear", "cosine", "maskgit_cosine", "sqrt"],
       still=["linear", "cosine", "maskgit_cosine", "sqrt"], figsize=(10, 2.6), sharey=True)  # fmt: skip

# %% [markdown]
# ### Exercise 4.2: the weight of the cosine
#
# $\alpha(t) = \cos(\pi t / 2)$. Compute $w(t) = -\alpha'(t) / (1 - \alpha(t))$.


# %%
def my_weight(t):
    """t (n,) in (0, 1) -> w(t), for the cosine schedule."""
    ...


# %%
check.step4.weight(my_weight)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $\alpha' = -\frac{\pi}{2}\sin\frac{\pi t}{2}$. As written, $-\alpha'/(1-\alpha)$ is 0/0 near $t = 0$ in float32;
# $\sin x / (1 - \cos x) = \cot(x/2)$ has no such trouble.
# The solution is in [solutions/step4.py](solutions/step4.py).
# </details>
#
# ### Exercise 4.3: the bound in time
#
# You are given the cross-entropy of each token (0 where nothing is hidden), which were hidden, and $w(t)$ of each
# text.


# %%
def my_nelbo(nll, is_masked, weight_t):
    """nll (B, L) nats, 0 at visible tokens; is_masked (B, L); weight_t (B,) -> (B,) nats per token."""
    ...


# %%
check.step4.nelbo(my_nelbo)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $w(t)\,u\,m(u)$: which quotient of the sum estimates $u\,m(u)$, and which estimates $m(u)$?
# The solution is in [solutions/step4.py](solutions/step4.py).
# </details>
#
# ## Line 4. Count instead of time
#
# Given $u$, the number of hidden tokens is binomial, and $k$ hidden tokens cost $k\,c_k$. So
#
# $$\int_0^1 m(u)\,du = \sum_{k=1}^{L} \binom{L}{k} \frac{k\,c_k}{L} \int_0^1 u^{k-1}(1-u)^{L-k}\,du
#   \;=\; \frac1L \sum_{k=1}^{L} c_k ,$$
#
# because the integral is $\frac{(k-1)!\,(L-k)!}{L!}$ and everything but $1/L$ cancels. Hide exactly $k$ tokens, with
# $k$ uniform from 1 to $L$, and take the *plain mean* over them: the bound, with no weight and no schedule at all.
# That is what this project trains on.

# %%
for k in range(1, L + 1):
    beta = Fraction(math.factorial(k - 1) * math.factorial(L - k), math.factorial(L))
    assert math.comb(L, k) * Fraction(k, L) * beta == Fraction(1, L)
print(f"the coefficient of every c_k is exactly 1/{L}")
agree("area under m by quadrature, mean of c_k", m((torch.arange(100_000).double() + 0.5) / 100_000).mean(), entropy)

# %% [markdown]
# ### Exercise 4.4: the bound from the curve


# %%
def my_bound(curve):
    """curve (L,): c_1 .. c_L, nats of a hidden token when k are hidden -> the bound, nats per token."""
    ...


# %%
check.step4.area(my_bound)

# %% [markdown]
# <details><summary>Hint</summary>
#
# What does line 4 say is the coefficient of $c_k$? The solution is in [solutions/step4.py](solutions/step4.py).
# </details>
#
# ## Line 5. All orders at once
#
# Hide $k$ of $L$ at random and name one of them: that is the step of a random *order* in which $L - k$ tokens are
# known already. So the mean of the $c_k$ is the chain rule, averaged over all $L!$ orders:
#
# $$\frac1L \sum_k c_k \;=\; \mathbb{E}_{\sigma}\; \frac1L \sum_{i=1}^{L} -\log p\big(x_{\sigma_i} \mid
#   x_{\sigma_1}, \dots, x_{\sigma_{i-1}}\big).$$
#
# This holds for any denoiser, trained or not. Here it is for four tokens and all 24 orders, with the exact denoiser
# and with one that answers each of the $3^4$ questions at random.

# %%
table = torch.randn(3**4, 4, 3, generator=rng).double()


def careless(x_t):
    """A denoiser that knows nothing: random logits, always the same for the same question."""
    return table[(x_t * 3 ** torch.arange(4)).sum(1)]


def nats(denoiser, x_0, hidden, i):
    """-log p of token i when the positions in `hidden` are masked."""
    x_t = x_0.clone()
    x_t[0, list(hidden)] = 2
    return -denoise_log_probs(denoiser(x_t), x_t, 2)[0, i, x_0[0, i]].item()


def by_orders(denoiser, x_0):
    orders = list(itertools.permutations(range(4)))
    return [sum(nats(denoiser, x_0, order[i:], order[i]) for i in range(4)) / 4 for order in orders]


def by_counts(denoiser, x_0):
    c = []
    for k in range(1, 5):
        sets = list(itertools.combinations(range(4), k))
        c.append(sum(nats(denoiser, x_0, s, i) for s in sets for i in s) / (k * len(sets)))
    return sum(c) / 4


x_0 = torch.tensor([[0, 0, 1, 1]])
exact, random = by_orders(sticky, x_0), by_orders(careless, x_0)
agree("careless: 24 orders, mean of c_k", sum(random) / 24, by_counts(careless, x_0))
agree("exact: 24 orders, mean of c_k", sum(exact) / 24, by_counts(sticky, x_0))
agree("exact: every single order, -log p", max(exact, key=lambda v: abs(v - exact[0])), sticky.nll(x_0)[0])
mixture = -torch.tensor(random).mul(-4).exp().mean().log().item() / 4
print(f"\ncareless, an order drawn by lot: -log p = {mixture:.4f}, and the bound {sum(random) / 24:.4f} lies above it")

# %%
fig, ax = plt.subplots(figsize=(6.5, 1.9))
for y, values, colour, name in ((1, exact, COLOURS["exact"], "exact"), (0, random, BLUE, "careless")):
    ax.plot(values, [y] * 24, "o", color=colour, alpha=0.5)
    ax.plot([sum(values) / 24] * 2, [y - 0.3, y + 0.3], color=colour)
    ax.text(-0.08, y, name, ha="right", va="center", color=colour)
ax.set(yticks=[], ylim=(-0.6, 1.6), xlim=(0, None), xlabel="nats per token, one dot an order; the stroke is the bound")
ax.set_title("24 orders of four letters")
plt.show()

# %% [markdown]
# For the exact denoiser all orders agree, and the bound is no bound but the value itself. A network's orders disagree
# a little, and the bound is their mean. So there are two things one can say against masked diffusion, and they are
# different things: its likelihood is a mean over orders, which a trained network may know unequally well; and it
# writes several tokens at once, which is not in the likelihood at all (notebook 3).
#
# ## The same by drawing
#
# Now as one does with a real model: draw texts, draw masks, average. Each line is another way to the entropy.

# %%
many = sticky.sample(size(4000, 400), L, rng)
truth = sticky.nll(many)
for name, schedule in {"in counts": None, **SCHEDULES}.items():
    e = estimate_nelbo(sticky, many, 2, samples=16, rng=rng, schedule=schedule)
    gap = e.per_sequence - truth  # the same texts: only the masks make noise
    agree(f"{name}: bound, exact -log p", e.mean, truth.mean(), error=gap.std() / len(gap) ** 0.5)

# %% [markdown]
# ## Four habits
#
# In published code the summed cross-entropy of the hidden tokens is turned into a loss in four ways. Given $u$, with
# $n$ hidden of $L$:
#
# | habit | formula | what it is |
# |---|---|---|
# | the bound | $w \cdot \text{sum} / L$ | $\int m\,du$ |
# | $n$ twice | $w \cdot \text{sum} / n$ | too large: $w \approx 1/u$ and $1/n$ say the same thing twice |
# | sum / sum | sum of the batch, by all its hidden tokens | $\int u\,m\,dt \,/ \int u\,dt$: long gaps count more |
# | no weight | $\text{sum} / L$ | $\int u\,m\,dt$: too small |
#
# One perfect denoiser, scored by each habit under each schedule:


# %%
def habit_values(name):
    """The bound on the whole way from clean text to MASK; the others as they are used, on the schedule as it is."""
    s, k = SCHEDULES[name], torch.arange(1, L + 1)
    whole, share = complete(s), 1 - s.alpha(t)
    full = 1 - whole.alpha(t)
    chance = torch.tensor([math.comb(L, j) for j in k.tolist()]) * share[:, None] ** k * (1 - share[:, None]) ** (L - k)
    bound = (whole.weight(t) * full * m(full) * dt).mean()
    twice = (s.weight(t) * (chance * curve).sum(-1) * dt).mean()
    no_weight = (share * m(share) * dt).mean()
    return {"bound": bound, "n twice": twice, "sum / sum": no_weight / (share * dt).mean(), "no weight": no_weight}


rows = {name: {habit: v.item() for habit, v in habit_values(name).items()} for name in SCHEDULES}
print(f"{'schedule':16}" + "".join(f"{habit:>11}" for habit in rows["linear"]) + f"   nats; the truth is {entropy:.4f}")
for name, row in rows.items():
    print(f"{name:16}" + "".join(f"{v:11.4f}" for v in row.values()))

# %%
fig, ax = plt.subplots(figsize=(7, 3.2))
ax.axvline(entropy, ls="--", color=COLOURS["exact"])
looks = {
    "bound": ("o", "diffusion"),
    "n twice": ("D", "another"),
    "sum / sum": ("s", "other"),
    "no weight": ("^", "masked"),
}
for habit, (marker, colour) in looks.items():
    ax.plot([row[habit] for row in rows.values()], range(len(rows)), marker, color=COLOURS[colour])
    beside = (-8, "right") if habit == "no weight" else (8, "left")
    where = dict(xytext=(beside[0], 0), textcoords="offset points", ha=beside[1], va="center")
    ax.annotate(habit, (rows["sigmoid"][habit], 5), color=COLOURS[colour], **where)
ax.set_yticks(range(len(rows)), rows)
ax.set(ylim=(6.5, -0.5), xlim=(0.1, 0.9), xlabel="nats per token")
ax.set_title("One perfect denoiser, four habits, seven schedules")
plt.show()

# %% [markdown]
# By "sum / sum" the clipped cosine beats the sigmoid by 0.14 nats, and there is nothing to beat: it is the same
# denoiser, and it is perfect. **A training loss under a schedule ranks schedules by how easy their exam is.**
#
# ### Exercise 4.5: the habits on paper
#
# 16 independent tokens, four equally likely values each, the linear schedule ($u = t$, $w = 1/t$), a perfect
# denoiser. What are the following on average, in nats for all 16 tokens?
#
# 1. $1/t$ times the sum over hidden tokens
# 2. the sum, without a weight
# 3. the mean over hidden tokens, times 16, without a weight (some token is always hidden)
#
# And what happens to $1/t$ times the *mean*, times 16?

# %%
my_first, my_second, my_third = ..., ..., ...

# %%
check.step4.habits(my_first, my_second, my_third)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Every hidden token costs $\ln 4$ whatever is visible, so only the number of hidden tokens is random: $16\,t$ on
# average, and $t$ is 1/2 on average. For the last question: what is $\int_0^1 \frac{1}{t}\,dt$? The solution is in
# [solutions/step4.py](solutions/step4.py).
# </details>
#
# ## The ends
#
# Some schedules never reach clean text, or never reach nothing but MASK. Their integral covers only a part of the
# curve, from $u(0)$ to $u(1)$, and the area of a part is less than the whole: **lower than the truth, and no bound**.
# Take the language of two texts, ABAB.. and BABA... One visible letter tells everything, so a hidden letter costs
# something only when all are hidden: $m(u) = u^{L-1} \ln 2$.

# %%
toy = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
toy_curve = torch.zeros(16).double()
toy_curve[-1] = math.log(2)
agree("c_1 .. c_8 of the toy, summed (exact enumeration)", exact_curve(toy, 8).sum(), math.log(2))

whole_area = 16 * m((torch.arange(50_000).double() + 0.5) / 50_000, toy_curve).mean()
agree("16 tokens, the whole way: nats in all, ln 2", whole_area, math.log(2))
for name in ("loglinear", "sigmoid", "clipped_cosine"):
    low, high = SCHEDULES[name].ends
    part = low + (high - low) * (torch.arange(50_000).double() + 0.5) / 50_000
    print(f"{name:16} u from {low:.3f} to {high:.3f}: {16 * (high - low) * m(part, toy_curve).mean():.4f} nats")

# %%
fig, axes = plt.subplots(1, 3, figsize=(9, 2.7), sharey=True, layout="constrained")
for ax, name in zip(axes, ("loglinear", "sigmoid", "clipped_cosine"), strict=True):
    low, high = SCHEDULES[name].ends
    inside = torch.linspace(low, high, 200).double()
    ax.plot(u, m(u, toy_curve), "--", color=COLOURS["exact"], linewidth=1.5)
    ax.fill_between(inside, m(inside, toy_curve), color=BLUE, alpha=0.4)
    ax.set(xlim=(0.6, 1.005), xlabel="share hidden, u", title=name)
axes[0].set_ylabel("m(u), nats")
plt.show()

# %% [markdown]
# ### Exercise 4.6: what is found between the ends
#
# A schedule walks from $u_0$ to $u_1$. How many of the $\ln 2$ nats of ABAB.. does its integral find?


# %%
def my_missing(L, u_0, u_1):
    """L letters, the share hidden goes from u_0 to u_1 -> nats for the whole text."""
    ...


# %%
check.step4.missing(my_missing)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $L \int_{u_0}^{u_1} u^{L-1} \ln 2 \; du$. The solution is in [solutions/step4.py](solutions/step4.py).
# </details>
#
# ## The noise of a draw
#
# All forms have the same mean, and not the same scatter. One text and one mask give one number: $w(t)$ times a sum of
# which most is 0 while $t$ is small. Its mean square is about $\int w^2\, u\, dt$ near $t = 0$. For the linear
# schedule that is $\int \frac{1}{t^2}\, t\, dt = \int \frac{dt}{t}$: **infinite**. Rare draws are huge, and an error
# bar that is computed from the scatter of such draws promises too much. (The cosine has $u \sim t^2$ and gets away
# with it.) In counts there is no weight: nothing is ever huge.

# %%
one = sticky.sample(size(64_000, 6400), L, rng)


def single_draws(name):
    """One number for each text: k uniform in counts, or t uniform."""
    if name == "in counts":
        x_t, hidden = mask_count(one, torch.randint(1, L + 1, (len(one),), generator=rng), 2, rng)
        return count_nelbo(masked_nll(sticky, one, x_t, hidden, 2), hidden)
    time = torch.rand(len(one), generator=rng, dtype=torch.float64).clamp(min=1e-9)
    x_t, hidden = mask_tokens(one, SCHEDULES[name].alpha(time), 2, rng)
    return SCHEDULES[name].weight(time) * masked_nll(sticky, one, x_t, hidden, 2).sum(1) / L


for name in ("in counts", "cosine", "linear", "maskgit_cosine", "sqrt"):
    draws = single_draws(name)
    batches = draws.view(-1, 64).mean(1)  # a training step's loss: the mean of 64 draws
    half = (batches - entropy).abs().median()
    print(f"{name:16} half of all batches of 64 lie within ± {half:.3f}; the largest single draw is {draws.max():8.1f}")

# %% [markdown]
# ## A network
#
# Now a network that is small and not perfect, on the built-in language, whose exact $-\log p$ is known. It is trained
# on the count form. Its bound; its exact value when it writes from left to right (one order, the chain rule); the
# truth.

# %%
corpus = load_corpus("playlets", n_chars=size(1_000_000, 50_000))
mask_id, window = corpus.tokenizer.mask_id, 64
net = Transformer(TransformerConfig(mask_id + 1, window, n_layer=3, n_head=2, d_model=96), rng)


def loss(model, x_0, rng):
    """Line 4, one draw for each text: k stratified over the batch."""
    k = to_count(stratified(len(x_0), rng=rng), x_0.size(1))
    x_t, hidden = mask_count(x_0, k, mask_id, rng)
    return count_nelbo(masked_nll(model, x_0, x_t, hidden, mask_id), hidden).mean()


losses = fit(net, TrainConfig(steps=size(1500, 10), batch_size=8, lr=2e-3), loss, corpus.batch, "cpu", "training")
held_out = corpus.windows(window, size(48, 4))
with torch.no_grad():
    bound = estimate_nelbo(net, held_out, mask_id, samples=size(64, 8), rng=rng)
    in_order = left_to_right_nll(net, held_out, mask_id)
language = Playlets().denoiser().nll(held_out)
print(f"bound, mean over all orders   ≤ {bound.mean:.3f} ± {bound.stderr:.3f} nats per character")
print(f"left to right, one order      = {in_order.mean():.3f}")
print(f"the language itself           = {language.mean():.3f}")
assert bound.mean > language.mean() and in_order.mean() > language.mean()

# %% [markdown]
# And the same network by two schedules, each with its weight: the same number again, within the noise.

# %%
by = partial(estimate_nelbo, net, held_out, mask_id, size(64, 8), given=0)
for name in ("cosine", "maskgit_cosine"):
    e = by(rng=rng, schedule=SCHEDULES[name])
    gap = e.per_sequence - bound.per_sequence
    agree(f"network, {name}: in time, in counts", e.mean, bound.mean, error=gap.std() / len(gap) ** 0.5)
print("\na held-out text:", plain(corpus.tokenizer, held_out[0]))

# %% [markdown]
# ## To take away
#
# * Masked cross-entropy is a bound on $-\log p$ if the **sum** over hidden tokens is divided by $L$ and multiplied by
#   $w(t)$, or if $k \sim U\{1..L\}$ are hidden and the **mean** is taken, with no weight.
# * The bound of a given denoiser is the same under every schedule. A schedule changes the noise, and what training
#   sees.
# * With exact conditionals the bound is the entropy. Bad text from few steps is another matter.
# * A schedule that stops short of either end leaves out part of the area.
#
# **Still missing.** A GPT's exact value on the same text, and what either of them costs to write with: notebook 5.
