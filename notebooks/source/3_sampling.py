# %% [markdown]
# # 3. How does a filler of blanks write?
#
# Start from nothing but MASK and fill in blanks, a few at a time. That is all. The questions are: how many at a time,
# which, and what does haste cost? There is a denoiser here that makes no errors, so **every error you will see is the
# sampler's own**, and its size can be computed beforehand.
#
# *You need* notebooks 0 (the way back) and 2 (the curve). *The step* is `steps/step3_sampling.py`. Nothing is
# trained: at the end a network writes whose weights are shipped.

# %%
import itertools

import check
import matplotlib.pyplot as plt
import torch
from show import BLUE, GREY, RED, agree, plain, size, slider

from microdlm import load
from microdlm.cost import CountForwards
from microdlm.likelihood import exact_curve
from microdlm.objectives import masked_nll
from microdlm.oracle import MarkovDenoiser
from microdlm.pacing import expected_passes, parallel_bound, step_counts
from microdlm.playlets import Playlets
from microdlm.samplers import ancestral, confidence, first_hitting, left_to_right

rng = torch.Generator().manual_seed(0)
MASK = 2


def two_letters(again):
    """A chain in which a letter comes again with this probability. 0 is ABAB.. or BABA.., 0.9 a sticky language."""
    return MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[again, 1 - again], [1 - again, again]]))


sticky, ab = two_letters(0.9), two_letters(0.0)

# %% [markdown]
# ## One at a time is the chain rule
#
# In any order $\sigma$,
#
# $$p(x) = \prod_{i} p\big(x_{\sigma_i} \mid x_{\sigma_1}, \dots, x_{\sigma_{i-1}}\big).$$
#
# So whoever opens one blank at a time, in an order that does not look at what is drawn, and knows the exact
# conditionals, writes exactly the language. For all 16 texts of four letters and all 24 orders:

# %%
texts = torch.tensor(list(itertools.product([0, 1], repeat=4)))
true_p = (-4 * sticky.nll(texts)).exp()
worst = 0.0
for order in itertools.permutations(range(4)):
    log_p = torch.zeros(16).double()
    for i, place in enumerate(order):
        x_t = texts.clone()
        x_t[:, list(order[i:])] = MASK  # what comes later in this order is still blank
        log_p += sticky(x_t)[range(16), place, texts[:, place]]
    worst = max(worst, (log_p.exp() - true_p).abs().max().item())
agree("24 orders, 16 texts: largest error of the product, 0", worst, 0)

# %% [markdown]
# And by writing: 20,000 texts, one blank at a time, at random places. The bars are what was written, the dashes are
# the language.

# %%
n = size(20_000, 2000)
*_, written = first_hitting(sticky, torch.full((n, 4), MASK), MASK, rng=rng)
*_, at_once = confidence(sticky, torch.full((n, 4), MASK), MASK, 1, rng=rng)
place = 2 ** torch.arange(3, -1, -1)


def shares(x):
    return (x @ place).bincount(minlength=16).double() / len(x)


fig, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
for ax, x, title in ((axes[0], written, "one at a time"), (axes[1], at_once, "all four in one pass")):
    ax.bar(range(16), shares(x), color=BLUE, alpha=0.6)
    ax.plot(range(16), true_p, "_", color="black", markersize=11, markeredgewidth=2)
    ax.set_xticks(range(16), ["".join(map(str, row)) for row in texts.tolist()], rotation=90, family="monospace")
    ax.set_title(title)
axes[0].set_ylabel("share of texts")
plt.show()
error = (shares(written) - true_p).abs() / (true_p * (1 - true_p) / n).sqrt()
print(f"one at a time: no text is off by more than {error.max():.1f} standard errors")
assert error.max() < 4.5

# %% [markdown]
# ## Two at once do not see each other
#
# On the right every letter alone is as frequent as it should be, and the texts are wrong. In one pass the denoiser
# answers for every blank separately: it gives *marginals*. Two tokens that are drawn from their marginals are
# independent, whatever the language says of them:
#
# $$p(x_1, x_2) \quad\text{becomes}\quad p(x_1)\,p(x_2).$$
#
# What is lost is the **total correlation**, $\mathrm{KL}\big(p(x_1, x_2) \,\|\, p(x_1) p(x_2)\big) = H(X_1) + H(X_2)
# - H(X_1, X_2)$. No better network mends that.

