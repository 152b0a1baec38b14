# %% [markdown]
# # 1. Can blanks be filled without context?
#
# Notebook 0 hides letters. Now somebody is to name them, who sees *one position at a time*. At a blank he sees MASK,
# and every MASK looks like every other; so he gives every blank one and the same answer. What is the best such
# answer, and how good is it? Both can be said before anything is trained. That is the idea of this notebook: **a loss
# that is predicted is worth more than a loss that is small.**
#
# *You need* notebook 0. *The step* is `steps/step1_denoise_mlp.py`, which writes the network and the loop of training
# out.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
from show import BLUE, COLOURS, GREY, agree, plain, size, slider

from microdlm.corpus import load_corpus
from microdlm.lesson import fit
from microdlm.masking import mask_tokens
from microdlm.objectives import masked_nll, without_mask
from microdlm.state import TrainConfig
from microdlm.transformer import Transformer, TransformerConfig

corpus = load_corpus("playlets", n_chars=size(1_000_000, 100_000))
mask_id = corpus.tokenizer.mask_id
V = mask_id + 1  # V counts MASK
rng = torch.Generator().manual_seed(0)
print(plain(corpus.tokenizer, corpus.train[:70]))
print(f"{mask_id} characters and MASK: V = {V}")

# %% [markdown]
# ## One answer for every blank
#
# Call the answer $q$: a probability for each character. A hidden character $v$ then costs $-\ln q_v$ **nats**, its
# surprise. Over a long text in which $v$ occurs with frequency $p_v$, the mean cost is the *cross-entropy*
#
# $$H(p, q) = -\sum_v p_v \ln q_v .$$
#
# Write $-\ln q_v = -\ln p_v + \ln\frac{p_v}{q_v}$, and the sum falls into two:
#
# $$H(p, q) \;=\; \underbrace{-\sum_v p_v \ln p_v}_{H(p),\ \text{the entropy}}
#   \;+\; \underbrace{\sum_v p_v \ln \frac{p_v}{q_v}}_{\mathrm{KL}(p\,\|\,q)\ \ge\ 0}.$$
#
# The first is the text's fault, the second is ours. The second is never negative (Jensen: $-\ln$ is convex) and it is
# 0 only if $q = p$. So the best answer is to **count**, and no answer costs less than $H(p)$.

# %%
p = torch.bincount(corpus.train, minlength=V).double()
p[:mask_id] += 1  # so that no character is impossible; only MASK is
p = p / p.sum()
q = torch.rand(V, generator=rng).double() * (torch.arange(V) < mask_id)  # somebody who guesses wildly
q = q / q.sum()
inside = p > 0

H = -torch.xlogy(p, p).sum()
KL = (p[inside] * (p[inside] / q[inside]).log()).sum()
agree("cross-entropy, entropy + KL", -(p[inside] * q[inside].log()).sum(), H + KL)
print(f"\nunigram entropy H(p) = {H:.4f} nats per character; the wild guess pays {KL:.4f} more")

# %% [markdown]
# What each letter of a text costs whoever has counted, and sees nothing else. Blanks and *e* are cheap, a capital is
# dear. The dashed line is the mean over the whole text: the entropy.

# %%
line = corpus.train[:48]
fig, ax = plt.subplots(figsize=(8, 2.4))
ax.bar(range(48), -p.log()[line], color=BLUE, alpha=0.6)
ax.axhline(H, color=COLOURS["exact"], linestyle="--", linewidth=1.5)
ax.set_xticks(range(48), list(plain(corpus.tokenizer, line)), family="monospace")
ax.tick_params(axis="x", length=0)
ax.set(ylabel="nats", xlim=(-1, 48), title="The price of a letter, without context")
plt.show()

# %% [markdown]
# With two letters the cost of a wrong answer can be drawn. Letter A has the frequency $p$, and somebody answers $q$.
# The grey part of the cost is the entropy, that nobody can avoid; the blue part is paid for $q \ne p$. Move $q$.

# %%
P_A = 0.8


