"""Step 0: masking, the noise of text

Question.  An image can be made a little noisier. What is a little noise, for text?
Answer.    Some of its tokens are hidden behind one more symbol, MASK. A schedule says how many at time t.

Written out here      ALPHA (seven schedules), mask_tokens     (compare microdlm/schedules.py, masking.py)
Taken from earlier    nothing: this is where it starts
Not the lesson        the corpus, the figure, the card at the end

Run        python steps/step0_masking.py                       seconds; no GPU needed, nothing is trained
           python steps/step0_masking.py --data shakespeare    or the path of any text file
Expect     three predictions, each computed before it is measured: no letter ever comes back; of 256 tokens at
           t = 0.5 the cosine hides 75.0 ± 7.3; the seven schedules hide on average .500 .363 .4995 .667 .377
           .500 and .637 of a text. The card at the end shows what three seeds measured (results/steps.json).
Look at    the bars beside the dissolving text: they only grow. And at the two cosines: both are called "cosine"
           in published code, and one hides nearly twice as much as the other.
Break it   --break reseed             new random numbers at every t
           --break one_number         one random number for a whole text instead of one for each token
           --break other_cosine       the other curve of that name
           --break mask_is_a_letter   MASK is a character that the text uses itself
Still missing   hiding is easy. Can the blanks be filled again? First without any context (step 1).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson
from microdlm.terminal import NEWLINE, coloured, console

L = 256  # tokens in a text
TIMES = torch.linspace(0, 1, 11)  # where we stop and look at the text dissolving
TEXTS = 10_000  # texts to average over; a smoke run takes fewer
COLUMNS = 62  # characters of the text that the figure shows

BREAKS = {
    "reseed": "Letters come back although t only grows: the noise at a later t no longer contains the earlier one.",
    "one_number": "The mean is still right, yet the counts spread over the whole range: each text is all there or all "
    "gone, and nobody learns to fill in blanks from that.",
    "other_cosine": "The mean ratio jumps from .363 to .637, and at t = 0.5 some 181 tokens are hidden, not 75.",
    "mask_is_a_letter": "Clean text already holds MASK: the first bar is not empty, and where x_t holds MASK no "
    "longer says where a token is hidden.",
}

# Time runs from 0, clean, to 1, all noise. A schedule is one falling curve: alpha(t), the probability that a token
# is still visible. Everything else about a schedule follows from it; u = 1 - alpha is the share that is masked.

ALPHA: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: torch.cos(math.pi / 2 * t),  # slow at first: hides late. MDLM's code
    "loglinear": lambda t: 1 - 0.999 * t,  # SEDD's and MDLM's name for a line that stops just short of 0
    "sqrt": lambda t: 1 - t.sqrt(),  # quick at first: hides early
    "clipped_cosine": lambda t: 0.05 + 0.90 * torch.cos(math.pi / 2 * t),  # never clean and never all MASK
    "sigmoid": lambda t: torch.sigmoid(5 - 10 * t),  # nearly all of it happens in the middle
    "maskgit_cosine": lambda t: 1 - torch.sin(math.pi / 2 * t),  # the other "cosine". MaskGIT's and MD4's
}


def mask_tokens(
    x_0: Int[Tensor, "B L"], alpha_t: Float[Tensor, "B"], mask_id: int, rng: torch.Generator
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Draw x_t: every token stays with probability alpha_t of its sequence, else MASK stands in its place.

    A token draws one number in [0, 1) and is visible while alpha is above it. Tokens know nothing of each other.
    Returns x_t and where it is masked.
    """
    drawn = torch.rand(x_0.shape, generator=rng)
    is_masked = drawn >= alpha_t[:, None]
    return x_0.masked_fill(is_masked, mask_id), is_masked


def mask_texts(x_0, alpha_t, mask_id, rng):
    """The break `one_number`: a missing dimension that broadcasting forgives."""
    is_masked = (torch.rand(len(x_0), 1, generator=rng) >= alpha_t[:, None]).expand_as(x_0)
    return x_0.masked_fill(is_masked, mask_id), is_masked


def dissolve(
    mask: Callable, alpha: Callable, x_0: Int[Tensor, "1 L"], mask_id: int, seeds: list[int]
) -> tuple[Int[Tensor, "K L"], Bool[Tensor, "K L"]]:
    """One text at the K TIMES. With the same seed at each of them every token keeps its one number, so a mask that has
    come stays: MASK is an absorbing state, and the masks are nested in t."""
    states = []
    for t, seed in zip(TIMES, seeds, strict=True):
        states.append(mask(x_0, alpha(t)[None], mask_id, torch.Generator().manual_seed(seed)))
    return torch.cat([x_t for x_t, _ in states]), torch.cat([is_masked for _, is_masked in states])


def predicted_ratio(alpha: Callable, points: int = 100_000) -> float:
    """The share that is masked when t is uniform: the area under u(t), by the midpoint rule."""
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return (1 - alpha(t)).mean().item()