# %%
joint = torch.tensor([[0.45, 0.05], [0.05, 0.45]]).double()  # two neighbours of the sticky language
apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)


def H(p):
    return torch.special.entr(p).sum()


kl = (joint * (joint / apart).log()).sum()
agree("KL(joint, product), sum of entropies - joint entropy", kl, H(joint.sum(0)) + H(joint.sum(1)) - H(joint))
fig, axes = plt.subplots(1, 2, figsize=(5.4, 2.5), layout="constrained")
for ax, p, title in ((axes[0], joint, "the language"), (axes[1], apart, "drawn in one pass")):
    ax.imshow(p, cmap="Blues", vmin=0, vmax=0.6)
    for i, j in itertools.product(range(2), repeat=2):
        ax.text(j, i, f"{p[i, j]:.2f}", ha="center", va="center")
    ax.set(title=title, xticks=[0, 1], yticks=[0, 1], xlabel="second letter")
    ax.grid(False)
axes[0].set_ylabel("first letter")
plt.show()

# %% [markdown]
# ### Exercise 3.1: ABAB.. or BABA..
#
# The hardest case: two texts, equally likely, and one letter tells all others. From a blank page $k$ letters are
# written in the first pass, and after that one at a time. How probable is it that the text is one of the two?


# %%
def my_valid(k):
    """k letters at once from a blank page -> the probability that they fit together."""
    ...


# %%
check.step3.valid(my_valid)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Each of the $k$ letters is a fair coin. The first may fall as it likes. The solution is in
# [solutions/step3.py](solutions/step3.py).
# </details>

# %%
for k in (1, 2, 3, 4, 8):
    x = torch.full((n, 8), MASK)
    *_, x = confidence(ab, x, MASK, order="random", pace=[k] + [1] * (8 - k), rng=rng)
    print(f"{k} at once: {ab.nll(x).isfinite().double().mean():.2%} of the texts are possible")

# %% [markdown]
# ## The price of haste is a staircase
#
# Let $c_k$ be the cost of a hidden token when $k$ are hidden (the curve of notebook 2), and $H = \sum_k c_k$ the
# whole text's entropy. A pass that opens $k$ of $n$ blanks at random asks all $k$ questions with $n$ blanks on the
# page, and pays $k\,c_n$ for them. One at a time it would have paid $c_n + c_{n-1} + \dots + c_{n-k+1}$, which is
# less. So
#
# $$\text{nats lost} \;=\; \sum_{\text{passes}} k_i\, c_{n_i} \;-\; \sum_{k=1}^{L} c_k :$$
#
# the area between a staircase and the curve. **The steps of the stairs are the passes.**

# %%
L = 8
curve = exact_curve(sticky, L)


def draw_stairs(ax, passes):
    plan = step_counts("linear", passes, L)
    left = L
    for k in plan:
        ax.bar(left - k, curve[left - 1], k, align="edge", color=RED, alpha=0.35, edgecolor=RED)
        left -= k
    ax.bar(range(L), curve, 1, align="edge", color="white")
    ax.bar(range(L), curve, 1, align="edge", color=BLUE, alpha=0.35)
    lost = parallel_bound(curve, plan) - curve.mean().item()
    ax.set(xlabel="letters still hidden", ylim=(0, 0.75), title=f"passes: {passes}\n{lost:.3f} nats lost a letter")
    ax.title.set_fontsize(10)


slider(draw_stairs, "passes", list(range(1, 9)), still=[1, 2, 4, 8], figsize=(10, 2.8), sharey=True)

# %% [markdown]
# Is it so? One can *measure* what a sampler loses: put a real text into its mouth. In each pass, ask for the
# probability of the letters that this text has there. (No letter is drawn; the sampler says how probable it was to
# write this text.)


# %%
def price(language, x_0, plan):
    """(B,) nats per token with which a sampler of this plan, at random places, writes exactly x_0."""
    turn, done, nats = torch.rand(x_0.shape, generator=rng).argsort(1).argsort(1), 0, 0.0
    for k in plan:
        x_t = x_0.masked_fill(turn >= done, MASK)
        opens = (turn >= done) & (turn < done + k)
        nats, done = nats + masked_nll(language, x_0, x_t, opens, MASK).sum(1), done + k
    return nats / x_0.size(1)


