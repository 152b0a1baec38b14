"""Step 6: blocks, all that lies between a GPT and a diffusion model

Question.  A GPT writes from left to right, a diffusion model anywhere. Is there anything in between?
Answer.    Blocks from left to right, inside a block any order. Blocks of one token are the GPT's chain rule, one block
           is the diffusion model of step 4: one loss, one network, one slider.

Written out here      block_attention, mask_blocks, block_nelbo, next_block             (compare microdlm/blocks.py)
Taken from earlier    mask_count (step 0), Transformer (2), samplers (3), the count form (4), KV cache (5)
Not the lesson        the training loop (1); laying out the page and looping over blocks (one_pass, write_blocks)

Run        python steps/step6_blocks.py                        two minutes on two cores; with --smoke, seconds
           python steps/step6_blocks.py --data shakespeare     or the path of any text file
Expect     both ends exactly; passes and tokens read, computed and then counted; in between a score that rises with
           the block length: the card at the end shows what three seeds measured (results/steps.json)
Look at    an exact denoiser scores alike at every length: blocks cost no likelihood by themselves. What rises is how
           much there is to learn in equally many steps. At length 1 that is what a GPT learns, asked of a MASK.
Break it   --break peek          a noised block also sees its own clean copy
           --break leak          clean blocks see all clean blocks, also those to their right
           --break keep_noise    the cache keeps what a block meant while it still had blanks
Still missing   the count k was drawn evenly from 1 to the block's length. Does another schedule train better?
"""

from dataclasses import replace
from functools import partial

import torch
from rich.table import Table
from rich.text import Text

from microdlm import cli
from microdlm.blocks import estimate_block_nelbo, one_by_one, one_pass, write_blocks
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.cost import CountForwards
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson, fit
from microdlm.likelihood import Estimate, estimate_nelbo, left_to_right_nll
from microdlm.masking import mask_count, stratified, to_count
from microdlm.objectives import count_nelbo, logits_at, masked_nll, next_token_nll
from microdlm.oracle import MarkovDenoiser
from microdlm.playlets import Playlets
from microdlm.state import TrainConfig
from microdlm.terminal import coloured
from microdlm.transformer import KVCache, Transformer, TransformerConfig

L, LENGTHS, GPT = 64, (1, 4, 16, 64), 0  # tokens of a text; the block lengths; how we number the GPT among them
SIZES, HOW = dict(n_layer=3, n_head=2, d_model=64), TrainConfig(steps=2000, batch_size=8, lr=4e-3)
WINDOWS, SAMPLES, AT_ONCE = 128, 8, 2  # held-out texts; masks for each; tokens a pass writes, if its block has them
BREAKS = {
    "peek": "the answers are on the page: the score falls below the entropy of the language, which nothing can",
    "leak": "no arrow leads from a token to its own blank, yet in two layers it gets there: too good to be true",
    "keep_noise": "a block is remembered as it was with its last blanks: with the cache the network answers otherwise",
}


def block_attention(L, block_length, device=None, mistake=None):
    """Who (row) sees whom (column) on the page [x_t, x_0]: everyone their own block, and the clean blocks before it.
    The last clean block is left out, for nobody would see it."""
    block = torch.arange(L, device=device) // block_length
    block = torch.cat([block, block[block < block[-1]]])
    is_clean = torch.arange(len(block), device=device) >= L
    own = (block == block[:, None]) & (is_clean == is_clean[:, None])
    seen = own | (is_clean & (block < block[:, None]))
    slips = {"peek": is_clean & (block == block[:, None]), "leak": is_clean & is_clean[:, None]}
    return seen | slips.get(mistake, seen)


