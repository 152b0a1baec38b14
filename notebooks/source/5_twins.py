# %% [markdown]
# # 5. What separates diffusion from GPT?
#
# `diffusion.py` and `gpt.py` differ in five places; `diff gpt.py diffusion.py` shows them. Which is better, and at
# what? To answer that, both must be asked *the same question*, and what both do must be *counted*. Most of the
# comparisons that one reads fail in one of these two.
#
# *You need* notebooks 3 and 4. *The step* is `steps/step5_twins.py`, which calls the two scripts.
#
# | # | what changes | GPT | diffusion |
# |---|---|---|---|
# | 1 | vocabulary | the characters | and MASK |
# | 2 | attention | to the left | to both sides |
# | 3 | objective | name the next token | name the hidden tokens |
# | 4 | loss scope | every token; its sum is $-\log p$ | hidden tokens; a bound on $-\log p$ |
# | 5 | generation | left to right | everywhere, surest first |

# %%
import math
import time

import check
import matplotlib.pyplot as plt
import torch
from show import BLUE, COLOURS, GREY, RED, agree, plain, size, slider

from microdlm.corpus import load_corpus
from microdlm.cost import CountForwards
from microdlm.lesson import fit
from microdlm.likelihood import Estimate, estimate_nelbo, left_to_right_nll
from microdlm.masking import mask_count, stratified, to_count
from microdlm.objectives import count_nelbo, masked_nll, next_token_nll
from microdlm.playlets import Playlets
from microdlm.samplers import confidence, first_hitting, left_to_right
from microdlm.state import TrainConfig
from microdlm.transformer import Transformer, TransformerConfig

corpus = load_corpus("playlets", n_chars=size(1_000_000, 60_000))
mask_id, L = corpus.tokenizer.mask_id, 64
rng = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Two networks, one recipe
#
# One class, one switch. The diffusion model has one id more, and so one row more in the embedding and in the head.

# %%
SIZES = dict(seq_len=L, n_layer=3, n_head=2, d_model=96)
twins = {
    "gpt": Transformer(TransformerConfig(mask_id, **SIZES, causal=True), torch.Generator().manual_seed(0)),
    "diffusion": Transformer(TransformerConfig(mask_id + 1, **SIZES), torch.Generator().manual_seed(0)),
}
for name, net in twins.items():
    print(f"{name:10} {net.num_parameters():,} parameters, causal = {net.causal}")

# %% [markdown]
# ### Exercise 5.1: how many parameters more?


# %%
def my_extra(D, tied):
    """Width D; tied: the head is the embedding table -> how many parameters MASK costs."""
    ...


# %%
check.step5.extra(my_extra)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A token needs a vector to be read by, and one to be written by. The solution is in
# [solutions/step5.py](solutions/step5.py).
# </details>
#
# ## What a GPT knows, exactly
#
# The chain rule, from left to right, and nothing else:
#
# $$-\log p(x_2, \dots, x_L \mid x_1) = \sum_{i=1}^{L-1} -\log p(x_{i+1} \mid x_1, \dots, x_i).$$
#
# One pass gives all of the factors: row $i$ of the logits predicts token $i + 1$, and the last row predicts what is
# not there. The first token is predicted by nobody, so it is *given* to both twins, and neither is scored for it.
#
# ### Exercise 5.2: the next token


# %%
def my_next(logits, x):
    """logits (B, L, V), x (B, L) -> (B,) nats per token, over the L - 1 tokens that are predicted."""
    ...


# %%
check.step5.next_token(my_next)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `logits[:, :-1]` and `x[:, 1:]`. The solution is in [solutions/step5.py](solutions/step5.py).
# </details>
#
# ## Train both
#
# The same texts in the same order, equally many steps. Only the loss differs.


# %%
def gpt_loss(model, x_0, rng):
    return next_token_nll(model(x_0), x_0).mean()


