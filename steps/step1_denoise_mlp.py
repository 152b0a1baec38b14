"""Step 1: a denoiser without context

Question.  Step 0 hides characters behind MASK. Can a network fill them in if it sees one position at a time?
Answer.    Only as well as counting can. Every MASK looks like every other, so every blank gets one and the same
           answer, and the best such answer is how often each character occurs: the loss stops at the unigram entropy.

Written out here      MLP, without_mask, masked_nll    (compare microdlm/objectives.py)
                      train, the loop of training     (compare microdlm/training.py; later steps import lesson.fit)
Taken from earlier    mask_tokens (step 0)
Not the lesson        the corpus, a mean with its standard error, the figure

Run        python steps/step1_denoise_mlp.py                       ten seconds on two cores
           python steps/step1_denoise_mlp.py --data shakespeare    Shakespeare's letters: another floor, as exact
Expect     the first loss is ln(number of characters), the last ones are the unigram entropy: both are computed from
           counts, before training. The card at the end shows what three seeds measured (results/steps.json).
Look at    the bars: soon nothing is left of them. More steps, more width, more layers: the floor stays where it is.
Break it   --break score_visible    the visible characters are scored too
           --break forget_mask      the network is shown x_0 in place of x_t
           --break neighbours       it sees one character to each side
           And by hand: leave out without_mask. Which number is the first loss now?
Still missing   a way to look around. What does context buy (step 2)?
"""

import math
from collections.abc import Callable, Iterator
from statistics import fmean, stdev
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson
from microdlm.likelihood import Estimate
from microdlm.masking import mask_tokens
from microdlm.terminal import NEWLINE, console

B, L = 64, 64  # windows in a batch, tokens in a window; to an MLP one window of 4096 would be the same
D, HIDDEN = 64, 128  # width of the embedding, and of the layer between
LR, STEPS, SMOKE = 3e-3, 1000, 30  # learning rate at the start, steps of training, steps of a smoke run
TOP, BLUE = 10, COLOURS["diffusion"]  # characters that the table and the figure show, and their colour

BREAKS = {
    "score_visible": "The training loss falls far below the entropy, for copying costs nothing and half of it is "
    "copying. The held-out value is unmoved: the number lied, the network is the same.",
    "forget_mask": "The training loss falls to 0, and no text is that predictable: the answer stood in the question. "
    "On real blanks it is worse than counting, for it has never seen one.",
    "neighbours": "The held-out value falls below the floor, and this time it is no bug: it is context.",
}