def mask_blocks(x_0, mask_id, block_length, rng=None):
    """As if every block were a text of its own: k ~ U{1..block_length} of its tokens are masked."""
    blocks = x_0.reshape(-1, block_length)
    u = stratified(len(x_0), len(blocks) // len(x_0), rng=rng, device=x_0.device)
    x_t, is_masked = mask_count(blocks, to_count(u.flatten(), block_length), mask_id, rng)
    return x_t.view(x_0.shape), is_masked.view(x_0.shape)


def block_nelbo(nll, is_masked, block_length):
    """Step 4's count form of every block, and their mean: by the chain rule a bound on -log p of the whole text."""
    return count_nelbo(nll.reshape(-1, block_length), is_masked.reshape(-1, block_length)).view(len(nll), -1).mean(1)


def gpt_loss(model, x_0, rng):
    return next_token_nll(model(x_0), x_0).mean()


def block_loss(model, x_0, rng, block_length, read):
    """What is made small for a batch of texts. `read` lays out the page and gives a denoiser of x_t."""
    mask_id = model.cfg.vocab_size - 1
    x_t, is_masked = mask_blocks(x_0, mask_id, block_length, rng)
    nll = masked_nll(read(model, x_0, mask_id, block_length), x_0, x_t, is_masked, mask_id)
    return block_nelbo(nll, is_masked, block_length).mean()


def next_block(model, cache, before, block_length, keep_noise=False):
    """A denoiser for the block after `before`. It reads what of that is not in the cache yet, and the block."""

    def denoiser(part, at):
        cache.forget(after=min(cache.length, before.size(1)))  # only --break keep_noise has left anything there
        new = torch.cat([before[:, cache.length :], part], dim=1)
        block = torch.arange(before.size(1) + part.size(1), device=part.device) // block_length
        seen = block[cache.length :, None] >= block
        at = (at // part.size(1) + 1) * new.size(1) - part.size(1) + at % part.size(1)  # the same places of `new`
        logits = logits_at(model, new, at, cache=cache, seen=seen)
        # The block still has blanks. What follows must see it finished: it is forgotten, and read once more then.
        cache.forget(after=cache.length if keep_noise else before.size(1))
        return logits

    denoiser.takes_at = denoiser.every_row = True
    return denoiser


def train(cfg, corpus, device, read):
    """Five networks; all read the same texts in the same order, in equally many steps."""
    models, how = {}, replace(HOW, steps=20 if cfg.smoke else HOW.steps, seed=cfg.seed)
    for n in (GPT, *LENGTHS):
        weights, order = (torch.Generator().manual_seed(cfg.seed) for _ in range(2))
        vocab = len(corpus.tokenizer) + (n != GPT)  # a GPT has no MASK
        models[n] = Transformer(TransformerConfig(vocab, L, **SIZES, causal=n == GPT), weights)
        loss = partial(block_loss, block_length=n, read=read) if n else gpt_loss
        title = f"block length {n}" if n else "GPT"
        fit(models[n], how, loss, lambda B, L, _, order=order: corpus.batch(B, L, order), device, title)
    return models


def score(lesson, models, x_0, mask_id, read):
    """Nats per character of all but the first, which a GPT cannot predict. The two ends are scored in two ways."""
    found, masks = {GPT: Estimate.of(left_to_right_nll(models[GPT], x_0))}, partial(torch.Generator().manual_seed, 0)
    for n in LENGTHS:  # in blocks of one token nothing is random
        found[n] = estimate_block_nelbo(models[n], x_0, mask_id, n, SAMPLES if n > 1 else 1, masks(), 1, read)
    from_left = torch.ones(L, L, dtype=torch.bool, device=x_0.device).tril()
    slow = left_to_right_nll(lambda x_t: models[1](x_t, seen=from_left), x_0[:8], mask_id, given=1).cpu()
    plain = estimate_nelbo(models[L], x_0, mask_id, SAMPLES, masks(), given=1).per_sequence
    off = [(a - found[n].per_sequence[: len(a)]).abs().max().item() for n, a in ((1, slow), (L, plain))]
    lesson.claim("length 1 is the chain rule, token by token", off[0] < 1e-5, f"off by {off[0]:.0e}", "peek leak")
    lesson.claim(f"length {L} is plain diffusion, same masks", off[1] < 1e-5, f"off by {off[1]:.0e}")
    return found


def check_exact(lesson, rng):
    """With exact conditionals the bound of every block length is -log p itself."""
    chain = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.3, 0.7]]))
    truth = chain.nll(x_0 := chain.sample(100, 16, rng))
    lesson.predict("an exact denoiser at lengths 1, 4 and 16", f"{truth.mean():.4f} nats each")
    found = [estimate_block_nelbo(chain, x_0, 2, n, 16, rng, read=one_by_one) for n in (1, 4, 16)]
    holds = all(abs(d.mean) < 4 * d.stderr + 1e-9 for d in (Estimate.of(e.per_sequence - truth) for e in found))
    lesson.claim("blocks cost an exact denoiser nothing", holds, " ".join(f"{e.mean:.4f}" for e in found))