def measured_ratio(mask: Callable, alpha: Callable, x_0, mask_id: int, rng) -> tuple[float, float]:
    """The same by trying: a random t for each text, and what share of it was hidden. Mean and standard error."""
    t = torch.rand(len(x_0), generator=rng)
    share = mask(x_0, alpha(t), mask_id, rng)[1].double().mean(1)
    return share.mean().item(), share.std().item() / math.sqrt(len(share))


def share_of(x: Int[Tensor, "L"], mask_id: int) -> float:
    """How much of a text holds MASK, as far as one can see."""
    return (x == mask_id).double().mean().item()


def show_text(x_t: Int[Tensor, "K L"], mask_id: int, tokenizer) -> Table:
    """A row for each t, its bar counted over all L tokens. A letter that comes back would be green."""
    rows, width = Table.grid(padding=(0, 1)), max(20, min(console.width, 100) - 24)
    for i, (t, x) in enumerate(zip(TIMES, x_t, strict=True)):
        share = share_of(x, mask_id)
        bar = Text("█" * round(10 * share), COLOURS["masked"]) + Text("░" * (10 - round(10 * share)), "dim")
        before = x_t[i - 1, :width].tolist() if i else None
        rows.add_row(f" {t:.1f}", bar, f"{share:4.0%}", coloured(x[:width].tolist(), before, tokenizer, width))
    return rows