def diffusion_loss(model, x_0, rng):
    """Notebook 4, line 4."""
    k = to_count(stratified(len(x_0), rng=rng), x_0.size(1))
    x_t, hidden = mask_count(x_0, k, mask_id, rng)
    return count_nelbo(masked_nll(model, x_0, x_t, hidden, mask_id), hidden).mean()


how = TrainConfig(steps=size(2000, 10), batch_size=8, lr=2e-3)
for name, loss in (("gpt", gpt_loss), ("diffusion", diffusion_loss)):
    order = torch.Generator().manual_seed(1)
    fit(twins[name], how, loss, lambda B, L, _, order=order: corpus.batch(B, L, order), "cpu", name)

# %% [markdown]
# ## The same question
#
# Held-out windows, the first character given. For the GPT the exact value, twice: in one pass, and token by token as
# it would write. For diffusion the bound, and its exact value when it writes from left to right. And because the
# language is known, the truth.

# %%
gpt, diffusion = twins["gpt"], twins["diffusion"]
x_0 = corpus.windows(L, size(64, 4))
with torch.no_grad():
    exact_gpt = left_to_right_nll(gpt, x_0)
    so_far = [gpt(x_0[:, :i])[:, -1].log_softmax(-1) for i in range(1, L)]  # what it says after i tokens
    by_token = [-log_p.gather(1, x_0[:, i : i + 1])[:, 0] for i, log_p in enumerate(so_far, 1)]
    bound = estimate_nelbo(diffusion, x_0, mask_id, samples=size(64, 8), rng=rng, given=1)
    in_order = left_to_right_nll(diffusion, x_0, mask_id, given=1)
    truth = Playlets().denoiser().nll(x_0, given=1)
agree("GPT: one pass, token by token", exact_gpt.mean(), torch.stack(by_token).mean())

counts = torch.bincount(corpus.train, minlength=mask_id).double() + 1
unigram = -(counts / counts.sum()).log()[x_0[:, 1:]].mean(1)
marks = [
    ("exact", truth, "exact", "="),
    ("GPT", exact_gpt, "gpt", "="),
    ("diffusion, left to right", in_order, "another", "="),
    ("diffusion", bound.per_sequence, "diffusion", "≤"),
    ("letter counts", unigram, "other", "="),
]
for name, nats, _, sign in marks:
    e = Estimate.of(nats)
    print(f"{name:26} {sign} {e.mean:.3f} ± {e.stderr:.3f} nats per character, {sign} {e.bits:.3f} bits")

# %%
fig, ax = plt.subplots(figsize=(8, 2.6))
for i, (name, nats, colour, sign) in enumerate(marks):
    high = 0.28 + 0.2 * (i % 3)
    ax.plot(nats.mean(), 0, "o", color=COLOURS[colour], markersize=9, clip_on=False)
    ax.plot([nats.mean()] * 2, [0, high], color=COLOURS[colour], linewidth=1)
    ax.text(nats.mean(), high + 0.02, f"{name} {sign} {nats.mean():.2f}", color=COLOURS[colour], ha="left")
ax.plot(math.log(mask_id), 0, "o", color=GREY, markersize=9, clip_on=False)
ax.text(math.log(mask_id), 0.1, f"ln {mask_id}", color=GREY, ha="center")
ax.axhline(0, color="black", linewidth=1, zorder=0)
ax.set(ylim=(0, 0.9), xlim=(0, 4.1), yticks=[], xlabel="nats per character, held-out text", title="One number line")
ax.spines["left"].set_visible(False)
ax.grid(False)
plt.show()
assert exact_gpt.mean() > truth.mean() - 4 * Estimate.of(exact_gpt - truth).stderr

# %% [markdown]
# At this size and budget the GPT is far ahead. Its task is easier to learn: of all $2^L$ ways to hide a text it has
# to know $L$. (The weights that are shipped were trained longer; `README.md` has their numbers, in the same unit.)
#
# ### Exercise 5.3: one unit
#
# A model with a vocabulary of word pieces reports nats *per token*. To stand on this line it needs bits *per
# character*.


