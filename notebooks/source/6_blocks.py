# %% [markdown]
# # 6. Is there anything in between?
#
# A GPT writes from left to right and keeps what it has read. A diffusion model writes anywhere and reads everything
# anew in every pass. In between lie **blocks**: from left to right block by block, and inside a block in any order.
# Blocks of one token are the GPT's chain rule, one block is plain diffusion: one loss, one network, one slider.
#
# *You need* notebooks 4 and 5. *The step* is `steps/step6_blocks.py`.

# %%
import math

import check
import matplotlib.pyplot as plt
import torch
from show import BLUE, RED, agree, plain, size, slider

from microdlm.blocks import (
    block_attention,
    block_nelbo,
    estimate_block_nelbo,
    mask_blocks,
    one_by_one,
    one_pass,
    write_blocks,
)
from microdlm.corpus import load_corpus
from microdlm.cost import CountForwards
from microdlm.lesson import fit
from microdlm.likelihood import Estimate, left_to_right_nll
from microdlm.objectives import masked_nll, next_token_nll
from microdlm.oracle import MarkovDenoiser
from microdlm.playlets import Playlets
from microdlm.state import TrainConfig
from microdlm.transformer import Transformer, TransformerConfig

rng = torch.Generator().manual_seed(0)
sticky = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))

# %% [markdown]
# ## The chain rule over blocks
#
# Cut a text into blocks $x^1, x^2, \dots$ of $n$ tokens. Without any approximation
#
# $$-\log p(x) = \sum_b -\log p\big(x^b \mid x^1, \dots, x^{b-1}\big).$$

# %%
x_0 = sticky.sample(500, 16, rng)
whole = 16 * sticky.nll(x_0)
for n in (1, 4, 8):
    parts = sum(n * sticky.nll(x_0[:, : start + n], given=start) for start in range(0, 16, n))
    agree(f"blocks of {n}: sum of -log p(block | before), -log p", parts.mean(), whole.mean())

# %% [markdown]
# Inside a block we do as in notebook 4: hide $k \sim U\{1..n\}$ of its $n$ tokens, and take the mean surprise at
# them, given what is visible of the block *and all blocks before it*, clean. Each term is bounded, and so is the sum:
#
# $$-\log p(x) \;\le\; \sum_b n\; \mathbb{E}_k\, \frac1k \sum_{i \text{ hidden in } b}
#   -\log p\big(x_i \mid \text{visible in } b,\; x^1, \dots, x^{b-1}\big).$$
#
# At $n = 1$ there is only $k = 1$: nothing is random, the bound is an equality, and each token is asked for given all
# tokens before it. That is the GPT's chain rule, asked of a MASK that stands where the answer belongs. At $n = L$ it
# is notebook 4. And an exact denoiser scores the same at every length:

# %%
truth = sticky.nll(x_0)
for n in (1, 2, 4, 16):
    e = estimate_block_nelbo(sticky, x_0, 2, n, size(16, 8), rng, read=one_by_one)
    gap = Estimate.of(e.per_sequence - truth)
    agree(f"exact denoiser, blocks of {n}: bound, -log p", e.mean, truth.mean(), error=gap.stderr)

# %% [markdown]
# **Blocks cost no likelihood by themselves.** If a network scores worse with longer blocks, it is because there is
# more to learn.
#
# ### Exercise 6.1: the bound of a text in blocks


# %%
def my_block_nelbo(nll, is_masked, n):
    """nll (B, L), 0 where visible; is_masked (B, L), at least one token in every block of n -> (B,) nats per token."""
    ...


# %%
check.step6.block_nelbo(my_block_nelbo)

# %% [markdown]
# <details><summary>Hint</summary>
#
# `nll.reshape(B, -1, n)` has a block a row. In each the mean over its own hidden tokens; then the mean over blocks.
# The solution is in [solutions/step6.py](solutions/step6.py).
# </details>
#
# ### Exercise 6.2: how many questions?
#
# How many different questions can be asked of one text: which block, and which of its tokens are hidden (at least
# one)?


# %%
def my_questions(L, n):
    """A text of L tokens in blocks of n (n divides L) -> how many different masks of one block there are, in all."""
    ...


