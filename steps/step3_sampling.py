"""Step 3: a filler of blanks writes

Question.  The network of step 2 fills in blanks. How does it write, when there is no text around them yet?
Answer.    From nothing but MASK, a few blanks at a time. One at a time is the chain rule, and exact. Blanks that are
           filled in the same pass do not see each other: that costs a number of nats known beforehand.

Written out here      CountForwards, ancestral, confidence          (compare microdlm/cost.py, planned.py, surest.py)
Taken from earlier    masked cross-entropy (step 1), a network (step 2): shipped weights, nothing is trained here
Not the lesson        drawing a token from logits (microdlm/drawing.py), the exact denoisers (oracle.py)

Run        python steps/step3_sampling.py                     half a minute on two cores; with --smoke, seconds
           python steps/step3_sampling.py --data FILE.txt     the last texts are then made of the file's letter pairs
Expect     39.86 and 200.77 forward passes in 40 and 1,000 steps; k letters of ABAB.. at once right with probability
           2^(1-k); the nats lost: all computed first. The card shows what three seeds measured (results/steps.json).
Look at    the denoiser is exact, so every error is the sampler's own. Few passes make it, and so does keeping the
           surest guesses: that text is too easy, even one token at a time.
Break it   --break frames       count the frames of the film instead of the forward passes
           --break overwrite    draw every position again in each pass, those already written too
           --break greedy       take the most probable token instead of drawing one
Still missing   a text is written. How probable was it? Which number compares this model with any other?
"""

from itertools import product

import torch
from rich import box
from rich.progress import track
from rich.table import Table

from microdlm import cli, load
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.drawing import draw
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson
from microdlm.likelihood import exact_curve
from microdlm.masking import uniform
from microdlm.objectives import masked_nll, without_mask
from microdlm.oracle import MarkovDenoiser
from microdlm.pacing import parallel_bound, step_counts
from microdlm.playlets import Playlets
from microdlm.terminal import coloured, console
from microdlm.tokenizers import CharTokenizer

BLANKS, STEPS, RUNS = 224, (40, 1000), 100  # for counting passes: blanks of a text, steps, texts
L, TEXTS = 8, 20_000  # letters of a text in two letters, and texts for each number
PASSES = (8, 4, 3, 2, 1)  # in which it is written: 1, 2, 3, 4, 8 letters in the first pass
PAGE, PAGES = 32, 48  # characters of a text of real language, and texts
PROMPT, SENTENCE, FRAMES = "ROMEO:\n", 150, (1, 2, 4, 8, 16)  # for the network: length, the passes that are shown
EVERY = torch.tensor(list(product([0, 1], repeat=L)))  # all texts of two letters
BREAKS = {
    "frames": "one count a frame, 40 and 1,000: most of the thousand show nothing new, and cost no pass",
    "overwrite": "written characters change at every pass: what later blanks were fitted to is no longer there",
    "greedy": "the same text over and over: blanks that look alike get the same token, so together they are wrong",
}


class CountForwards:
    """A denoiser that counts its forward passes and the tokens it reads. Steps and frames are no measure of cost."""

    def __init__(self, denoiser):
        self.denoiser, self.passes, self.token_forwards = denoiser, 0, 0

    def __call__(self, x):
        self.passes += 1
        self.token_forwards += x.numel()
        return self.denoiser(x)


@torch.no_grad()
def ancestral(denoiser, x, mask_id, num_steps=64, *, rng=None, **how):
    """The masking of step 0 run backwards, on the linear schedule: at time t a share t is masked. So from t = i/T to
    s = (i-1)/T a MASK opens with probability (t - s)/t = 1/i, and in the last step with certainty."""
    for i in range(num_steps, 0, -1):
        opens = (x == mask_id) & (uniform(x.shape, x.device, rng) < 1 / i)
        if opens.any():  # a step that opens nothing has nothing to ask
            x = x.masked_scatter(opens, draw(denoiser(x)[opens], mask_id, rng=rng, **how))
        yield x