x_0 = sticky.sample(size(20_000, 3000), L, rng)
for passes in (8, 4, 3, 2, 1):
    plan = step_counts("linear", passes, L)
    lost = price(sticky, x_0, plan) - sticky.nll(x_0)
    predicted = parallel_bound(curve, plan) - curve.mean()
    agree(f"{passes} passes {plan}: nats lost, the stairs", lost.mean(), predicted, error=lost.std() / len(lost) ** 0.5)

# %% [markdown]
# ### Exercise 3.2: the price of a plan


# %%
def my_price(curve, plan):
    """curve (L,): c_1 .. c_L. plan: how many each pass opens, in order, sum L -> nats per token, all in all."""
    ...


# %%
check.step3.price(my_price)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Keep count of how many are still hidden *before* the pass. `curve[n - 1]` is $c_n$. Divide by $L$ at the end. The
# solution is in [solutions/step3.py](solutions/step3.py).
# </details>
#
# ## Steps are not passes
#
# The classical sampler walks along a grid of $T$ times. From $t = i/T$ to $s = (i-1)/T$ (linear schedule) a blank
# opens with probability $\frac{\alpha_s - \alpha_t}{1 - \alpha_t} = \frac{t - s}{t} = \frac1i$: exercise 0.5 again.
# What opens together is left to chance. With $T = 1000$ and 224 blanks most steps open nothing, and a step that opens
# nothing needs no forward pass. Seen from the blank, its step is one of $T$, all equally likely. So
#
# ### Exercise 3.3: how many passes?


# %%
def my_passes(T, N):
    """T steps, N blanks, each opens in one of the steps, uniformly -> the expected number of steps that open any."""
    ...


# %%
check.step3.passes(my_passes)

# %% [markdown]
# <details><summary>Hint</summary>
#
# What is the probability that a given step is chosen by none of the $N$ blanks? Expectations add. The solution is in
# [solutions/step3.py](solutions/step3.py).
# </details>

# %%
blanks, runs = 224, size(40, 10)
steps = (10, 20, 40, 80, 160, 320, 640, 1000)
measured = []
for T in steps:
    model = CountForwards(lambda x: torch.zeros(*x.shape, 3))  # knows nothing: when a blank opens is pure chance
    for _ in range(runs):
        *_, x = ancestral(model, torch.full((1, blanks), MASK), MASK, T, rng=rng)
    measured.append(model.passes / runs)
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(steps, [expected_passes("linear", T, blanks) for T in steps], "--", color="black")
ax.plot(steps, measured, "o", color=BLUE)
ax.axhline(blanks, color=GREY, linewidth=1)
ax.text(11, 228, f"{blanks}: one for each blank", color=GREY)
ax.set(xscale="log", xlabel="steps T", ylabel="forward passes", title="A thousand steps, two hundred passes")
ax.set_ylim(0, 255)
plt.show()
print("  ".join(f"{T}: {found:.1f}" for T, found in zip(steps, measured, strict=True)))

# %% [markdown]
# ### Exercise 3.4: one step of a sampler
#
# Write it. Each MASK opens with probability $p$; what opens gets a token drawn from the denoiser's answer; all else
# stays.


# %%
def my_step(denoiser, x, mask_id, p, rng):
    """x (B, L) -> the next x. denoiser(x) gives log-probabilities (B, L, V). Use torch.rand(..., generator=rng) and
    torch.multinomial(probabilities, 1, generator=rng)."""
    ...


# %%
check.step3.step(my_step)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `opens = (x == mask_id) & (torch.rand(x.shape, generator=rng) < p)`. Then `denoiser(x)[opens].exp()` has one row for
# each blank that opens; MASK has probability 0 in it. The solution is in [solutions/step3.py](solutions/step3.py).
# </details>
#
# ## The surest first?
#
# The usual sampler does not choose places at random. It guesses every blank, looks how probable each guess was, and
# keeps the surest. That sounds wise. But a guess is sure because it is *easy*, and whoever always begins with what is
# easy writes easy text. Below: how probable, under the language itself, are the texts that three samplers write? All
# three have the exact denoiser, and the first two open one blank at a time.

