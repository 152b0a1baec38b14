"""Step 5: the twins

Question.  diffusion.py and gpt.py differ in five places. Which is better, and at what?
Answer.    Ask both for the same characters, and count what both do. At this size and budget the GPT knows the text
           better, by far more than the error; and it reads every token once, where diffusion reads the whole page in
           every pass. What diffusion has for it: few passes, and blanks anywhere.

Written out here      nats_per_char, cost, left_to_right with and without a cache    (compare microdlm/comparison.py)
Taken from earlier    Transformer (step 2), confidence and first_hitting (step 3), estimate_nelbo (step 4)
Not the lesson        training: diffusion.py and gpt.py do it, called from here

Run        python steps/step5_twins.py       three minutes on two cores; --data shakespeare: as shipped, no training
Expect     parameters, tokens seen and tokens read are predicted by arithmetic, and must be met exactly. The card at
           the end shows what three seeds measured (results/steps.json).
Look at    three costs that disagree: passes, tokens read, seconds. Whoever picks one picks the winner.
Break it   --break training_loss    quote what training printed, each model's own loss on its own text
           --break batch_ratio      diffusion: the mean over all hidden tokens of the batch, t uniform
           --break frames           count the frames of the animation as the cost
Still missing   diffusion has no cache, and GPT no second look. Is there anything in between (step 6)?
"""

import math
import subprocess
import sys
import time
from functools import partial

import torch
from rich.text import Text
from torch import Tensor

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.cost import CountForwards
from microdlm.drawing import draw
from microdlm.errors import UserError
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson
from microdlm.likelihood import Estimate, estimate_nelbo, left_to_right_nll
from microdlm.masking import mask_tokens
from microdlm.objectives import masked_nll
from microdlm.playlets import Playlets
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import ROOT
from microdlm.samplers import confidence, first_hitting
from microdlm.schedules import SCHEDULES
from microdlm.terminal import NEWLINE, STYLES, console
from microdlm.transformer import KVCache

TRAINING = 3000  # steps of each twin, 8 windows of 128 letters a step
WINDOWS = 128  # held-out windows that both are asked about
SAMPLES = 32  # masks a window, for diffusion's bound
TEXTS = 16  # written at once when costs are counted
STEPS = 32  # in which diffusion writes a text
BREAKS = {
    "training_loss": "other text, and for diffusion one character more: the numbers are of different things",
    "batch_ratio": "diffusion's number grows, by about a sixth of the rise of its curve (step 2): long gaps count more",
    "frames": "diffusion seems to read fewer tokens than the GPT: a frame of it is a whole page, and counted as one",
}


def trained(kind: str, lesson: Lesson, corpus) -> LanguageModel:
    """One of the twins, trained by its own script. On Tiny Shakespeare: the one that is shipped."""
    cfg = lesson.cfg
    if cfg.data == "shakespeare":
        lesson.say(f"  {kind}: shipped, weights/shakespeare-{kind}")
        return load(f"shakespeare-{kind}", lesson.device)
    home = (cfg.out or ROOT / "runs" / "steps").absolute()
    name = f"step5_{kind}-{corpus.name}-{corpus.sha256[:6]}-{cfg.seed}{'-smoke' * cfg.smoke}"
    folders = [done.parent for done in sorted(home.glob(f"{name}-*/done.json"))]
    if lesson.broken and folders:  # a break is in the scoring: the twins of the run before will do
        lesson.say(f"  {kind}: trained before, {folders[-1].name}")
        return load(folders[-1], lesson.device)
    folder = home / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    options = dict(data=cfg.data, steps=1 if cfg.smoke else TRAINING, seed=cfg.seed, device=lesson.device, out=folder)
    words = [str(word) for option, value in options.items() for word in (f"--{option}", value)]
    console.file.flush()
    if subprocess.run([sys.executable, ROOT / f"{kind}.py", "--train", *words]).returncode:
        raise UserError(f"{kind}.py did not finish its training: what it says stands above")
    return load(folder, lesson.device)