@torch.no_grad()
def confidence(denoiser, x, mask_id, num_steps=32, *, order="confidence", rng=None, **how):
    """Guess every MASK, keep the surest guesses and forget the others; every pass keeps about as many. In the order
    "random" a lot decides which are kept, without a look at the guesses."""
    n = (x == mask_id).sum(1)  # (B,)
    for i in range(1, num_steps + 1):
        if not (is_masked := x == mask_id).any():
            return
        logits = denoiser(x)[is_masked]
        token = draw(logits, mask_id, rng=rng, **how)
        # A guess is as sure as the probability of the very token that was drawn. This is where easy text wins.
        sure = without_mask(logits.double(), mask_id).softmax(-1).gather(-1, token[:, None]).squeeze(-1)
        if order == "random":
            sure = torch.rand(sure.shape, generator=rng, dtype=torch.float64).to(sure.device)
        score = torch.full(x.shape, -1.0, dtype=torch.float64, device=x.device).masked_scatter(is_masked, sure)
        keep = (is_masked.sum(1) - n * (num_steps - i) // num_steps).clamp(min=1)
        surest = score.argsort(dim=1, descending=True).argsort(dim=1) < keep[:, None]
        x = torch.where(surest & is_masked, x.masked_scatter(is_masked, token), x)
        yield x


def two_letters(again):
    """A letter comes again with probability `again`. At 0 that is ABAB.. or BABA.., at 0.9 a sticky language."""
    return MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[again, 1 - again], [1 - again, again]]))


def price(language, x_0, counts, rng):
    """(B,) -log p, in nats per token, that a sampler writes exactly x_0 when it opens counts[0] random blanks in the
    first pass, counts[1] in the second: the sampler itself, but for tokens that are given instead of drawn."""
    turn, done, nats = torch.rand(x_0.shape, generator=rng).argsort(1).argsort(1), 0, 0
    for k in counts:
        x_t, opens = x_0.masked_fill(turn >= done, language.mask_id), (turn >= done) & (turn < done + k)
        nats, done = nats + masked_nll(language, x_0, x_t, opens, language.mask_id).sum(1), done + k
    return nats / L


def chi_square(texts, language):
    """How often an exact sampler would miss the expected count of every string by as much as these texts do."""
    place = 2 ** torch.arange(L - 1, -1, -1)  # a text read as a number is its row in EVERY
    counts, expected = (texts @ place).bincount(minlength=2**L), len(texts) * (-L * language.nll(EVERY)).exp()
    cells = [torch.cat([n[expected >= 5], n[expected < 5].sum()[None]]) for n in (counts.double(), expected)]
    excess = ((cells[0] - cells[1]) ** 2 / cells[1]).sum()
    return torch.special.gammaincc(excess.new_tensor((len(cells[0]) - 1) / 2), excess / 2).item()


def count_passes(lesson, rng, runs):
    """A denoiser that knows nothing will do: when a blank opens does not depend on what is written."""
    off = []  # in standard errors
    for T in STEPS:
        idle, both = (1 - 1 / T) ** BLANKS, (1 - 2 / T) ** BLANKS  # P(a step opens nothing), P(two steps do not)
        expected, variance = T * (1 - idle), T * idle + T * (T - 1) * both - (T * idle) ** 2
        lesson.predict(f"forward passes in {T:,} steps on {BLANKS} blanks", f"{expected:.2f}")
        model, blank, frames = CountForwards(lambda x: torch.zeros(*x.shape, 3)), torch.full((1, BLANKS), 2), 0
        for _ in track(range(runs), "counting passes", console=console, transient=True):
            frames += sum(1 for _ in ancestral(model, blank, 2, T, rng=rng))
        mean = (frames if lesson.broken == "frames" else model.passes) / runs
        off.append(abs(mean - expected) / (variance / runs) ** 0.5)
        lesson.number(f"passes_{T}", mean, f"forward passes in {T:,} steps, {BLANKS} blanks")
    lesson.claim("T steps take T(1 - (1 - 1/T)^N) passes", max(off) < 4, f"{max(off):.1f} s.e. off", "frames")