# %%
check.step6.questions(my_questions)

# %% [markdown]
# <details><summary>Hint</summary>
#
# $n$ tokens can be hidden or not in $2^n$ ways. One of these is no question. The solution is in
# [solutions/step6.py](solutions/step6.py).
# </details>

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
lengths = torch.tensor([1, 2, 4, 8, 16, 32, 64]).double()
ax.plot(lengths, 64 / lengths * (2**lengths - 1), "o-", color=BLUE)
ax.set(xscale="log", yscale="log", xlabel="block length n", ylabel="questions")
ax.set_xticks(lengths, [f"{int(n)}" for n in lengths])
ax.set_title("What there is to know about one text of 64 tokens")
ax.text(1, 3000, "a GPT: 64")
ax.text(50, 2.0**62, "diffusion", ha="right", va="center")
plt.show()

# %% [markdown]
# ## All blocks in one pass
#
# Every block has to see itself *noised* and the blocks before it *clean*. That looks like one pass for each block.
# But a transformer may read a page of two copies, $[x_t, x_0]$, if it is told who sees whom:
#
# * a noised token sees its own block, noised, and the clean blocks before it;
# * a clean token sees its own block, clean, and the clean blocks before it;
# * **nobody sees the clean copy of their own block**: there the answers stand.


# %%
def draw_page(ax, n, length=16):
    seen = block_attention(length, n)
    ax.imshow(seen, cmap="Blues", vmin=0, vmax=1.6)
    ax.axhline(length - 0.5, color="black", linewidth=1)
    ax.axvline(length - 0.5, color="black", linewidth=1)
    ax.set(xticks=[], yticks=[], title=f"blocks of {n}")
    ax.set_xlabel("seen: noised | clean")
    ax.grid(False)


slider(draw_page, "n", [1, 2, 4, 8, 16], still=[1, 4, 8, 16], figsize=(10, 3))

# %% [markdown]
# Row: who looks. Column: at whom. Top left the blocks, noised; top right the clean past; bottom right the clean copy
# reading itself. (The last clean block is left out, for nobody would see it.) On the far left the noised part has
# become a diagonal, and on the far right there is no clean part any more: the GPT and plain diffusion.
#
# ### Exercise 6.3: who sees whom


# %%
def my_page(L, n):
    """A page of 2 L places: L noised, then L clean, in blocks of n -> (2 L, 2 L) bool, True where row sees column."""
    ...


# %%
check.step6.page(my_page)

# %% [markdown]
# <details><summary>Hint</summary>
#
# Give every place two labels: `block = torch.arange(L).repeat(2) // n` (careful: of the place within its copy) and
# `is_clean`. With `[:, None]` for the row, the rule is: the same block and the same copy, *or* the column is clean
# and its block is earlier. The solution is in [solutions/step6.py](solutions/step6.py).
# </details>
#
# Does nothing leak? Change a clean token and see which noised positions answer differently: those of *later* blocks.

# %%
L, n = 16, 4
demo = Transformer(TransformerConfig(9, L, n_layer=2, n_head=2, d_model=32), rng)
for weight in demo.parameters():
    torch.nn.init.normal_(weight, std=0.3, generator=rng)