def nats_per_char(lm: LanguageModel, x_0: Tensor, corpus, samples: int, seed: int, given: int = 1) -> Estimate:
    """-log p of x_0 (B, L): exact for a GPT, for a diffusion model an upper bound by `samples` masks a window.

    The first character is given to both, because a GPT cannot be asked for it: so they answer for the same ones.
    """
    if lm.kind == "gpt":
        return Estimate.of(left_to_right_nll(lm.model, x_0) / corpus.chars_per_token)
    bound = estimate_nelbo(lm.model, x_0, lm.mask_id, samples, torch.Generator().manual_seed(seed), given=given)
    return Estimate.of(bound.per_sequence / corpus.chars_per_token)


def training_loss(lm, x_0, corpus, samples, seed) -> Estimate:
    """--break: the text that was learned, and no character given to diffusion."""
    learned = corpus.batch(*x_0.shape, torch.Generator().manual_seed(seed)).to(x_0.device)
    return nats_per_char(lm, learned, corpus, samples, seed, given=0)


@torch.no_grad()
def batch_ratio(lm, x_0, corpus, samples, seed) -> Estimate:
    """--break: t ~ U(0, 1), then one mean over all hidden tokens. Where much is hidden there are more of them."""
    if lm.kind == "gpt":
        return nats_per_char(lm, x_0, corpus, samples, seed)
    rng, nats, hidden = torch.Generator().manual_seed(seed), 0.0, 0
    for _ in range(samples):
        x_t, is_masked = mask_tokens(x_0, torch.rand(len(x_0), generator=rng).to(x_0.device), lm.mask_id, rng)
        nats, hidden = nats + masked_nll(lm.model, x_0, x_t, is_masked, lm.mask_id).sum(1), hidden + is_masked.sum(1)
    return Estimate.of(nats * len(x_0) / hidden.sum() / corpus.chars_per_token)


@torch.no_grad()
def token_by_token(gpt, x_0: Tensor) -> Tensor:
    """GPT's exact nats per token (B,) again, by the chain rule read aloud: one token in, one probability out."""
    cache, nats = KVCache(gpt.cfg.n_layer), 0.0
    for now, following in zip(x_0[:, :-1].T, x_0[:, 1:].T, strict=True):
        log_p = gpt(now[:, None], cache=cache)[:, 0].log_softmax(-1)
        nats = nats - log_p.gather(-1, following[:, None])[:, 0]
    return nats.double() / (x_0.size(1) - 1)


def left_to_right(gpt, x: Tensor, mask_id: int, rng: torch.Generator, cached: bool):
    """A token a pass. Without a cache a pass reads all that stands so far; with one, only what it has not read."""
    x, cache = x.clone(), KVCache(gpt.cfg.n_layer) if cached else None
    for i in range(1, x.size(1)):
        logits = gpt(x[:, cache.length : i], cache=cache) if cached else gpt(x[:, :i])
        x[:, i] = draw(logits[:, -1], mask_id, rng=rng)
        yield x.clone()


