# %% [markdown]
# # 2. What does context buy?
#
# Notebook 1 gave every blank the same answer and paid the unigram entropy for it. Now the denoiser may look at the
# letters around. How much cheaper does a hidden letter become? It depends on how many others are hidden, and so the
# answer is not a number but a **curve**. This curve is the picture of a diffusion language model: training,
# likelihood, schedules and the cost of writing can all be read off it.
#
# *You need* notebook 1. *The step* is `steps/step2_transformer.py`, which writes the network out line by line.

# %%

import check
import matplotlib.pyplot as plt
import torch
from show import BLUE, COLOURS, DOT, GREY, agree, plain, size, slider

from microdlm.attention import attend, rotate, rotation_angles
from microdlm.corpus import load_corpus
from microdlm.lesson import fit
from microdlm.likelihood import cross_entropy_curve, estimate_nelbo
from microdlm.masking import mask_count, stratified, to_count
from microdlm.objectives import count_nelbo, masked_nll, without_mask
from microdlm.oracle import MarkovDenoiser
from microdlm.playlets import Playlets
from microdlm.schedules import SCHEDULES
from microdlm.state import TrainConfig
from microdlm.transformer import Transformer, TransformerConfig

rng = torch.Generator().manual_seed(0)

# %% [markdown]
# ## One blank, two neighbours
#
# Take a chain: each letter depends on the one before it, through a table $P_{ab} = p(\text{next} = b \mid a)$. A
# letter is hidden, its neighbours $a$ (left) and $b$ (right) are visible. What can it be? By Bayes
#
# $$p(x \mid a, b) \;=\; \frac{P_{ax}\,P_{xb}}{\sum_y P_{ay}\,P_{yb}} .$$
#
# A GPT would use the first factor only. The second is what the right side adds. Let us see whether the formula is
# true, by brute force: over *all* texts of three letters.

# %%
P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.4, 0.1]]).double()
start = torch.full((3,), 1 / 3).double()
chain = MarkovDenoiser(start, P)
joint = start[:, None, None] * P[:, :, None] * P[None, :, :]  # p(x_1, x_2, x_3) of all 27 texts

for a, b in ((0, 0), (0, 2), (1, 2)):
    counted = joint[a, :, b] / joint[a, :, b].sum()
    bayes = P[a] * P[:, b] / (P[a] * P[:, b]).sum()
    exact = chain(torch.tensor([[a, chain.mask_id, b]])).exp()[0, 1, :3]
    agree(f"{a} · {b}: P(middle = 0), enumerated and by Bayes", counted[0], bayes[0])
    agree(f"{a} · {b}: the exact denoiser says the same", exact[0], bayes[0])

# %% [markdown]
# ### Exercise 2.1: fill in the middle


# %%
def my_middle(P, a, b):
    """P (S, S) transition table, P[a, x] = p(x | a); a and b the neighbours -> p(middle | a, b), (S,)."""
    ...


# %%
check.step2.middle(my_middle)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `P[a]` is a row, `P[:, b]` a column. Probabilities sum to 1. The solution is in
# [solutions/step2.py](solutions/step2.py).
# </details>
#
# ## To know more never hurts, on average
#
# $H(X \mid A, B) \le H(X \mid A) \le H(X)$: the mean entropy of the middle letter, knowing both neighbours, one,
# none. (On average. A single surprising neighbour may well make one more unsure.)


# %%
def mean_entropy(p):
    """p (..., 3): joint probabilities; the last axis is what is asked. Mean over the others, in nats."""
    total = p.sum(-1)
    return (total * torch.special.entr(p / total[..., None]).sum(-1)).sum().item()


middle_last = joint.movedim(1, -1)  # (a, b, middle)
both, left, none = (mean_entropy(p) for p in (middle_last, middle_last.sum(1), middle_last.sum((0, 1))))
print(f"nats for the middle letter, knowing nothing {none:.4f}, the left {left:.4f}, both neighbours {both:.4f}")
assert both < left < none

# %% [markdown]
# ## The curve
#
# Hide each letter of an endless text with probability $u$. Of a chain only the *nearest* visible letter on each side
# matters. The one to the left is $a$ places away with probability $u^{a-1}(1-u)$, and so on the right. So a hidden
# letter costs
#
# $$m(u) = \sum_{a, b \ge 1} u^{a-1}(1-u)\; u^{b-1}(1-u)\; H(X_0 \mid X_{-a}, X_b) .$$
#
# The area under it is $H(X_1 \mid X_0)$, **the entropy rate of the language**: the nats that each letter really
# costs, given all before it. This is not obvious. It is notebook 4's theorem, here for a chain, and here is the
# number.