text = torch.randint(8, (1, L), generator=rng)
x_t, is_masked = mask_blocks(text, 8, n, rng)
everywhere = torch.ones_like(is_masked)
with torch.no_grad():
    before = one_pass(demo, text, 8, n)(x_t, everywhere)
    for i in (1, 6, 13):
        edited = text.clone()
        edited[0, i] = (edited[0, i] + 1) % 8
        moved = (one_pass(demo, edited, 8, n)(x_t, everywhere) - before).abs().amax(-1) > 1e-6
        print(f"clean token {i:2} (block {i // n}) is edited: answers of blocks", sorted({
            j // n for j in moved.nonzero().flatten().tolist()
        }), "move")  # fmt: skip
        assert not moved[: (i // n + 1) * n].any(), "a block has seen its own answers"

# %% [markdown]
# ## Turn the slider
#
# The same network, texts and number of steps for every block length, and a GPT. All are scored for all characters but
# the first.

# %%
corpus = load_corpus("playlets", n_chars=size(1_000_000, 60_000))
mask_id, L = corpus.tokenizer.mask_id, 64
SIZES = dict(seq_len=L, n_layer=3, n_head=2, d_model=64)
how = TrainConfig(steps=size(1500, 5), batch_size=8, lr=4e-3)


def block_loss(n):
    def loss(model, x_0, rng):
        x_t, is_masked = mask_blocks(x_0, mask_id, n, rng)
        nll = masked_nll(one_pass(model, x_0, mask_id, n), x_0, x_t, is_masked, mask_id)
        return block_nelbo(nll, is_masked, n).mean()

    return loss


def gpt_loss(model, x_0, rng):
    return next_token_nll(model(x_0), x_0).mean()


def trained(name, loss, vocab, causal=False):
    net, order = (
        Transformer(TransformerConfig(vocab, **SIZES, causal=causal), torch.Generator().manual_seed(0)),
        torch.Generator().manual_seed(1),
    )
    fit(net, how, loss, lambda B, L, _: corpus.batch(B, L, order), "cpu", name)
    return net.requires_grad_(False)


LENGTHS = size((1, 4, 16, 64), (1, 64))
gpt = trained("GPT", gpt_loss, mask_id, causal=True)
nets = {n: trained(f"blocks of {n}", block_loss(n), mask_id + 1) for n in LENGTHS}

# %%
held_out = corpus.windows(L, size(96, 4))
exact = Estimate.of(Playlets().denoiser().nll(held_out, given=1))
gpt_value = Estimate.of(left_to_right_nll(gpt, held_out))
found = {}
for n in LENGTHS:
    masks = torch.Generator().manual_seed(2)
    found[n] = estimate_block_nelbo(nets[n], held_out, mask_id, n, size(8, 2) if n > 1 else 1, masks, given=1)
    print(f"blocks of {n:2}  {'≤' if n > 1 else '='} {found[n].mean:.3f} ± {found[n].stderr:.3f} nats per character")
print(f"a GPT         = {gpt_value.mean:.3f} ± {gpt_value.stderr:.3f}\nthe language  = {exact.mean:.3f}")

from_left = torch.ones(L, L, dtype=torch.bool).tril()
with torch.no_grad():
    slow = left_to_right_nll(lambda x: nets[1](x, seen=from_left), held_out[:4], mask_id, given=1)
agree("\nblocks of 1: in one pass, token by token", found[1].per_sequence[:4].mean(), slow.mean())

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.4))
for i, n in enumerate(LENGTHS):
    e, colour = found[n], BLUE if n > 1 else RED
    ax.errorbar(i, e.mean, 2 * e.stderr, fmt="o" if n > 1 else "s", color=colour, capsize=4)
    beside = (7, 0) if n > 1 else (-2, 9)  # a block of one lies where the GPT's line does
    label = f"{'≤' if n > 1 else '='} {e.mean:.2f}"
    ax.annotate(label, (i, e.mean), beside, textcoords="offset points", color=colour, va="center")
for name, value, colour, line in (("a GPT", gpt_value.mean, RED, ":"), ("the language", exact.mean, "black", "--")):
    ax.axhline(value, color=colour, linestyle=line, linewidth=1.5)
    ax.text(len(LENGTHS) - 0.55, value + (0.05 if name == "a GPT" else -0.16), name, color=colour, ha="right")
ax.set_xticks(range(len(LENGTHS)), LENGTHS)
ax.set_xlim(-0.2, len(LENGTHS) - 0.5)
ax.set(xlabel="block length", ylabel="nats per character", ylim=(0, None), title="From GPT to diffusion, one slider")
plt.show()

# %% [markdown]
# ## What a text costs
#
# Finished blocks never change, so they are kept in a cache and not read again. A pass reads the block that is being
# written, and a finished block is read once more, now without blanks (the last one need not be).
#
# ### Exercise 6.4: count


# %%
def my_cost(L, n, at_once):
    """L tokens in blocks of n; a pass opens `at_once` tokens of its block (both divide) -> passes, tokens read."""
    ...


# %%
check.step6.cost(my_cost)