WAYS = {  # whose, how, and by arithmetic the passes and the tokens read for one text of L, its first token given
    "GPT": ("gpt", partial(left_to_right, cached=True), lambda L: (L - 1, L - 1)),
    "GPT, no cache": ("gpt", partial(left_to_right, cached=False), lambda L: (L - 1, L * (L - 1) // 2)),
    "diffusion": ("diffusion", partial(confidence, num_steps=STEPS), lambda L: (STEPS, STEPS * L)),
    "diffusion, one by one": ("diffusion", first_hitting, lambda L: (L - 1, (L - 1) * L)),
}


@torch.no_grad()
def cost(lm: LanguageModel, start: Tensor, way, seed: int, by_frames: bool = False) -> tuple[int, int, float, Tensor]:
    """Fill every MASK of `start` (B, L): passes, tokens read and seconds for one text of the batch, and the texts."""
    counted, rng, begun = CountForwards(lm.model), torch.Generator().manual_seed(seed), time.perf_counter()
    frames = list(way(counted, start, lm.mask_id, rng=rng))
    seconds, tokens = (time.perf_counter() - begun) / len(start), counted.token_forwards // len(start)
    return counted.passes, len(frames) if by_frames else tokens, seconds, frames[-1]


def number_line(marks: list[tuple[float, str, str]], width: int = 50) -> Text:
    """Values on one axis, a line down from each to its name. Where two fall into one cell, the larger one moves on."""
    at, top = [], max(value for value, *_ in marks)
    for value, *_ in marks:
        at.append(max(round(value / top * width), at[-1] + 1 if at else 0))
    rows = [Text("".join("●" if i in at else "─" for i in range(at[-1] + 1)) + "  nats per character")]
    for i, (value, name, colour) in reversed([*enumerate(marks)]):
        stems = "".join("│" if j in at[:i] else " " for j in range(at[i]))
        rows.append(Text.assemble(stems, (f"└ {name} {value:.3f}", STYLES.get(colour, COLOURS[colour]))))
    return Text("\n").join(rows)


def picture(path, marks: list[tuple[float, str, str]], costs: dict[str, tuple]) -> None:
    """The line, and below it how many times the GPT's cost each way of writing has, by three measures of cost."""
    with figure(path, height=5.0, nrows=2, gridspec_kw=dict(height_ratios=(1, 2.2), hspace=0.6)) as (_, (line, ax)):
        for i, (value, name, colour) in enumerate(marks):
            line.plot(value, 0, "o", color=COLOURS[colour])
            where = dict(xytext=(0, 9 if i % 2 else -18), textcoords="offset points", ha="center", size=9)
            line.annotate(f"{name} {value:.2f}", (value, 0), color=COLOURS[colour], **where)
        line.axhline(0, color="black", linewidth=1, zorder=0)
        line.set(xlim=(0, 1.1 * value), ylim=(-1, 1), yticks=[], frame_on=False, xlabel="nats per character")
        line.set_title("What it costs to know a text")
        for name, (passes, tokens, seconds, _) in costs.items():
            look = dict(color=COLOURS[WAYS[name][0]])
            times = [passes / costs["GPT"][0], seconds / costs["GPT"][2], tokens / costs["GPT"][1]]
            ax.plot(range(3), times, "o:" if "," in name else "o-", **look)
            ax.annotate(f"{name}: {tokens:,}", (2, times[2]), (8, -3), textcoords="offset points", size=9, **look)
        ax.set(yscale="log", xlim=(-0.1, 3.5), ylabel="times the GPT's", title="What it costs to write one")
        ax.set_xticks(range(3), ["passes", "seconds", "tokens read"])
        ax.yaxis.set_major_formatter("{x:g}")


def judge(lesson: Lesson, twins: dict[str, LanguageModel], score: dict[str, Estimate], x_0: Tensor, exact) -> None:
    """The claims about knowing. `score` is what is quoted; each number has to be found again another way."""
    gpt, diffusion = score["gpt"], score["diffusion"]
    again = (gpt.per_sequence - token_by_token(twins["gpt"].model, x_0).cpu()).abs().max().item()
    lesson.claim("GPT: exact, the same token by token", again < 1e-4, f"to {again:.1g}", broken_by="training_loss")
    model, mask_id = twins["diffusion"].model, twins["diffusion"].mask_id
    by_time = estimate_nelbo(model, x_0, mask_id, SAMPLES, torch.Generator(), given=1, schedule=SCHEDULES["cosine"])
    off = Estimate.of(diffusion.per_sequence - by_time.per_sequence)
    holds, found = again < 1e-4 and abs(off.mean) < 4 * off.stderr, f"off by {off.mean:+.4f} ± {off.stderr:.4f}"
    lesson.claim("both are found another way too", holds, found, "training_loss batch_ratio", trained=True)
    d = Estimate.of(diffusion.per_sequence - gpt.per_sequence)
    lesson.number("apart", d.mean, "diffusion's bound above GPT, nats per character")
    if lesson.cfg.data in ("playlets", "shakespeare"):
        found = f"by {d.mean:.3f} ± {d.stderr:.3f}"
        lesson.claim("at this budget GPT knows it better", d.mean > 4 * d.stderr, found, trained=True)
    if exact is not None:
        low = Estimate.of(gpt.per_sequence - exact)
        lesson.claim("nobody knows it better than itself", low.mean > -4 * low.stderr, f"GPT {low.mean:+.4f}")


def main(cfg: Config) -> None:
    lesson = Lesson("step5_twins", cfg, BREAKS)
    corpus = load_corpus(cfg.data, min_length=128)  # the window of both scripts' preset nano
    twins, tokenizer = {kind: trained(kind, lesson, corpus) for kind in ("gpt", "diffusion")}, corpus.tokenizer
    sizes, L = twins["gpt"].model.cfg, twins["gpt"].model.cfg.seq_len
    x_0 = corpus.windows(L, 4 if cfg.smoke else WINDOWS).to(lesson.device)
    start = x_0[:1].masked_fill(torch.arange(L, device=x_0.device) > 0, tokenizer.mask_id)
    start = start.repeat(2 if cfg.smoke else TEXTS, 1)
    # By arithmetic, before anything is scored or written.
    lesson.predict("parameters of diffusion alone", f"{2 * sizes.d_model}: MASK's rows in embedding and head")
    for name, (_, _, arithmetic) in WAYS.items():
        lesson.predict(name, "{:,} passes, {:,} tokens read".format(*arithmetic(L)))
    more = twins["diffusion"].model.num_parameters() - twins["gpt"].model.num_parameters()
    lesson.claim("equal but for MASK", more == 2 * sizes.d_model, f"{more} parameters more")
    seen = [lm.config["training"]["steps"] * lm.config["training"]["batch_size"] * L for lm in twins.values()]
    lesson.claim("both have seen as many tokens", seen[0] == seen[1], f"{seen[0]:,}")
    # What each of them knows, on one line with what anybody could know.
    log_p = (torch.bincount(corpus.train, minlength=len(tokenizer)) + 1.0).log().log_softmax(0)
    unigram = -log_p[x_0[:, 1:].cpu()].mean().item()
    lesson.predict("who only counts letters", f"{unigram:.3f} nats per character")
    exact = Playlets().denoiser().nll(x_0, given=1) if corpus.entropy_rate is not None else None
    if exact is not None:
        lesson.predict("who knows the language, exactly", f"{exact.mean():.3f}; nobody can do better")
    quote = {"training_loss": training_loss, "batch_ratio": batch_ratio}.get(lesson.broken, nats_per_char)
    score = {kind: quote(lm, x_0, corpus, 4 if cfg.smoke else SAMPLES, cfg.seed) for kind, lm in twins.items()}
    marks = [(score["gpt"].mean, "GPT", "gpt"), (score["diffusion"].mean, "diffusion ≤", "diffusion")]
    marks += [(unigram, "letter counts", "other"), (math.log(len(tokenizer)), f"ln {len(tokenizer)}", "masked")]
    marks = sorted(marks + ([(exact.mean().item(), "exact", "exact")] if exact is not None else []))
    for value, name, _ in marks:
        lesson.number(name.split()[0], value, f"{name}, nats per character")
    lesson.say(Text("\n") + number_line(marks) + "\n")
    judge(lesson, twins, score, x_0, exact)
    # What it costs to write.
    frames = lesson.broken == "frames"
    costs = {name: cost(twins[whose], start, way, cfg.seed, frames) for name, (whose, way, _) in WAYS.items()}
    for name, (passes, tokens, seconds, _) in costs.items():
        row = f"{name:21}{passes:6,} passes{tokens:9,} tokens read{seconds:9.4f} seconds a text"
        lesson.say(Text(row, STYLES[WAYS[name][0]]))
    for name in ("GPT", "diffusion"):
        lesson.say(Text("\n" + tokenizer.decode(costs[name][3][0]).replace("\n", NEWLINE), STYLES[name.lower()]))
    met = all(costs[name][:2] == arithmetic(L) for name, (_, _, arithmetic) in WAYS.items())
    lesson.claim("passes and tokens read as predicted", met, "all four ways", broken_by="frames")
    lesson.claim("a cache changes no text", torch.equal(costs["GPT"][3], costs["GPT, no cache"][3]), f"of {len(start)}")
    lesson.number("slower", costs["diffusion"][2] / costs["GPT"][2], "diffusion's seconds for a text, in GPT's")
    picture(lesson.path(".png"), marks, costs)
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