def draw_cost(ax, q_A):
    grid = torch.linspace(0.02, 0.98, 200)
    cost = -(P_A * grid.log() + (1 - P_A) * (1 - grid).log())
    entropy = -(P_A * math.log(P_A) + (1 - P_A) * math.log(1 - P_A))
    here = -(P_A * math.log(q_A) + (1 - P_A) * math.log(1 - q_A))
    ax.plot(grid, cost, color=BLUE)
    ax.axhline(entropy, color=COLOURS["exact"], linestyle="--", linewidth=1.5)
    ax.bar(q_A, entropy, 0.05, color=GREY, alpha=0.6)
    ax.bar(q_A, here - entropy, 0.05, bottom=entropy, color=BLUE, alpha=0.6)
    ax.set(ylim=(0, 2.5), xlim=(0, 1), xlabel="answer q for A (truth 0.8)", ylabel="nats")
    ax.set_title(f"{entropy:.3f} + {here - entropy:.3f}")


slider(draw_cost, "q", [i / 20 for i in range(1, 20)], still=[0.2, 0.5, 0.8, 0.95], figsize=(10, 2.6), sharey=True)

# %% [markdown]
# ### Exercise 1.1: the entropy
#
# In nats. A character that never occurs costs nothing: $0 \ln 0 = 0$, and not nan.


# %%
def my_entropy(p):
    """p (V,) probabilities, some may be 0 -> the entropy, in nats."""
    ...