def show_schedules(predicted: dict[str, float], measured: dict[str, tuple[float, float]]) -> Table:
    table = Table("schedule", "u(t), t = 0..1", box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("u(0)", "u(1)", "predicted", "measured"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, (mean, error) in measured.items():
        u = 1 - ALPHA[name](torch.linspace(0, 1, 14))
        curve = Text("".join(" ▁▂▃▄▅▆▇█"[round(8 * share)] for share in u.tolist()), COLOURS["masked"])
        table.add_row(name, curve, f"{u[0]:.3f}", f"{u[-1]:.3f}", f"{predicted[name]:.4f}", f"{mean:.4f} ± {error:.4f}")
    return table


def draw_text(ax, x_t: Int[Tensor, "K L"], mask_id: int, tokenizer) -> None:
    """What the terminal showed: down is later, a grey dot is MASK."""
    for t, x in zip(TIMES.tolist(), x_t, strict=True):
        for i, token in enumerate(x[:COLUMNS].tolist()):
            letter = tokenizer.decode([token]).replace("\n", NEWLINE)
            colour = COLOURS["masked"] if token == mask_id else COLOURS["exact"]
            ax.text(i, t, letter, color=colour, family="monospace", ha="center", va="center")
        ax.text(COLUMNS + 6, t, f"{share_of(x, mask_id):.0%}", size=9, ha="right", va="center")
    ax.text(COLUMNS + 6, -0.1, "masked", size=9, ha="right", va="center")
    ax.set(xlim=(-1, 48), ylim=(1.05, -0.05), yticks=[0, 0.5, 1], xticks=[], ylabel="time t")
    ax.set_title("A text dissolves, and nothing comes back (cosine)")
    ax.spines[:].set_visible(False)
    ax.grid(False)


LOOKS = {  # schedule: (height of its label, colour, line), from the quickest to the slowest; one colour for the cosines
    "sqrt": (0.74, "other", "-"),
    "maskgit_cosine": (0.65, "diffusion", "--"),
    "linear": (0.56, "masked", "-"),
    "sigmoid": (0.47, "another", "-"),
    "loglinear": (0.38, "masked", ":"),
    "clipped_cosine": (0.29, "diffusion", ":"),
    "cosine": (0.20, "diffusion", "-"),
}


def draw_schedules(ax, predicted: dict[str, float]) -> None:
    """The area under a curve is its mean: the labels stand in that order."""
    t = torch.linspace(0, 1, 201)
    for name, (height, colour, line) in LOOKS.items():
        ax.plot(t, 1 - ALPHA[name](t), color=COLOURS[colour], linestyle=line)
        ax.plot([1.03, 1.10], [height, height], color=COLOURS[colour], linestyle=line, clip_on=False)
        ax.text(1.12, height, f"{name} {predicted[name]:.4f}", size=9, va="center")
    ax.text(1.03, 0.84, "mean share over t", size=9, va="center")
    ax.set(xlabel="time t", ylabel="share masked, u", xlim=(0, 1), ylim=(-0.02, 1.04))
    ax.set_title("Seven schedules: how fast, how much on average")


def watch_one_text(lesson: Lesson, mask: Callable, alpha: Callable, x_0, mask_id: int, tokenizer) -> Tensor:
    """One text, many times. Returns all its states."""
    lesson.say(f"\nOne text at {len(TIMES)} times: t, the share masked, the text. The schedule is the cosine.")
    lesson.predict("letters that come back while t grows", "0")
    seeds = [lesson.cfg.seed + i * (lesson.broken == "reseed") for i in range(len(TIMES))]
    x_t, is_masked = dissolve(mask, alpha, x_0, mask_id, seeds)
    lesson.say(show_text(x_t, mask_id, tokenizer))
    came_back = (is_masked[:-1] & ~is_masked[1:]).sum().item()
    lesson.number("came_back", float(came_back), "letters that came back")
    lesson.claim("what is hidden stays hidden", came_back == 0, f"{came_back} came back", broken_by="reseed")
    unclear = ((x_t == mask_id) != is_masked).sum().item()
    lesson.number("unclear", float(unclear), "visible tokens that look like MASK")
    lesson.claim("x_t shows what is hidden", unclear == 0, f"{unclear} look alike", broken_by="mask_is_a_letter")
    return x_t


def count_in_many_texts(lesson: Lesson, mask: Callable, alpha: Callable, texts, mask_id: int, rng) -> None:
    """Many texts, one time. Tokens are hidden independently of each other, so the count is binomial."""
    lesson.say(f"\n{len(texts):,} texts at t = 0.5, the same schedule: how many of {L} tokens are masked?")
    u = 1 - ALPHA["cosine"](torch.tensor(0.5)).item()
    mean, spread = L * u, math.sqrt(L * u * (1 - u))
    lesson.predict(f"masked of {L} tokens", f"{mean:.1f} ± {spread:.1f}")
    half = torch.full((len(texts),), 0.5)
    count = mask(texts, alpha(half), mask_id, rng)[1].sum(1).double()
    middle, width = count.mean().item(), count.std().item()
    found = f"{middle:.1f} ± {width:.1f}"
    lesson.say(f"  measured   masked of {L} tokens: {found}")
    lesson.number("count", middle, f"masked of {L} tokens at t = 0.5, mean")
    lesson.number("spread", width, "and standard deviation")
    # A mean of n counts is off by spread / sqrt(n), their standard deviation by nearly spread / sqrt(2 n).
    error = spread / math.sqrt(len(texts))
    fits = abs(middle - mean) < 4 * error and abs(width - spread) < 4 * error / math.sqrt(2)
    lesson.claim("counts are binomial, to 4 sigma", fits, found, broken_by="one_number other_cosine")


def compare_schedules(lesson: Lesson, mask: Callable, alphas: dict, texts, mask_id: int, rng) -> dict[str, float]:
    """Many texts, many times, every schedule. Returns the predicted mean shares."""
    lesson.say("\nThe same texts, each at a random t: the mean share masked under each schedule.")
    predicted = {name: predicted_ratio(alpha) for name, alpha in ALPHA.items()}
    lesson.predict("mean share masked", " ".join(f"{p:.4g}" for p in predicted.values()))
    measured = {name: measured_ratio(mask, alphas[name], texts, mask_id, rng) for name in ALPHA}
    lesson.say(show_schedules(predicted, measured))
    for name, (ratio, _) in measured.items():
        lesson.number(f"ratio_{name}", ratio, f"mean share masked, {name}")
    off = {name: abs(ratio - predicted[name]) / error for name, (ratio, error) in measured.items()}
    worst = max(off, key=off.get)
    found = f"{off[worst]:.1f} at most ({worst})"
    lesson.claim("mean shares lie within 4 standard errors", off[worst] < 4, found, broken_by="other_cosine")
    return predicted


def main(cfg: Config) -> None:
    lesson = Lesson("step0_masking", cfg, BREAKS)
    corpus = load_corpus(cfg.data, min_length=L, n_chars=200_000)
    x_0, rng = corpus.windows(L, n=1), torch.Generator().manual_seed(cfg.seed)
    texts = corpus.batch(500 if cfg.smoke else TEXTS, L, rng)
    mask_id = corpus.tokenizer.mask_id  # one id more than the text has, so that no text can hold it
    if lesson.broken == "mask_is_a_letter":
        mask_id = x_0.mode().values.item()  # in most texts the space: what is more natural for a blank?
    mask = mask_texts if lesson.broken == "one_number" else mask_tokens
    alphas = ALPHA | ({"cosine": ALPHA["maskgit_cosine"]} if lesson.broken == "other_cosine" else {})

    x_t = watch_one_text(lesson, mask, alphas["cosine"], x_0, mask_id, corpus.tokenizer)
    count_in_many_texts(lesson, mask, alphas["cosine"], texts, mask_id, rng)
    predicted = compare_schedules(lesson, mask, alphas, texts, mask_id, rng)
    with figure(lesson.path(".png"), height=5.6, nrows=2) as (fig, axes):
        fig.subplots_adjust(right=0.76, hspace=0.3)
        draw_text(axes[0], x_t, mask_id, corpus.tokenizer)
        draw_schedules(axes[1], predicted)
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
