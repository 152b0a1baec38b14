# %% [markdown]
# # 0. What is noise, for text?
#
# An image can be made a little noisier: add a little to every pixel. There is nothing a little beside the letter *e*.
# So the noise of text is another one: some of its tokens are hidden, behind one more symbol, **MASK**. Hide more and
# more of them and the text dissolves. A diffusion language model learns to go the other way.
#
# This notebook is about hiding only. It is the easy half, and all formulas of the hard half are made from it.
#
# *You need* Python and a little probability. *The step* of the same name is `steps/step0_masking.py`. Nothing is
# trained.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
from show import BLUE, COLOURS, DOT, GREY, agree, plain, size, slider

from microdlm.corpus import load_corpus
from microdlm.masking import mask_tokens
from microdlm.schedules import SCHEDULES

corpus = load_corpus("playlets", n_chars=200_000)  # tiny theatre scenes, made on the spot: no download
mask_id, L = corpus.tokenizer.mask_id, 64
x_0 = corpus.windows(L, n=1)
rng = torch.Generator().manual_seed(0)
print(plain(corpus.tokenizer, x_0[0]))
print(x_0[0, :12].tolist(), "..  MASK is id", mask_id)

# %% [markdown]
# MASK has an id that no letter has: one more than the alphabet. If it were a letter that the text uses itself, say a
# blank, nobody could tell a hidden token from a visible one.
#
# ## A token's one number
#
# Time $t$ runs from 0, all visible, to 1, all hidden. A **schedule** is one falling curve, $\alpha(t)$: the
# probability that a token is still visible at time $t$. How to make it so is simple. At the beginning every token $i$
# draws one number $r_i$, uniform on $[0, 1)$, and keeps it. It is visible as long as
#
# $$r_i < \alpha(t).$$
#
# Two things follow. $P(\text{visible at } t) = P(r_i < \alpha(t)) = \alpha(t)$, as it should be. And since $\alpha$
# only falls, **a token that is hidden stays hidden**: MASK is an absorbing state, and the masks are nested in $t$.

# %%
alpha = SCHEDULES["cosine"].alpha
r = torch.rand(L, generator=rng)


def hide(t):
    """The text at time t. Every call compares with the same r."""
    return torch.where(r < alpha(torch.tensor(t)), x_0[0], mask_id)