# %%
far = 24  # farther away a letter of this chain tells nothing any more
pi = chain.stationary()
power = [torch.linalg.matrix_power(P, n) for n in range(far + 1)]


def between(a, b):
    """H(X_0 | X_-a, X_b), from the joint of (left, right, middle) at these distances."""
    return mean_entropy((pi[:, None, None] * power[a][:, :, None] * power[b][None]).movedim(1, -1))


H = torch.tensor([[between(a, b) for b in range(1, far + 1)] for a in range(1, far + 1)]).double()


def m(u):
    """u (n,) -> (n,): mean over the distances of the nearest visible letters."""
    near = u[:, None] ** torch.arange(far) * (1 - u[:, None])  # P(distance = 1, 2, ..)
    near[:, -1] = u ** (far - 1)  # or farther
    return torch.einsum("na,ab,nb->n", near, H, near)


area = m((torch.arange(20_000).double() + 0.5) / 20_000).mean().item()
letter = mean_entropy(pi)
agree("area under m(u), entropy rate of the chain", area, chain.entropy_rate())

u = torch.linspace(0, 1, 101).double()
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(u, m(u), "--", color=COLOURS["exact"])
ax.fill_between(u, m(u), color=GREY, alpha=0.15)
ax.axhline(letter, color=COLOURS["other"])
ax.text(0.02, letter + 0.02, "without context", color=COLOURS["other"])
ax.text(0.6, 0.35, f"area {area:.3f}\n= entropy rate", ha="center")
ax.set(
    xlabel="share hidden, u",
    ylabel="nats per hidden letter",
    ylim=(0, 1.3),
    title="The curve of a chain of three letters",
)
plt.show()

# %% [markdown]
# ## Attention: who listens to whom
#
# A network has to gather what the visible letters say. In attention every position $i$ *asks* ($q_i$), every position
# $j$ *offers* ($k_j$) and *tells* ($v_j$). The answer is a mean of what is told, weighed by how well offer meets
# question:
#
# $$y_i = \sum_j \mathrm{softmax}_j\!\left(\frac{q_i \cdot k_j}{\sqrt{K}}\right) v_j .$$
#
# Why $\sqrt K$? A product of two random vectors with $K$ components of size 1 has variance $K$. Undivided, the
# softmax of such numbers is all but a hard choice, and a hard choice does not learn.

# %%
for K in (4, 64, 1024):
    q, k = torch.randn(2000, K, generator=rng), torch.randn(2000, 16, K, generator=rng)
    score = torch.einsum("nk,njk->nj", q, k)
    share = [(score / scale).softmax(-1).amax(-1).mean().item() for scale in (1, K**0.5)]
    print(
        f"K = {K:4}: variance of q·k {score.var():7.1f}; the loudest of 16 gets {share[0]:.2f}, divided {share[1]:.2f}"
    )

# %% [markdown]
# ### Exercise 2.2: attention


# %%
def my_attention(q, k, v):
    """q, k, v (L, K) -> y (L, K). Row i asks; everybody offers."""
    ...


# %%
check.step2.attention(my_attention)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `q @ k.T` is (L, L): row $i$ asks, column $j$ offers. Softmax over the columns. The solution is in
# [solutions/step2.py](solutions/step2.py).
# </details>
#
# ### The one switch
#
# A GPT is this network with one change: position $i$ may listen to $j$ only if $j \le i$. A denoiser listens to all.
#
# ### Exercise 2.3: who sees whom in a GPT


# %%
def my_causal(L):
    """-> (L, L) bool: True where the position of the row may see the position of the column."""
    ...


# %%
check.step2.causal(my_causal)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A position sees itself: it holds the letter that has just been read. `torch.ones(L, L, dtype=torch.bool).tril()`
# keeps the lower triangle. The solution is in [solutions/step2.py](solutions/step2.py).
# </details>
#
# ### How it knows places
#
# Attention as written above does not know where anybody stands: shuffle the text, and the answers are shuffled with
# it. So query and key are *turned*, by an angle that grows with their position. Of two turned vectors only the
# difference of the turns shows in the product: the score knows how far apart they are, and nothing else.

# %%
q, k = torch.randn(2, 1, 1, 1, 32, generator=rng).double()
angles = rotation_angles(torch.arange(200), 32, 10_000.0).double()