# %%
def my_bits(nats_per_token, chars_per_token):
    """-> bits per character."""
    ...


# %%
check.step5.bits(my_bits)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A token of four characters pays for all four. One bit is $\ln 2 = 0.693$ nats. The solution is in
# [solutions/step5.py](solutions/step5.py).
# </details>
#
# ## How sure is the difference?
#
# The error bars above are large, because some texts are hard and some easy, *for both*. That part is common, and it
# drops out if the difference is taken text by text before it is averaged.

# %%
difference = bound.per_sequence - exact_gpt
apart = (bound.stderr**2 + Estimate.of(exact_gpt).stderr ** 2) ** 0.5
print(f"difference of the means: {difference.mean():.3f} ± {apart:.3f}, as if the texts were different ones")
print(f"mean of the differences: {difference.mean():.3f} ± {Estimate.of(difference).stderr:.3f}, text by text")

# %% [markdown]
# ### Exercise 5.4: paired


# %%
def my_paired(a, b):
    """a, b (n,): nats of two models on the same n texts -> the mean difference a - b, and its standard error."""
    ...


# %%
check.step5.paired(my_paired)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `d = a - b` is one sample of $n$ numbers. The standard error of its mean is `d.std() / n**0.5`. The solution is in
# [solutions/step5.py](solutions/step5.py).
# </details>
#
# ## Count the work
#
# Three measures of what a text costs, and they disagree:
#
# * **passes**: how often the network is called. They come one after the other.
# * **tokens read**: the sum of the lengths of what it is called with. This is the arithmetic.
# * **seconds**: on this machine, with this code.
#
# A GPT with a *cache* keeps what it has read and reads every token once. A diffusion model reads the whole page in
# every pass, for a letter that opens on the right changes what every letter on the left has heard.
#
# ### Exercise 5.5: by arithmetic
#
# A text of $L$ tokens of which the first `given` are a prompt. The GPT writes the others one by one. (To write token
# $i$, counted from 0, it has to have read tokens 0 to $i-1$.) Diffusion takes `steps` passes.


# %%
def my_tokens_read(L, given, steps):
    """-> tokens read by diffusion, by a GPT without a cache, by a GPT with one."""
    ...


# %%
check.step5.tokens_read(my_tokens_read)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Without a cache the pass for token $i$ reads $i$ tokens: sum over $i$ from `given` to $L - 1$. With one, every token
# but the last is read once. The solution is in [solutions/step5.py](solutions/step5.py).
# </details>

# %%
texts = size(16, 2)
start = x_0[:1].masked_fill(torch.arange(L) > 0, mask_id).repeat(texts, 1)
ways = {
    "GPT": (gpt, left_to_right, {}),
    "diffusion, 16 steps": (diffusion, confidence, {"num_steps": 16}),
    "diffusion, one by one": (diffusion, first_hitting, {}),
}
costs = {}
for name, (net, sampler, options) in ways.items():
    counted, begun = CountForwards(net), time.perf_counter()
    *_, written = sampler(counted, start, mask_id, rng=rng, **options)
    seconds = (time.perf_counter() - begun) / texts
    costs[name] = counted.passes, seconds, counted.token_forwards / texts
    print(f"{name:22} {counted.passes:4} passes {counted.token_forwards // texts:6,} tokens read   "
          f"{plain(corpus.tokenizer, written[0])}")  # fmt: skip
agree("GPT: tokens read, L - 1", costs["GPT"][2], L - 1)
agree("diffusion: tokens read, steps x L", costs["diffusion, 16 steps"][2], 16 * L)
agree("one by one: tokens read, (L - 1) x L", costs["diffusion, one by one"][2], (L - 1) * L)

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.2))
for name, line in (("GPT", "s-"), ("diffusion, 16 steps", "o-"), ("diffusion, one by one", "o:")):
    colour = RED if name == "GPT" else BLUE
    times = [c / g for c, g in zip(costs[name], costs["GPT"], strict=True)]
    ax.plot(range(3), times, line, color=colour)
    ax.text(2.08, times[2], name, color=colour, va="center")