for t in (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
    x_t = hide(t)
    print(f"t = {t:.1f}  {(x_t == mask_id).double().mean():4.0%} hidden  {plain(corpus.tokenizer, x_t)}")

states = torch.stack([hide(t) == mask_id for t in torch.linspace(0, 1, 101).tolist()])
came_back = (states[:-1] & ~states[1:]).sum().item()
print(f"\nletters that came back in 100 steps: {came_back}")
assert came_back == 0

# %% [markdown]
# So each token has its own hour: the time $\tau_i$ at which $\alpha(\tau_i) = r_i$. The whole dissolving of a text is
# nothing but these $L$ numbers, drawn once. In the picture a letter stands at the height of its hour, and the dashed
# line is now: as it rises, it passes one letter after the other, and what lies below it is hidden. At the bottom is
# $x_t$.

# %%
hours = SCHEDULES["cosine"].time(1 - r)  # the inverse of the schedule: when is a share u hidden?
letters = plain(corpus.tokenizer, x_0[0])


def draw_hours(ax, t, first=40):
    for i, (letter, hour) in enumerate(zip(letters[:first], hours[:first].tolist(), strict=True)):
        gone = hour <= t
        ax.plot([i, i], [0, min(hour, t)], color=BLUE, linewidth=1, alpha=0.25)
        ax.text(i, hour, letter, color=GREY if gone else "black", family="monospace", ha="center", va="center", size=9)
        ax.text(i, -0.1, DOT if gone else letter, color=GREY if gone else "black", family="monospace", ha="center")
    ax.axhline(t, color=COLOURS["exact"], linestyle="--", linewidth=1)
    ax.set(xlim=(-1, first), ylim=(-0.14, 1.04), xticks=[], yticks=[0, 0.5, 1], ylabel="time t")
    ax.set_title(f"t = {t}: below the line, hidden")
    ax.grid(False)


slider(draw_hours, "time t", [i / 20 for i in range(21)], still=[0.3, 0.6, 0.9], across=False)

# %% [markdown]
# ### Exercise 0.1: a schedule
#
# The *cosine* stays near 1 at first and then falls: a quarter of a cosine wave, from 1 at $t = 0$ to 0 at $t = 1$.


# %%
def my_alpha(t):
    """t (n,) in [0, 1] -> alpha(t) (n,): the probability that a token is still visible."""
    ...


# %%
check.step0.alpha(my_alpha)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.cos` takes radians. A full wave is $2\pi$; a quarter of it? The solution is in
# [solutions/step0.py](solutions/step0.py).
# </details>
#
# ### Exercise 0.2: hide
#
# Now for a batch: $B$ texts of $L$ tokens, each text with a rate of its own, `alpha_t` (B,).


# %%
def my_mask(x_0, alpha_t, mask_id, rng):
    """x_0 (B, L), alpha_t (B,) -> x_t (B, L), is_masked (B, L) bool. Draw with torch.rand(..., generator=rng)."""
    ...


# %%
check.step0.mask(my_mask)

# %% [markdown]
# <details><summary>Hint</summary>
#
# One number for each token: `torch.rand(x_0.shape, generator=rng)`. To compare (B, L) with (B,) write `alpha_t[:,
# None]`. `masked_fill` makes a new tensor, `masked_fill_` spoils the clean text. The solution is in
# [solutions/step0.py](solutions/step0.py).
# </details>
#
# ## How many are hidden?
#
# With $u = 1 - \alpha(t)$ each of $L$ tokens is hidden independently with probability $u$. So the count is binomial:
#
# $$\mathbb{E}[n] = L\,u, \qquad \mathrm{Var}[n] = L\,u\,(1 - u).$$
#
# Of 256 tokens at $t = 1/2$ the cosine hides $u = 1 - \cos\frac{\pi}{4} = 0.293$: that is $75.0 \pm 7.3$. Thousands
# of texts agree.

# %%
n_texts, length = size(20_000, 2000), 256
texts = corpus.batch(n_texts, length, rng)
counts = mask_tokens(texts, alpha(torch.full((n_texts,), 0.5)), mask_id, rng)[1].sum(1).double()

u = 1 - math.cos(math.pi / 4)
mean, spread = length * u, math.sqrt(length * u * (1 - u))
agree("mean count: measured, L u", counts.mean(), mean, error=spread / n_texts**0.5)
agree("standard deviation: measured, sqrt(L u (1 - u))", counts.std(), spread, error=spread / (2 * n_texts) ** 0.5)

k = torch.arange(45, 106)
log_ways = torch.lgamma(torch.tensor(length + 1.0)) - torch.lgamma(k + 1.0) - torch.lgamma(length - k + 1.0)
binomial = (log_ways + k * math.log(u) + (length - k) * math.log(1 - u)).exp()
fig, ax = plt.subplots(figsize=(6.5, 2.8))
ax.hist(counts, bins=[i - 0.5 for i in range(45, 106)], density=True, color=BLUE, alpha=0.4)
ax.plot(k, binomial, "--", color=COLOURS["exact"], linewidth=1.5)
ax.text(86, 0.04, "binomial")
ax.set(xlabel=f"hidden of {length} tokens at t = 1/2", ylabel="share of texts", title="75.0 ± 7.3, as computed")
plt.show()

# %% [markdown]
# ### Exercise 0.3: how many, and how far off?


# %%
def my_count(L, u):
    """L tokens, each hidden with probability u -> the mean and the standard deviation of how many are."""
    ...


# %%
check.step0.count(my_count)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Return two numbers: `return mean, spread`. A single coin has variance $u(1 - u)$; variances of independent coins
# add. The solution is in [solutions/step0.py](solutions/step0.py).
# </details>
#
# ## A schedule is a density over "how much"
#
# Training draws $t$ uniformly and hides a share $u(t) = 1 - \alpha(t)$. What the network meets is $u$; it never sees
# $t$. By the rule for changing variables $u$ has the density
#
# $$\rho(u) = \frac{dt}{du} = \frac{1}{u'(t)} :$$
#
# where the schedule is steep, it hurries past, and that share is rare. So a schedule is a choice of *which exercises
# are set how often*. The histograms below are that density for some of them. The mean share is the area under $u(t)$:
# $\int_0^1 u(t)\,dt$.

# %%
times = torch.rand(size(200_000, 20_000), generator=rng).double()


def draw_density(ax, name):
    s, grid = SCHEDULES[name], torch.linspace(0.02, 0.98, 49).double()
    ax.hist(1 - s.alpha(times), bins=40, range=(0, 1), density=True, color=BLUE, alpha=0.4)
    inside = grid[(grid > s.ends[0]) & (grid < s.ends[1])]
    when = s.time(inside).requires_grad_()
    (speed,) = torch.autograd.grad((1 - s.alpha(when)).sum(), when)
    ax.plot(inside, 1 / speed, "--", color=COLOURS["exact"], linewidth=1.5)
    mean_share = (1 - s.alpha(times)).mean()
    ax.set(ylim=(0, 3), xlabel="share hidden, u", title=f"{name}\n{mean_share:.3f} on average")
    ax.title.set_fontsize(9)


slider(draw_density, "schedule", list(SCHEDULES), still=["linear", "cosine", "maskgit_cosine", "sigmoid"],
       figsize=(10, 2.8), sharey=True)  # fmt: skip

# %% [markdown]
# **Two curves are called "cosine"** in published code. One hides 36% of a text on average, the other 64%. And
# "log-linear" is the straight line, up to one part in a thousand.

# %%
on_paper = {"linear": 1 / 2, "cosine": 1 - 2 / math.pi, "loglinear": 0.999 / 2, "sqrt": 2 / 3,
            "clipped_cosine": 0.95 - 0.9 * 2 / math.pi, "sigmoid": 1 / 2, "maskgit_cosine": 2 / math.pi}  # fmt: skip
middle = (torch.arange(100_000).double() + 0.5) / 100_000
for name, s in SCHEDULES.items():
    agree(f"{name}: area under u(t), on paper", (1 - s.alpha(middle)).mean(), on_paper[name])

# %% [markdown]
# ### Exercise 0.4: how much does the cosine hide on average?
#
# Here with pencil and paper: what is $\int_0^1 \big(1 - \cos\frac{\pi t}{2}\big)\,dt$? The cell above knows, but so
# can you.

# %%
my_share = ...

# %%
check.step0.mean_share(my_share)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The antiderivative of $\cos(ax)$ is $\sin(ax)/a$. The solution is in [solutions/step0.py](solutions/step0.py).
# </details>
#
# ## The way back
#
# A model runs time backwards. It sees a token that is hidden at $t$ and asks: was it still visible at an earlier $s$?
# Bayes answers, and needs no model for it:
#
# $$P(\text{visible at } s \mid \text{hidden at } t)
#   = \frac{P(r_i < \alpha_s \text{ and } r_i \ge \alpha_t)}{P(r_i \ge \alpha_t)}
#   = \frac{\alpha_s - \alpha_t}{1 - \alpha_t}.$$
#
# It does not depend on the text. *When* a token opens is pure chance; only *what* it then shows has to be learned.
# (For a token that is visible at $t$ there is no question: it was visible at $s$ too, and is the same.)

# %%
s_, t_ = torch.tensor(0.4), torch.tensor(0.7)
numbers = torch.rand(size(1_000_000, 100_000), generator=rng)
hidden_at_t = numbers >= alpha(t_)
opened = (numbers < alpha(s_))[hidden_at_t].double()
formula = (alpha(s_) - alpha(t_)) / (1 - alpha(t_))
agree("hidden at .7, visible at .4: measured, Bayes", opened.mean(), formula, error=opened.std() / len(opened) ** 0.5)

# %% [markdown]
# ### Exercise 0.5: open


# %%
def my_opens(alpha_s, alpha_t):
    """alpha_s, alpha_t (n,), s earlier than t -> P(visible at s | hidden at t), (n,)."""
    ...


# %%
check.step0.opens(my_opens)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Draw the interval [0, 1] and mark $\alpha_t < \alpha_s$ on it. Where does $r_i$ lie if the token is hidden at $t$?
# Which part of that is visible at $s$? The solution is in [solutions/step0.py](solutions/step0.py).
# </details>
#
# ## To take away
#
# * Noise for text hides tokens. A token draws one number; the schedule says until when it is visible.
# * Masks are nested: what is hidden stays hidden, and backwards, what has opened stays open. So masked diffusion by
#   itself never corrects a letter it has written.
# * A schedule is a density over the share hidden. Names are ambiguous: say the formula, or the mean share.
# * The way back is Bayes' rule, and knows nothing of the text.
#
# **Still missing.** Hiding is easy. Can the blanks be filled again? First without any context: notebook 1.