def score(i, j):
    """q at position i meets k at position j."""
    turned = [rotate(x, angles[n : n + 1].cos(), angles[n : n + 1].sin()) for x, n in ((q, i), (k, j))]
    return (turned[0] * turned[1]).sum()


agree("score at (3, 10) and at (103, 110)", score(3, 10), score(103, 110))
agree("score at (50, 50), and not turned at all", score(50, 50), (q * k).sum())
print(f"but at (3, 11) it is {score(3, 11):.4f}")
y = attend(*torch.randn(3, 1, 2, 7, 8, generator=rng), None, False)
print("the core's attention, of (B, H, L, K):", tuple(y.shape))

# %% [markdown]
# ### See it
#
# Change one letter and watch whose answer changes. Three times the same network with random weights; only the right
# to listen differs. The blank half of the middle picture is all that makes a GPT of it.

# %%
length = 24
demo = Transformer(TransformerConfig(9, length, n_layer=2, n_head=2, d_model=32), rng)
for weight in demo.parameters():
    torch.nn.init.normal_(weight, std=0.3, generator=rng)
text = torch.randint(8, (1, length), generator=rng)
RIGHTS = {
    "notebook 1: alone": torch.eye(length).bool(),
    "GPT: what is left of it": torch.ones(length, length).bool().tril(),
    "denoiser: everybody": torch.ones(length, length).bool(),
}

fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
for ax, (name, seen) in zip(axes, RIGHTS.items(), strict=True):
    edits = text.repeat(length, 1)
    edits[range(length), range(length)] = (text[0] + 1) % 8
    with torch.no_grad():
        moved = (demo(edits, seen=seen) - demo(text, seen=seen)).abs().sum(-1)  # (edited place, answering place)
    ax.imshow((moved.T > 1e-6).float(), cmap="Blues", vmin=0, vmax=1.6)
    ax.set(title=name, xlabel="letter that is edited")
    ax.grid(False)
    print(f"{name:26} an edit of letter 5 moves {int((moved[5] > 1e-6).sum()):2} answers")
axes[0].set_ylabel("answers that move")
plt.show()

# %% [markdown]
# ### Exercise 2.4: how far an edit reaches


# %%
def my_reach(i, L, causal):
    """Letter i of L (counted from 0) is edited -> how many answers can change. causal: it is a GPT."""
    ...


# %%
check.step2.reach(my_reach)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Look at column 5 of the pictures. The solution is in [solutions/step2.py](solutions/step2.py).
# </details>
#
# ## Predict, then train
#
# Before it is trained we know of our denoiser's curve $c_k$ (the cost of a hidden letter when exactly $k$ of $L$ are
# hidden):
#
# * where **all** is hidden there is no context: every model is at the unigram value, at best;
# * nowhere can it be below the curve of the exact denoiser, and the built-in language has one.

# %%
corpus = load_corpus("playlets", n_chars=size(1_000_000, 60_000))
mask_id, window = corpus.tokenizer.mask_id, 64
net = Transformer(TransformerConfig(mask_id + 1, window, n_layer=3, n_head=2, d_model=96), rng)


def loss(model, x_0, rng):
    """Hide k letters of each text, k spread evenly from 1 to L; the mean surprise at them."""
    k = to_count(stratified(len(x_0), rng=rng), x_0.size(1))
    x_t, hidden = mask_count(x_0, k, mask_id, rng)
    return count_nelbo(masked_nll(model, x_0, x_t, hidden, mask_id), hidden).mean()


losses = fit(net, TrainConfig(steps=size(2000, 10), batch_size=8, lr=2e-3), loss, corpus.batch, "cpu", "training")
print(f"loss: first {losses[0]:.3f}, mean of the last hundred {sum(losses[-100:]) / len(losses[-100:]):.3f}")

# %%
counts = torch.tensor([1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64])
held_out = corpus.windows(window, size(48, 4))
seen = torch.bincount(corpus.train, minlength=mask_id + 1).double() + 1
log_p = (seen / seen[:mask_id].sum()).log()
fillers = {
    "no context": lambda x_t: log_p.expand(*x_t.shape, -1),
    "transformer": net,
    "exact": Playlets().denoiser(),
}
curves = {}
for name, filler in fillers.items():
    same_masks = torch.Generator().manual_seed(1)
    curves[name] = cross_entropy_curve(filler, held_out, mask_id, counts, samples=2, rng=same_masks)