# %%
check.step1.entropy(my_entropy)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.xlogy(p, p)` is $p \ln p$, and 0 where $p$ is 0. Mind the sign.
# The solution is in [solutions/step1.py](solutions/step1.py).
# </details>
#
# (Your function, asked for the characters of all of Tiny Shakespeare, says 3.3128 nats: another text, another floor.)
#
# ### Exercise 1.2: what a wrong answer costs


# %%
def my_divergence(p, q):
    """p, q (V,) probabilities -> KL(p || q) in nats: what one pays for answering q where p is true."""
    ...


# %%
check.step1.divergence(my_divergence)

# %% [markdown]
# <details><summary>Hint</summary>
#
# It is the cross-entropy minus the entropy. Which of the two distributions does the world draw from?
# The solution is in [solutions/step1.py](solutions/step1.py).
# </details>
#
# ## What a network says before it has learned anything
#
# The last layer of our networks starts at zero: all logits are equal, and so are all probabilities. MASK gets none
# (`without_mask`: clean text holds no MASK). What is the first loss?
#
# ### Exercise 1.3: the first loss


# %%
def my_first_loss(V):
    """V ids, the last of them MASK -> the loss, in nats, of a network that finds all characters equally likely."""
    ...


# %%
check.step1.first_loss(my_first_loss)

# %% [markdown]
# <details><summary>Hint</summary>
#
# How many characters can a blank be? The solution is in [solutions/step1.py](solutions/step1.py).
# </details>
#
# ## A network without context
#
# We need not write a new one. A transformer in which every position may look at itself *only* has no context: the
# argument `seen` says who sees whom, and the identity matrix says "nobody else". The first thing to do with a network
# is to find out what it cannot know.

# %%
length = 64
alone = torch.eye(length, dtype=torch.bool)
net = Transformer(TransformerConfig(V, length, n_layer=1, n_head=2, d_model=64), rng)


def blind(x_t):
    """A denoiser that sees one position at a time."""
    return net(x_t, seen=alone)


x_0 = corpus.batch(2, length, rng)
edited = x_0.clone()
edited[:, 10] = (edited[:, 10] + 1) % mask_id
with torch.no_grad():
    torch.nn.init.normal_(net.head.weight, std=0.1, generator=rng)  # for a moment: it should have something to say
    moved = (blind(edited) - blind(x_0)).abs().amax(-1)[0] > 1e-6
    blanks = blind(torch.full((1, length), mask_id)).softmax(-1)[0]
    torch.nn.init.zeros_(net.head.weight)
print("positions whose answer changes when letter 10 is another one:", moved.nonzero().flatten().tolist())
agree("largest difference between two blanks' answers, 0", (blanks - blanks[0]).abs().max(), 0)

# %% [markdown]
# ## The loss counts hidden letters only
#
# At a visible position there is no question: the letter stands there. If those are scored too, the loss becomes small
# because half of the test is copying.
#
# ### Exercise 1.4: the masked mean


# %%
def my_masked_mean(nll, is_masked):
    """nll (B, L) nats at every position, is_masked (B, L) -> the mean over all hidden letters of the batch."""
    ...


# %%
check.step1.masked_mean(my_masked_mean)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two sums and one quotient. (Whether texts with many blanks *should* count for more is the question of notebook 4.
# Here all blanks are equally hard, so it makes no difference to the mean.) The solution is in
# [solutions/step1.py](solutions/step1.py).
# </details>
#
# ## Predict, then train
#
# Three numbers, before the first step of training: the loss starts at $\ln(V - 1)$; it ends at $H(p)$; on held-out
# text it is $H(\text{held-out}, p)$, a little more, for the counts are from other text.

# %%
windows = corpus.windows(length, size(1024, 128))
floor = -p.log()[windows].mean().item()
print(f"predicted: first loss {math.log(V - 1):.4f}, last {H:.4f}, held-out {floor:.4f}")


def loss(model, x_0, rng):
    """Hide a random share of every window; the mean over all that is hidden."""
    x_t, hidden = mask_tokens(x_0, torch.rand(len(x_0), generator=rng), mask_id, rng)
    return masked_nll(lambda x: model(x, seen=alone), x_0, x_t, hidden, mask_id).sum() / hidden.sum()


steps = size(600, 20)
losses = fit(
    net, TrainConfig(steps=steps, batch_size=64, lr=1e-2, weight_decay=0.0), loss, corpus.batch, "cpu", "train"
)
tail = torch.tensor(losses[-steps // 5 :])
agree("first loss, ln(V - 1)", losses[0], math.log(V - 1))
print(f"last fifth of the losses: {tail.mean():.4f} ± {tail.std() / len(tail) ** 0.5:.4f}; the floor is {H:.4f}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=[1.5, 1], layout="constrained")
left.plot(range(1, steps + 1), losses, color=BLUE, alpha=0.7, linewidth=1.2)
left.axhline(H, color=COLOURS["exact"], linestyle="--", linewidth=1.5)
left.text(1.1, H - 0.06, "unigram entropy, from counts")
left.text(3.2, math.log(V - 1), "all equally likely", va="center")
left.set(xscale="log", xlabel="training steps", ylabel="nats per hidden letter", ylim=(H - 0.12, None))
left.set_title("The loss meets its floor")
with torch.no_grad():
    said = without_mask(blind(torch.full((1, length), mask_id)), mask_id)[0, 0].softmax(-1).double()
top = p.argsort(descending=True)[:10].tolist()
right.barh(range(10), 100 * p[top].numpy(), color="#EEEEEE", edgecolor="black", label="counted")
right.plot(100 * said[top].numpy(), range(10), "o", color=BLUE, label="said of a MASK")
right.set_yticks(range(10), [corpus.tokenizer.decode([i]).translate({32: "␣", 10: "↵"}) for i in top])
right.set(xlabel="share, %", ylim=(9.6, -0.6), title="The network has counted")
right.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## On text it has not seen
#
# Every held-out letter is hidden once, and the network's answer is compared with what the counts say of the very same
# letters. The difference is taken letter by letter, so the text's own noise drops out. What is left is
# $\mathrm{KL}(p \| q)$, and it is tiny: a network may have millions of weights and still only know how to count.

# %%
with torch.no_grad():
    nll = masked_nll(blind, windows, torch.full_like(windows, mask_id), torch.ones_like(windows).bool(), mask_id)
gap = nll.double() + p.log()[windows]
print(f"held-out: network {nll.mean():.4f}, counts {floor:.4f}; apart by {gap.mean():+.4f} nats")
print(f"the language itself: {corpus.entropy_rate:.4f} nats per character. All the rest is context.")
assert gap.mean() > -4 * gap.mean(1).std() / len(gap) ** 0.5, "better than counting: it must have looked around"

# %% [markdown]
# ### Exercise 1.5: is it a bug?
#
# Four students train a network *without context* on this text ($H(p) = 3.32$ nats, $\ln 55 = 4.01$) and
# report a training loss. Which report is possible without a mistake? Answer with `"a"`, `"b"`, `"c"` or `"d"`.
#
# a. 3.33 at the end, and the curve is flat · b. 1.66 at the end · c. 0.02 at the end · d. 5.8 at the start

# %%
my_report = ...

# %%
check.step1.report(my_report)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Nobody without context gets below $H(p)$ on what is really hidden, and a network that starts with equal logits
# starts at $\ln(V-1)$. The solution is in [solutions/step1.py](solutions/step1.py).
# </details>
#
# ## To take away
#
# * Cross-entropy = entropy + KL. The first is the text's, the second is the model's.
# * Without context the best answer to every blank is the letter frequencies, and the loss stops at the unigram
#   entropy, however large the network.
# * Compute what a loss must be before you look at it. A loss below its floor is a bug, not a success.
#
# **Still missing.** A way to look around. What does context buy? Notebook 2.