def check_cache(lesson, model, x_0, mask_id, read, n=4):
    """Every block is asked twice: on the page that trained the network, and with a cache of the blocks before it."""
    x_t, is_masked = mask_blocks(x_0, mask_id, n, torch.Generator().manual_seed(0))
    page = read(model, x_0, mask_id, n)(x_t, torch.ones_like(is_masked)).log_softmax(-1).view(*x_0.shape, -1)
    cache, rows = KVCache(model.cfg.n_layer), []
    for start, part in zip(range(0, L, n), x_t.split(n, dim=1), strict=True):
        ask = next_block(model, cache, x_0[:, :start], n, lesson.broken == "keep_noise")
        rows.append(ask(part, torch.arange(part.numel(), device=x_0.device)).view(*part.shape, -1))
    gap = (torch.cat(rows, dim=1).log_softmax(-1) - page).abs()[is_masked].max().item()
    lesson.claim("the cache changes no answer", gap < 1e-4, f"by {gap:.0e} nats at most", "keep_noise peek leak")
    lesson.number("gap", gap, "most that the cache changes, nats")


def count_costs(lesson, models, mask_id, how):
    """{block length: (passes, tokens read)} of one text."""
    passes, found = {n: L // min(n, AT_ONCE) for n in LENGTHS}, {}
    costs = {n: (p, p * n + L - n) for n, p in passes.items()}  # its block in every pass; all but the last once more
    lesson.predict("passes, tokens read", " ".join(map(str, costs.values())))
    for n in LENGTHS:
        x, model = torch.full((1, L), mask_id, device=lesson.device), CountForwards(models[n])
        *_, x = write_blocks(model, x, mask_id, L // AT_ONCE, block_length=n, **how)
        found[n] = model.passes, model.token_forwards
    lesson.claim("passes and tokens read are as predicted", found == costs, f"for {L} tokens")
    return costs


def watch(lesson, model, tok, end_id, how, n=4):
    """One line of text, a block at a time. The line ends with end_id, and no pass is made for what would follow."""
    x = torch.full((1, L), tok.mask_id, device=lesson.device)
    x[0, 0] = end_id  # a line begins where another ended
    states = [x, *write_blocks(model, x, tok.mask_id, L // AT_ONCE, block_length=n, end_id=end_id, **how)]
    for i, x_t in enumerate(pages := states[n // AT_ONCE :: n // AT_ONCE]):
        text = coloured(x_t[0].tolist(), [x, *pages][i][0].tolist(), tok, L)
        lesson.say(Text("  ") + text[: i * n] + "[" + text[i * n : i * n + n] + "]" + text[i * n + n :])
    line = [*x_t[0, 1:].tolist(), end_id].index(end_id) + 1
    passes = min(line // n + 1, L // n) * n // AT_ONCE
    lesson.claim("passes end where the text ends", len(states) - 1 == passes, f"{passes} for {line} characters")


def judge(lesson, found, truth):
    """Where the scores lie. Differences are taken text by text, which is far less noisy than between means."""
    rise, gap = (Estimate.of(found[n].per_sequence - found[m].per_sequence) for n, m in ((L, 1), (1, GPT)))
    off = f"{gap.mean:+.3f} ± {gap.stderr:.3f}"
    lesson.claim(f"length {L} scores above length 1", rise.mean > 4 * rise.stderr, f"by {rise.mean:.3f}", trained=True)
    lesson.claim("length 1: a tenth off GPT at most", abs(gap.mean) < rise.mean / 10, off, "peek leak", trained=True)
    if truth is not None:
        low = min((Estimate.of(found[n].per_sequence - truth) for n in LENGTHS), key=lambda e: e.mean / e.stderr)
        lesson.claim("none is below the exact value", low.mean > -4 * low.stderr, f"{low.mean:+.3f}", "peek leak", True)


def slider(lesson, found, costs, others):
    """The knob goes from the GPT to diffusion, and the score with it."""
    t = Table("block", "GPT            diffusion", "nats per character", "passes", "tokens read", box=None)
    for i, (n, (passes, read)) in enumerate(costs.items()):
        knob = Text.assemble("─" * 7 * i, ("●", COLOURS["diffusion" if i else "gpt"]), "─" * 7 * (3 - i))
        score = f"{'≤' if i else '='} {found[n].mean:.3f} ± {found[n].stderr:.3f}"
        t.add_row(str(n), knob, score, str(passes), f"{read:,}")
        lesson.number(f"block_{n}", found[n].mean, f"block length {n}, nats per character")
    for name, nats in others.items():
        t.add_row("", name, f"= {nats:.3f}")
        lesson.number(name.replace(" ", "_"), nats, f"{name}, nats per character")
    lesson.say(t)


def draw(ax, found, costs, others):
    for i, n in enumerate(LENGTHS):
        e, colour = found[n], COLOURS["diffusion" if i else "gpt"]
        ax.errorbar(i, e.mean, 2 * e.stderr, fmt="o" if i else "s", color=colour, capsize=4)  # two standard errors
        ax.annotate(f"{'≤' if i else '='} {e.mean:.2f}", (i, e.mean), (9, 1), textcoords="offset points", color=colour)
    for name, line, colour, up in (("a GPT", ":", "gpt", 5), ("the exact value", "--", "exact", -14)):
        if name in others:
            ax.axhline(others[name], linestyle=line, color=COLOURS[colour], linewidth=1.5)
            ax.annotate(name, (1.4, others[name]), (0, up), textcoords="offset points", color=COLOURS[colour])
    ax.set_xticks(range(4), [f"{n}\n{costs[n][0]} passes,\n{costs[n][1]:,} read for {L}" for n in LENGTHS])
    ax.set(ylim=(0, None), ylabel="nats per character", xlabel="block length", title="From GPT to diffusion")


def main(cfg: Config) -> None:
    lesson, rng = Lesson("step6_blocks", cfg, BREAKS), torch.Generator().manual_seed(cfg.seed)
    corpus = load_corpus(cfg.data, min_length=L, n_chars=200_000 if cfg.smoke else 4_000_000)
    tok, read = corpus.tokenizer, partial(one_pass, attention=partial(block_attention, mistake=lesson.broken))
    x_0, how = corpus.windows(L, 8 if cfg.smoke else WINDOWS).to(lesson.device), {"pace": "linear", "rng": rng}
    check_exact(lesson, rng)
    models = train(cfg, corpus, lesson.device, read)
    with torch.no_grad():
        found = score(lesson, models, x_0, tok.mask_id, read)
        check_cache(lesson, models[4], x_0, tok.mask_id, read)
    costs = count_costs(lesson, models, tok.mask_id, how)
    watch(lesson, models[4], tok, max(tok.alphabet.find("\n"), 0), how)
    seen, truth = corpus.train.bincount(minlength=len(tok)).clamp(min=1).double(), None
    others = {"a GPT": found[GPT].mean, "each letter alone": (seen.sum() / seen).log()[x_0[:, 1:].cpu()].mean().item()}
    if corpus.entropy_rate is not None:
        truth = Playlets().denoiser().nll(x_0, given=1)
        others["the exact value"] = truth.mean().item()
    slider(lesson, found, costs, others)
    judge(lesson, found, truth)
    with figure(lesson.path(".png")) as (_, ax):
        draw(ax, found, costs, others)
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