class MLP(nn.Module):
    """A denoiser that is a table in disguise: x_t -> logits, at each position from the token there and nothing else.

    What it refuses to know:

      * its neighbours. At a MASK there is nothing to read, so what it says there is always the same.
      * its position. The first blank of a text and the last get the same logits.

    Nobody tells it t or what is masked: MASK is an id like any other, which says so itself. The last layer starts at
    zero, so an untrained network finds all characters equally likely.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, D)
        self.mlp = nn.Sequential(nn.Linear(D, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, vocab_size))
        for p in self.mlp[-1].parameters():
            nn.init.zeros_(p)

    def forward(self, x_t: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        return self.mlp(self.embed(x_t))


class Neighbours(MLP):
    """For the break of that name: the left neighbour is added, the right one subtracted, to tell them apart."""

    def forward(self, x_t):
        h = self.embed(x_t)
        return self.mlp(h + h.roll(1, dims=1) - h.roll(-1, dims=1))


def without_mask(logits: Float[Tensor, "*rows V"], mask_id: int) -> Float[Tensor, "*rows V"]:
    """Clean text holds no MASK. That need not be learned: MASK gets no probability."""
    is_mask = torch.arange(logits.size(-1), device=logits.device) == mask_id
    return logits.masked_fill(is_mask, -torch.inf)


def masked_nll(denoiser, x_0, x_t, is_masked: Bool[Tensor, "B L"], mask_id: int) -> Float[Tensor, "B L"]:
    """-log p(x_0,i | x_t) in nats where is_masked, 0 elsewhere: a visible character is no question."""
    logits = without_mask(denoiser(x_t), mask_id)
    nll = F.cross_entropy(logits.transpose(1, 2), x_0, reduction="none")
    return torch.where(is_masked, nll, 0.0)


def masked_cross_entropy(model, x_0, mask_id: int, rng: torch.Generator, bug: str | None = None) -> Float[Tensor, ""]:
    """What training makes small: hide a random share of every window, and take the mean over all that is hidden.

    Whether windows with many blanks should weigh more is a question for step 4: here all blanks are equally hard.
    """
    t = torch.rand(len(x_0), generator=rng).to(x_0.device)
    x_t, is_masked = mask_tokens(x_0, 1 - t, mask_id, rng)
    # What --break gets wrong is either what the network is shown or where it has to answer.
    shown = x_0 if bug == "forget_mask" else x_t
    scored = torch.ones_like(is_masked) if bug == "score_visible" else is_masked
    return masked_nll(model, x_0, shown, scored, mask_id).sum() / scored.sum()


def train(model, loss: Callable, batch: Callable, steps: int, rng: torch.Generator, device: str) -> Iterator[float]:
    """All of training: text, loss, gradient, a step downhill, again. Yields the loss of every step.

    The learning rate falls in a straight line to 0: large steps to arrive, small ones to settle.
    """
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.95))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * (1 - step / steps)
        value = loss(model, batch(B, L, rng).to(device), rng)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield value.item()


class Counts(NamedTuple):
    """What counting knows, before anything is trained. Nats per character."""

    start: float  # when all characters are equally likely
    frequency: Float[Tensor, "V"]  # of each character in the training text
    entropy: float  # of these frequencies: what they expect on the text they are from
    floor: float  # what they reach on held-out text


def count(train: Int[Tensor, "N"], held_out: Int[Tensor, "B L"], V: int) -> Counts:
    """One is added to each count, so that no character is impossible. Only MASK is."""
    counts = torch.bincount(train, minlength=V).double()
    counts[:-1] += 1
    p = counts / counts.sum()
    return Counts(math.log(V - 1), p, -torch.special.xlogy(p, p).sum().item(), -p.log()[held_out].mean().item())


@torch.no_grad()
def held_out_nll(model, x_0: Int[Tensor, "B L"], mask_id: int, rng: torch.Generator) -> Estimate:
    """Every held-out character is hidden once: first a random half of each window, then the other half."""
    _, half = mask_tokens(x_0, torch.full((len(x_0),), 0.5, device=x_0.device), mask_id, rng)
    nll = [masked_nll(model, x_0, x_0.masked_fill(m, mask_id), m, mask_id) for m in (half, ~half)]
    return Estimate.of(sum(nll).mean(1))


def follow(losses: Iterator[float], steps: int, counts: Counts) -> list[float]:
    """Train, and show how far above the floor the loss is whenever the number of steps has doubled."""
    seen = []
    for value in track(losses, "training", total=steps, console=console, transient=True):
        seen.append(value)
        if (n := len(seen)) & (n - 1) == 0 or n == steps:
            above = fmean(seen[n // 2 :]) - counts.entropy  # of one batch a loss is noisy, of many it is a trend
            bar = "█" * min(48, round(50 * above))
            console.print(f"  step {n:4}  loss {fmean(seen[n // 2 :]):.3f}  [b]▏[/b][{BLUE}]{bar}[/] {above:+.3f}")
    return seen


def show_belief(counted: Tensor, believed: Tensor, letters: dict[int, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("", "counted", "MLP", style="dim")
    for i, letter in letters.items():
        bar = f"[{BLUE}]{'█' * round(200 * believed[i].item())}[/]"
        table.add_row(f"  {letter}", f"{counted[i]:7.2%}", f"{believed[i]:6.2%}", bar)
    return table


def draw(left, right, losses: list[float], counts: Counts, believed: Tensor, letters: dict[int, str]) -> None:
    """What the terminal showed: the loss on its way to the floor, and what a MASK is taken for."""
    marks = [*(2**i for i in range(len(losses).bit_length())), len(losses)]
    left.plot(range(1, len(losses) + 1), losses, color=BLUE, alpha=0.3, linewidth=1)
    left.plot(marks, [fmean(losses[n // 2 : n]) for n in marks], "o-", color=BLUE)
    left.axhline(counts.entropy, color=COLOURS["exact"], linestyle="--", linewidth=1.5)
    below = dict(xytext=(0, -5), textcoords="offset points", size=9, va="top")
    left.annotate(f"unigram entropy {counts.entropy:.3f}", (1, counts.entropy), **below)
    left.text(1.4, counts.start, f"all equally likely {counts.start:.3f}", size=9, va="center")
    left.set(xscale="log", xlabel="training steps", ylabel="loss, nats per character", title="The loss meets its floor")
    rows, counted, said = range(len(letters)), *(100 * p[[*letters]].numpy() for p in (counts.frequency, believed))
    right.barh(rows, counted, color="#EEEEEE", edgecolor=COLOURS["exact"], label="counted")
    right.plot(said, rows, "o", color=BLUE, label="MLP")
    right.set(xlabel="share, %", yticks=rows, yticklabels=letters.values(), ylim=(len(rows) - 0.4, -0.6))
    right.legend(loc="lower right")
    right.set_title("What it says at MASK")


def judge(lesson: Lesson, counts: Counts, losses: list[float], held_out: Estimate, believed) -> None:
    tenth = losses[-len(losses) // 10 :]
    last, error, gap = fmean(tenth), stdev(tenth) / math.sqrt(len(tenth)), held_out.mean - counts.floor
    apart = (believed - counts.frequency).abs().sum().item() / 2
    lesson.number("first", losses[0], "first loss, nats per character")
    lesson.number("last", last, "the last tenth of the losses, mean")
    lesson.number("entropy", counts.entropy, "unigram entropy of the training text")
    lesson.number("held_out", held_out.mean, "held-out text, nats per character")
    lesson.number("gap", gap, "above its floor")
    lesson.number("apart", apart, "MASK's probabilities from the counts, total variation")
    lesson.claim("it starts as predicted", abs(losses[0] - counts.start) < 1e-4, f"{losses[0]:.4f}")
    holds, found = last > counts.entropy - 4 * error, f"{last:.4f} ± {error:.4f}"
    lesson.claim("training does no better than counting", holds, found, broken_by=" ".join(BREAKS), trained=True)
    holds, found = gap > -4 * held_out.stderr, f"{gap:+.4f} ± {held_out.stderr:.4f}"
    lesson.claim("held-out: no better than counting", holds, found, broken_by="neighbours", trained=True)
    lesson.claim("held-out: less than 0.01 worse", gap < 0.01, f"{gap:+.4f}", broken_by="forget_mask", trained=True)
    lesson.claim(
        "its answer at a MASK is the counts", apart < 0.02, f"{apart:.4f}", broken_by="forget_mask", trained=True
    )


def main(cfg: Config) -> None:
    lesson = Lesson("step1_denoise_mlp", cfg, BREAKS)
    corpus = load_corpus(cfg.data, min_length=L, n_chars=1_000_000)
    mask_id, V, x_0 = corpus.tokenizer.mask_id, len(corpus.tokenizer) + 1, corpus.windows(L, n=2048)
    counts = count(corpus.train, x_0, V)
    lesson.predict(f"the first loss, ln {V - 1}", f"{counts.start:.4f} nats per character")
    lesson.predict("the last ones, the unigram entropy", f"{counts.entropy:.4f}")
    lesson.predict("on held-out text, the floor by the same counts", f"{counts.floor:.4f}")
    rng = torch.Generator().manual_seed(cfg.seed)
    torch.manual_seed(cfg.seed)  # of the weights
    model = (Neighbours if lesson.broken == "neighbours" else MLP)(V).to(lesson.device)

    def loss(model, x_0, rng):
        return masked_cross_entropy(model, x_0, mask_id, rng, bug=lesson.broken)

    steps = SMOKE if cfg.smoke else STEPS
    losses = follow(train(model, loss, corpus.batch, steps, rng, lesson.device), steps, counts)
    held_out = held_out_nll(model, x_0.to(lesson.device), mask_id, rng)
    blanks = torch.full((1, L), mask_id, device=lesson.device)  # all get the same answer, so one of them tells all
    believed = without_mask(model(blanks), mask_id)[0, 0].detach().softmax(-1).double().cpu()
    top = counts.frequency.argsort(descending=True)[: min(TOP, V - 1)].tolist()
    letters = {i: corpus.tokenizer.decode([i]).translate({32: "␣", 10: NEWLINE}) for i in top}
    lesson.say("\nWhat does it take a MASK to be?", show_belief(counts.frequency, believed, letters))
    judge(lesson, counts, losses, held_out, believed)
    if corpus.entropy_rate is not None:
        lesson.say(f"\nThe language has {corpus.entropy_rate:.3f} nats per character. All the rest of it is context.")

    with figure(lesson.path(".png"), ncols=2, width_ratios=[1.6, 1]) as (fig, (left, right)):
        draw(left, right, losses, counts, believed, letters)
        fig.tight_layout()
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