unigram = -log_p[held_out].mean().item()
agree("no context, all hidden: the unigram value", curves["no context"].mean[-1], unigram)
print(
    f"transformer, all hidden: {curves['transformer'].mean[-1]:.3f}; half hidden: {curves['transformer'].mean[6]:.3f}"
)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.8))
for name, colour, line in (("no context", COLOURS["other"], "-"), ("transformer", BLUE, "-"), ("exact", "black", "--")):
    c = curves[name]
    ax.errorbar(c.k / window, c.mean, c.stderr, color=colour, linestyle=line, marker="o", markersize=3)
    ax.text(0.42, c.mean[5] + 0.1, name, color=colour, ha="right")
ax.fill_between(curves["transformer"].k / window, curves["transformer"].mean, color=BLUE, alpha=0.08)
ax.set(xlabel="share of letters hidden", ylabel="nats per hidden letter", xlim=(0, 1.01), ylim=(0, None))
ax.set_title("What context buys")
plt.show()

# %% [markdown]
# Read it from the right. All hidden: nothing can be known, and all three meet. As letters appear the cost falls, for
# the exact denoiser quickly, for the network slowly. On the left almost everything is visible, and what is left is
# what even a full page does not tell. The space between blue and black is what training could still gain.
#
# A **noise schedule** only says how often training visits each place of the horizontal axis. And the **area** under
# the blue curve is the model's bound on $-\log p$ (notebook 4). The area by averaging the curve, and the bound by a
# schedule:

# %%
in_counts = estimate_nelbo(net, held_out, mask_id, size(64, 16), rng)  # k = 1 .. 64 in turn: the mean of the curve
by_cosine = estimate_nelbo(net, held_out, mask_id, size(64, 16), rng, schedule=SCHEDULES["cosine"])
gap = in_counts.per_sequence - by_cosine.per_sequence
error = gap.std() / len(gap) ** 0.5
agree("area under the curve, bound by the cosine schedule", in_counts.mean, by_cosine.mean, error=error)

# %% [markdown]
# ### What it sees
#
# A held-out text with $k$ of its letters hidden. Under a blank a dot; above it, how much probability the network
# gives to the letter that really stands there.


# %%
def draw_blanks(ax, k):
    x_0 = held_out[:1]
    x_t, hidden = mask_count(x_0, torch.tensor([k]), mask_id, torch.Generator().manual_seed(4))
    with torch.no_grad():
        p = without_mask(net(x_t), mask_id).softmax(-1)[0].gather(-1, x_0[0, :, None])[:, 0]
    letters = plain(corpus.tokenizer, x_0[0])
    ax.bar(range(window), torch.where(hidden[0], p, 0.0), color=BLUE)
    for i, letter in enumerate(letters):
        is_blank = bool(hidden[0, i])
        look = dict(color=GREY if is_blank else "black", family="monospace", ha="center", size=8)
        ax.text(i, -0.13, DOT if is_blank else letter, **look)
        if is_blank:
            ax.text(i, -0.27, letter, **look)
    ax.set(ylim=(-0.3, 1), xlim=(-1, window), xticks=[], yticks=[0, 1])
    ax.set_title(f"{k} of {window} hidden: {p[hidden[0]].mean():.2f} for the right letter on average", size=9)
    ax.grid(False)


slider(
    draw_blanks, "hidden", [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64], still=[8, 32, 64], across=False, figsize=(9, 4.4)
)

# %% [markdown]
# ### Exercise 2.5: which curves are impossible?
#
# Four curves are reported, for a text whose unigram value is 3.32 nats and whose exact curve is known. All are
# measured on plenty of held-out text. Two of them cannot be, whatever was trained. Answer with two letters, like
# `"ab"`.
#
# a. flat at 3.32 · b. 2.90 where all is hidden · c. 3.6 where all is hidden, but very low where 15% is · d. below the
# exact curve, where half is hidden

# %%
my_impossible = ...

# %%
check.step2.impossible(my_impossible)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Bad is always possible. What is better than possible? The solution is in [solutions/step2.py](solutions/step2.py).
# </details>
#
# ## To take away
#
# * The cost of a hidden letter against the share hidden is *the* picture of a diffusion language model.
# * At the right end every model is at the unigram value. Context pays to the left of it.
# * The area under the curve is one number for the whole model. For a chain it is exactly the entropy rate.
# * A GPT and a denoiser are the same network; who may listen to whom is one triangle.
#
# **Still missing.** Asked about a blank page the network names one letter, everywhere. How does a filler of blanks
# write? Notebook 3.