def cost_of_haste(lesson, rng, n, how):
    """Two languages, written in fewer and fewer passes. Returns rows (passes, nats predicted, measured, stderr)."""
    ab, sticky, plans = two_letters(0.0), two_letters(0.9), [step_counts("linear", passes, L) for passes in PASSES]
    curve, right = exact_curve(sticky, L), [2.0 ** (1 - plan[0]) for plan in plans]  # one letter tells all of ABAB..
    nats = [parallel_bound(curve, plan) - curve.mean().item() for plan in plans]
    lesson.predict("ABAB.. right, 1 2 3 4 8 at once", " ".join(f"{p:.3g}" for p in right))
    lesson.predict("nats lost per token, in 8 4 3 2 1 passes", " ".join(f"{c:.3f}" for c in nats))
    rows, table = [], Table("passes", "at once", "right", "", "nats lost", "", box=box.SIMPLE_HEAD)
    for passes, plan, p, c in zip(PASSES, plans, right, nats, strict=True):
        *_, texts = confidence(ab, torch.full((n, L), 2), 2, passes, rng=rng, **how)
        x_0, found = sticky.sample(n, L, rng), ab.nll(texts).isfinite().double().mean().item()
        lost = price(sticky, x_0, plan, rng) - sticky.nll(x_0)
        rows.append((passes, c, lost.mean().item(), lost.std().item() / n**0.5, p, found))
        cells = f"{lost.mean():.4f} ± {lost.std() / n**0.5:.4f}", f"[dim]{c:.4f}"
        table.add_row(f"{passes}", f"{plan[0]}", f"{found:.2%}", f"[dim]{p:.2%}", *cells)
    lesson.say("\nABAB.. and the sticky language, 8 letters: measured [dim]and predicted", table)
    lesson.number("nats_1", lost.mean().item(), "nats lost per token, 8 letters in one pass")
    held = all(abs(found - p) <= 4 * (p * (1 - p) / n) ** 0.5 for *_, p, found in rows)
    lesson.claim("k at once are right with probability 2^(1-k)", held, "all within 4 s.e.", "greedy")
    held = all(abs(mean - c) <= 4 * stderr + 1e-6 for _, c, mean, stderr, *_ in rows)
    lesson.claim("nats lost: the Riemann sum of c_k less its mean", held, "all within 4 s.e.")
    return rows


def is_it_the_language(lesson, rng, n, how):
    """One letter at a time, and all that differs is who says where. An exact sampler fails once in 10,000 seeds."""
    sticky, blank = two_letters(0.9), torch.full((n, L), 2)
    *_, lot = confidence(sticky, blank, 2, L, rng=rng, **how)
    *_, sure = confidence(sticky, blank, 2, L, rng=rng)
    p, ease = chi_square(lot, sticky), exact_curve(sticky, L).mean() - sticky.nll(sure)
    lesson.claim("one at a time by lot: the language itself", p > 1e-4, f"chi-square p = {p:.2g}", "greedy")
    lesson.number("ease", ease.mean().item(), "nats per token too easy: surest-first text")
    lesson.claim("surest first: too easy", bool(ease.mean() > 4 * ease.std() / n**0.5), f"{ease.mean():.3f} nats")


def real_language(data):
    """Playlets with their exact denoiser. For another text, the language of its letter pairs has one too."""
    if data == "playlets":
        return (play := Playlets()).denoiser(), CharTokenizer(play.alphabet)
    corpus = load_corpus(data)
    x, V = torch.cat([corpus.train, corpus.val]), len(corpus.tokenizer)
    pairs = (x * V + x.roll(-1)).bincount(minlength=V * V).view(V, V).double()
    return MarkovDenoiser(pairs.sum(1) / len(x), pairs / pairs.sum(1, keepdim=True)), corpus.tokenizer