# %%
blank = torch.full((size(10_000, 1000), L), MASK)
real = sticky.nll(sticky.sample(len(blank), L, rng))
ways = {
    "one at a time, anywhere": first_hitting(sticky, blank, MASK, rng=rng),
    "one at a time, surest first": confidence(sticky, blank, MASK, L, rng=rng),
    "all in one pass": confidence(sticky, blank, MASK, 1, rng=rng),
}
fig, axes = plt.subplots(1, 3, figsize=(10, 2.6), sharey=True, layout="constrained")
for ax, (name, states) in zip(axes, ways.items(), strict=True):
    *_, x = states
    nats = sticky.nll(x)
    ax.hist(nats, bins=30, range=(0, 1.8), color=BLUE, alpha=0.5, weights=torch.full((len(nats),), 1 / len(nats)))
    ax.hist(
        real, bins=30, range=(0, 1.8), histtype="step", color="black", weights=torch.full((len(real),), 1 / len(real))
    )
    ax.set(title=name, xlabel="nats per letter")
    error = (nats.var() / len(nats) + real.var() / len(real)).sqrt()
    print(f"{name:28} {nats.mean():.4f} ± {error:.4f} nats per letter (the language {curve.mean():.4f})")
    if "surest" in name:
        assert nats.mean() < curve.mean() - 4 * error, "surest first should be too easy"
plt.show()

# %% [markdown]
# On the right the text is too hard: nonsense. In the middle it is too *easy*, with no haste at all, one blank at a
# time, and a perfect denoiser. A judge who only asks "how probable is this text?" prefers the middle to the language
# itself. So **a low perplexity of generated text is not a good sign**; near that of real text is good.
#
# ### Exercise 3.5: which are exact?
#
# With an exact denoiser, which of these write the language itself? Answer with letters, like `"ad"`.
#
# a. one at a time, at random places · b. one at a time, from left to right · c. one at a time, the surest guess first
# · d. two at a time, at random places

# %%
my_exact = ...

# %%
check.step3.exact(my_exact)

# %% [markdown]
# <details><summary>Hint</summary>
#
# The chain rule holds for any order that is fixed without a look at what is drawn. The solution is in
# [solutions/step3.py](solutions/step3.py).
# </details>
#
# ## Real text
#
# The built-in language has an exact denoiser too, and knows which texts are possible. Each line is the first of some
# texts of 32 characters.

# %%
play, page = Playlets(), 32
exact_denoiser = play.denoiser()
for passes in size((32, 16, 8, 1), (8, 1)):
    x = torch.full((size(24, 2), page), play.mask_id)
    *_, x = confidence(exact_denoiser, x, play.mask_id, passes, order="random", rng=rng)
    possible = exact_denoiser.nll(x).isfinite().double().mean()
    line = "".join(play.alphabet[i] for i in x[0].tolist()).replace("\n", "↵")
    print(f"{passes:3} passes  {possible:4.0%} possible   {line}")

# %% [markdown]
# And a network, that is not exact, trained on Shakespeare. What is written stays: from row to row, only dots change.

# %%
letters = load("shakespeare-diffusion")
start = letters.canvas("ROMEO:\n", 60)
counted = CountForwards(letters.model)
for i, state in enumerate(confidence(counted, start, letters.mask_id, 16, rng=rng, temperature=0.8), 1):
    if i in (1, 2, 4, 8, 12, 16):
        print(f"{i:3} passes, {counted.token_forwards:4} tokens read  {plain(letters.tokenizer, state[0])}")
*_, by_hand = left_to_right(letters.model, start, letters.mask_id, rng=rng, temperature=0.8)
print(f"\nfrom left to right, one by one      {plain(letters.tokenizer, by_hand[0])}")

# %% [markdown]
# ## To take away
#
# * One blank at a time, in an order fixed beforehand, is the chain rule: exact.
# * Blanks opened in the same pass are drawn from marginals. The loss is the area between stairs and the curve, known
#   before anything is written. A better network does not mend it; more passes do.
# * $T$ steps are not $T$ passes, and a pass is not a token (notebook 5 counts both).
# * Surest first writes text that is too easy. What is written is never taken back.
#
# **Still missing.** A text is written. How probable was it? Which number compares this model with any other? Notebook
# 4.