ax.set_xticks(range(3), ["passes", "seconds", "tokens read"])
ax.set(yscale="log", ylabel="times the GPT's", xlim=(-0.2, 3.4), title="Whoever picks the measure picks the winner")
plt.show()

# %% [markdown]
# The seconds are of this machine; on a large parallel one a pass over many tokens costs little more than one over
# few, and the line moves towards the passes. Say which measure you mean, and give all three.
#
# How the costs grow with the length of the text, in tokens read for one text:


# %%
def draw_costs(ax, steps):
    lengths = torch.arange(16, 513, 8)
    ax.plot(lengths, lengths - 1, color=RED)
    ax.plot(lengths, lengths * (lengths - 1) / 2, ":", color=RED)
    ax.plot(lengths, steps * lengths, color=BLUE)
    ax.text(512, 511, " GPT", color=RED, va="center")
    ax.text(512, 130_000, " GPT, no cache", color=RED, va="center")
    ax.text(512, steps * 512, " diffusion", color=BLUE, va="center")
    ax.set(yscale="log", xlabel="length of the text", ylabel="tokens read", ylim=(10, 500_000), xlim=(0, 850))
    ax.set_xticks([0, 250, 500])
    ax.set_title(f"diffusion in {steps} passes")


slider(draw_costs, "passes", [1, 4, 8, 16, 32, 64, 128, 256], still=[8, 32, 128], sharey=True)

# %% [markdown]
# ## What diffusion has for it
#
# Blanks anywhere. Sixteen characters in the middle of a text are hidden. What do they cost, if both sides are
# visible, and if only the left side is? The GPT cannot look to the right at all. For the language itself, and for our
# network:

# %%
middle = torch.zeros(L, dtype=torch.bool)
middle[24:40] = True
after = torch.zeros(L, dtype=torch.bool)
after[40:] = True


def middle_nats(denoiser, x_0, hide_after):
    """Exact nats of the 16 characters, by the chain rule from left to right, with or without what follows."""
    nats, hidden = 0.0, (middle | after) if hide_after else middle.clone()
    for i in range(24, 40):
        x_t = x_0.masked_fill(hidden, mask_id)
        here = (torch.arange(L) == i).expand_as(x_0)
        nats = nats + masked_nll(denoiser, x_0, x_t, here, mask_id)[:, i]
        hidden = hidden & (torch.arange(L) != i)
    return nats / 16


with torch.no_grad():
    for name, denoiser in (("the language", Playlets().denoiser()), ("diffusion", diffusion)):
        left, both = (middle_nats(denoiser, x_0, hide).double() for hide in (True, False))
        gain = Estimate.of(left - both)
        print(f"{name:14} left only {left.mean():.3f}, both sides {both.mean():.3f}: "
              f"{gain.mean:+.3f} ± {gain.stderr:.3f} nats per character gained")  # fmt: skip
        if name == "the language":
            assert gain.mean > 0, "to know more never hurts, on average"

# %% [markdown]
# ## What to quote
#
# | claim | what it has to say |
# |---|---|
# | "better" | nats or bits per *character*, the same held-out text, $=$ or $\le$, the error, the same tokens given |
# | "faster" | passes, tokens read and seconds; with the GPT's cache; at which quality |
# | "generalises better" | best checkpoint against best checkpoint, not a late one that has overfitted |
#
# A number of frames in an animation is none of these.
#
# ## To take away
#
# * A GPT's value is exact, a diffusion model's a bound. They may stand on one line, and the sign belongs to the
#   number.
# * Compare text by text. The difference of two means has the noise of both.
# * Fewer passes are not less work. A cache is what a GPT has for it; blanks anywhere is what diffusion has.
#
# **Still missing.** Diffusion has no cache, and a GPT no second look. Is there anything in between? Notebook 6.