def real_texts(lesson, rng, language, tok, n, length):
    """Can the language say them at all? Returns rows (passes, percentage of the texts that are possible)."""
    rows, table = [], Table("passes", "possible", "the first text", box=box.SIMPLE_HEAD)
    plan = [length * quarters // 4 or 1 for quarters in (4, 3, 2, 1, 0)]
    for passes in track(plan, "writing", console=console, transient=True):
        x = torch.full((n, length), tok.mask_id)
        *_, x = confidence(language, x, tok.mask_id, passes, order="random", rng=rng)
        rows.append((passes, 100 * language.nll(x).isfinite().double().mean().item()))
        table.add_row(f"{passes}", f"{rows[-1][1]:.0f}%", coloured(x[0].tolist(), None, tok, length))
    lesson.say(f"\n{length} characters of {lesson.cfg.data}, exact denoiser", table)
    (_, slow), *_, (_, fast) = rows
    lesson.claim("one at a time all texts are possible", slow == 100 and fast < 50, f"in one pass {fast:.0f}%")
    return rows


@torch.no_grad()
def a_sentence(lesson, rng):
    """A network writes. On the left what it has cost so far, in green what is new since the row above."""
    lm, table, changed = load("shakespeare-diffusion", lesson.device), Table.grid(padding=(0, 2)), 0
    start, model = lm.canvas(PROMPT, SENTENCE), CountForwards(lm.model)
    x = shown = start
    for state in confidence(model, start, lm.mask_id, FRAMES[-1], rng=rng):
        if lesson.broken == "overwrite":  # the sampler goes on from the state it is handed back
            written = (state != lm.mask_id) & (start == lm.mask_id)
            state[written] = draw(lm.model(state)[written], lm.mask_id, rng=rng)
        changed, x = changed + ((x != lm.mask_id) & (state != x)).sum().item(), state
        if model.passes in FRAMES:
            cost = f"[dim]{model.passes:>5} passes\n{model.token_forwards:5,} tokens read"
            table.add_row(cost, coloured(x[0].tolist(), shown[0].tolist(), lm.tokenizer, 50))
            shown = x
    lesson.say("\nA network writes, surest first", table)
    lesson.claim("what is written stays", changed == 0, f"{changed} written characters changed later", "overwrite")


def main(cfg: Config):
    lesson, rng = Lesson("step3_sampling", cfg, BREAKS), torch.Generator().manual_seed(cfg.seed)
    language, tok = real_language(cfg.data)  # first, as a file may be missing
    n, how = TEXTS // (10 if cfg.smoke else 1), {"order": "random", "temperature": float(lesson.broken != "greedy")}
    count_passes(lesson, rng, RUNS // (10 if cfg.smoke else 1))
    nats = cost_of_haste(lesson, rng, n, how)
    is_it_the_language(lesson, rng, n, how)
    a_sentence(lesson, rng)
    possible = real_texts(lesson, rng, language, tok, *((2, PAGE // 2) if cfg.smoke else (PAGES, PAGE)))
    with figure(lesson.path(".png"), ncols=2, width=6.4, gridspec_kw={"wspace": 0.4}) as (_, (left, right)):
        passes, predicted, found, stderr, *_ = zip(*nats, strict=True)
        left.plot(passes, predicted, "--", color=COLOURS["exact"])
        left.errorbar(passes, found, [4 * e for e in stderr], fmt="o", color=COLOURS["diffusion"])
        left.text(2.3, predicted[-2] + 0.02, "predicted")
        left.set(title="Nats lost per token", xlabel=f"forward passes for {L} letters")
        right.plot(*zip(*possible, strict=True), "o-", color=COLOURS["diffusion"])
        right.set(title="Possible texts, %", xlabel=f"forward passes for {possible[0][0]} characters", ylim=(-5, 105))
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