# %% [markdown]
# <details><summary>Hint</summary>
#
# A block takes $n$ / `at_once` passes, each of which reads $n$ tokens. A block of one token opens one token.
# The solution is in [solutions/step6.py](solutions/step6.py).
# </details>

# %%
with torch.no_grad():
    for n in LENGTHS:
        counted, at_once = CountForwards(nets[n]), min(n, 2)
        x = torch.full((1, L), mask_id)
        *_, x = write_blocks(counted, x, mask_id, L // at_once, block_length=n, pace="linear", rng=rng)
        print(f"blocks of {n:2}: {counted.passes:3} passes, {counted.token_forwards:5,} tokens read   "
              f"{plain(corpus.tokenizer, x[0])[:44]}")  # fmt: skip
        assert (counted.passes, counted.token_forwards) == (L // at_once, L // at_once * n + L - n)

# %% [markdown]
# ## Haste inside a block
#
# Do short blocks make haste cheaper? Two tokens opened in the same pass do not see each other. In a block of two they
# are *neighbours*, that know most of each other; in a long block they are mostly far apart. For the sticky language,
# exactly: a block of two after a visible letter loses $I(X_1; X_2 \mid X_0)$, half of it a letter.


# %%
def entropy_of(p):
    return -(p * math.log(p) + (1 - p) * math.log(1 - p))


two_later = 0.9 * 0.9 + 0.1 * 0.1  # P(the letter two places on is the same)
lost_by_two = (entropy_of(two_later) - entropy_of(0.9)) / 2


def lost(n, x_0, at_once=2):
    """(B,) nats per token lost, when a pass opens two tokens of its block at random places."""
    B, L = x_0.shape
    turn = torch.rand(B, L // n, n, generator=rng).argsort(-1).argsort(-1).flatten(1) + n * (torch.arange(L) // n)
    nats, start = 0.0, n if n < L else 0  # the first block has no letter before it: left out, for short blocks
    for done in range(start, L, at_once):
        x_t, opens = x_0.masked_fill(turn >= done, 2), (turn >= done) & (turn < done + at_once)
        nats = nats + masked_nll(sticky, x_0, x_t, opens, 2).sum(1)
    return nats / (L - start) - sticky.nll(x_0, given=start)


many = sticky.sample(size(10_000, 1500), 16, rng)
for n in (2, 4, 8, 16):
    e = Estimate.of(lost(n, many))
    print(f"blocks of {n:2}: {e.mean:.4f} ± {e.stderr:.4f} nats lost per letter, two at a time")
    if n == 2:
        agree("    which is I(X_1; X_2 | X_0) / 2", e.mean, lost_by_two, error=e.stderr)

# %% [markdown]
# So a short block is good for the cache and for learning, and bad for haste. Everything has its price, and here all
# three prices are known.
#
# ## The end of a text
#
# Plain diffusion starts from a page whose length somebody has chosen. Blocks can *stop*: as soon as a finished block
# holds the end, nothing to the right of it is written. Here a line ends with a line break, and no pass is made after
# that.

# %%
end_id = corpus.tokenizer.alphabet.index("\n")
n = LENGTHS[1]
x = torch.full((1, L), mask_id)
x[0, 0] = end_id
states = [*write_blocks(nets[n], x, mask_id, L // 2, block_length=n, end_id=end_id, pace="linear", rng=rng)]
line = [*states[-1][0, 1:].tolist(), end_id].index(end_id)
for state in states[:: max(1, len(states) // 6)] + states[-1:]:
    print(plain(corpus.tokenizer, state[0]))
print(f"\n{len(states)} passes for a line of {line} characters; a full page takes {L // 2}")

# %% [markdown]
# ## To take away
#
# * The chain rule over blocks, and inside each the bound of notebook 4: between GPT and diffusion there is one
#   slider.
# * An exact denoiser scores alike at every block length. A network has more to learn the longer the blocks are.
# * Finished blocks can be cached and a text can end: passes $\times n$ $+$ the rest, once.
# * In short blocks tokens opened together are neighbours, and haste costs more.
#
# **Still missing.** The count $k$ was drawn evenly from 1 to $n$. Does another noise schedule train better? Step 7.
