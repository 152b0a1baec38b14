"""Step 7: does the schedule matter?

Question.  How many tokens to hide was drawn evenly so far. Papers have schedules for it, and some hide hard tokens less
           often. Which schedule, and which masking, trains the better model?
Answer.    Ask so that there can be an answer: two choices kept apart, one score for all, and a pair of runs that differ
           in nothing that matters, to see how large a difference means nothing.

Written out here      the grid of 12; masking by type and its bound; one network's six exams; the comparison
Taken from earlier    SCHEDULES and mask_tokens (step 0), Transformer (2), the bound in counts and its curve (4)
Not the lesson        the training loop (1). study/ runs this grid with seeds and at any size, and judges it as
                      study/PLAN.md promised before the first run: python -m study --help

Run        python steps/step7_schedule_study.py                    twelve trainings; with --smoke, seconds
           python steps/step7_schedule_study.py --data FILE.txt    or shakespeare
Expect     one network that six schedules grade from best to worst, and twelve that differ less than the grades do
Look at    the right side of the figure: the grey band is the noise. With one seed, what lies in it was not found.
Break it   --break own_exam         let every schedule grade by its own rule, and read the grades as likelihoods
           --break no_correction    mask by type, and forget that the order in which types appear tells something
           --break clamped          mask by type as it was published
Still missing   seeds. One run of each says little: results/schedule_study_nano.json has three.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from rich import box
from rich.progress import track
from rich.table import Table
from torch.distributions import Binomial

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson, fit
from microdlm.likelihood import Estimate, cross_entropy_curve, estimate_nelbo, exact_logits
from microdlm.masking import mask_tokens, stratified
from microdlm.objectives import logits_at, masked_nll
from microdlm.oracle import MarkovDenoiser
from microdlm.schedules import SCHEDULES
from microdlm.state import TrainConfig
from microdlm.terminal import console
from microdlm.transformer import Transformer, TransformerConfig

NET = dict(seq_len=64, n_layer=2, n_head=2, d_model=64)
HOW = dict(steps=1500, batch_size=16, lr=4e-3)
WINDOWS, SAMPLES = 256, 8  # held-out texts; masks for each
SIX = ("linear", "cosine", "loglinear", "sqrt", "clipped_cosine", "sigmoid")
BREAKS = {
    "own_exam": "one network, and a winner: the schedule that hides least. These grades are no likelihoods",
    "no_correction": "below the entropy, so no bound: a type that comes early is named early, and that is not paid for",
    "clamped": "below the entropy, so no bound: some tokens are never masked, and never paid for",
}


@dataclass(frozen=True)
class Arm:
    """One way to train. Proposal: how often each share u is masked. Masking: which tokens, then. Two axes."""

    schedule: str
    masking: str = "uniform"  # uniform, entropy, or clamped: entropy as published
    weight: str = "exact"  # exact: u'/u, a likelihood bound; plain: cross-entropy as it is, as published

    @property
    def name(self) -> str:
        return f"{self.schedule}-{self.masking}" + "-plain" * (self.weight == "plain")


GRID = [Arm(schedule, masking) for masking in ("uniform", "entropy") for schedule in SIX]
PUBLISHED = [Arm(schedule, masking, "plain") for masking in ("uniform", "clamped") for schedule in SIX]

# The rate u_v (B, V) at which each type v is masked, from u (B, 1) and c (V,); and w_v, if that is u^w_v.
MASKINGS = {
    "uniform": lambda u, c: u.expand(-1, len(c)),
    "entropy": lambda u, c: u ** (1 / c),
    "clamped": lambda u, c: (c * u).clamp(max=1),
}
EXPONENTS = {"uniform": torch.ones_like, "entropy": torch.reciprocal, "clamped": torch.ones_like}


def rates_by_type(ids, V):
    """c (V,): how readily each type is masked, 0.5 for hard ones to 1.5 for easy ones. Hard is what stands where the
    next letter is uncertain: the mean entropy there, given the letter before, divided by that of all letters."""
    seen = torch.zeros(V, V, dtype=torch.float64)
    seen.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1, dtype=torch.float64), accumulate=True)
    entropy = torch.special.entr(seen / seen.sum(1, keepdim=True).clamp(min=1)).sum(1)
    hard = entropy @ seen
    return (2 - (hard / seen.sum(0) / (hard.sum() / seen.sum())).nan_to_num(1)).clamp(0.5, 1.5)


def hide(arm, x_0, c, mask_id, rng):
    """Draw t, then mask x_0 (B, L). Returns x_t, is_masked, the rates of all types (B, V), and the weight of t (B,)."""
    t = stratified(len(x_0), rng=rng, device=x_0.device).double().clamp(min=1e-5)
    rate = MASKINGS[arm.masking](1 - SCHEDULES[arm.schedule].alpha(t)[:, None], c)
    return *mask_tokens(x_0, 1 - rate.gather(1, x_0), mask_id, rng), rate, SCHEDULES[arm.schedule].weight(t)


def bound(denoiser, x_0, x_t, is_masked, rate, weight_t, w, mask_id, corrected=True):
    """(B,) nats per token, when type v is masked at a rate u_v = u^w_v of its own (GenMD4, 2406.04329, eq. 12).

    Unmasking is w_v u'/u as likely for it, so a masked token pays w_x (-log mu_x) for what appears, and sum_v w_v mu_v
    - w_x for when: easy types come late, and a model should expect that. That a token is still masked says something
    of its type too; we know what, so log u_v is added to the logits. With w = 1 all this is step 4's bound.
    """
    row, x = is_masked.nonzero()[:, 0], x_0[is_masked]
    logits = logits_at(denoiser, x_t, is_masked)[:, :mask_id]
    logits, tilt, w = (v.to(torch.promote_types(logits.dtype, torch.float32)) for v in (logits, rate.log(), w))
    log_mu = (logits + tilt[row]).log_softmax(-1)
    nats = -w[x] * log_mu.gather(1, x[:, None])[:, 0]
    if corrected:
        nats = nats + log_mu.exp() @ w - w[x]
    return weight_t * torch.zeros_like(weight_t).index_add(0, row, nats.double()) / x_0.size(1)


def exact_loss(arm, c, mask_id, model, x_0, rng):
    x_t, is_masked, rate, weight_t = hide(arm, x_0, c, mask_id, rng)
    return bound(model, x_0, x_t, is_masked, rate, weight_t, EXPONENTS[arm.masking](c), mask_id).mean()


def plain_loss(arm, c, mask_id, model, x_0, rng):
    x_t, is_masked, *_ = hide(arm, x_0, c, mask_id, rng)
    return masked_nll(model, x_0, x_t, is_masked, mask_id).sum() / is_masked.sum().clamp(min=1)


LOSSES = {"exact": exact_loss, "plain": plain_loss}


@torch.no_grad()
def exam(arm, c, mask_id, model, x_0, rng, rounds=SAMPLES):
    """What a run would call its validation loss: its own loss on held-out text, the mean of some rounds."""
    return sum(LOSSES[arm.weight](arm, c, mask_id, model, x_0, rng).item() for _ in range(rounds)) / rounds


def best_value(language, masking, c, L, corrected=True, points=200):
    """The least that `bound` can be: over all texts and masks, and t = part^3 (linear schedule), with the denoiser that
    is best by it. Without the correction that is not the exact one: it overrates what is unmasked soon."""
    texts, w, total = torch.tensor(list(product(range(len(c)), repeat=L))), EXPONENTS[masking](c), 0.0
    x_0, p = texts.repeat_interleave(2**L, 0), (-L * language.nll(texts)).exp().repeat_interleave(2**L)
    is_masked = torch.tensor(list(product([False, True], repeat=L))).repeat(len(texts), 1)
    x_t = x_0.masked_fill(is_masked, language.mask_id)
    for part in (torch.arange(points).double() + 0.5) / points:
        rate = MASKINGS[masking]((part**3).expand(len(x_0), 1), c)
        chance = p * torch.where(is_masked, rate.gather(1, x_0), 1 - rate.gather(1, x_0)).prod(1) * 3 * part**2 / points
        logits = exact_logits(language, x_t, rate) + (0 if corrected else w.log())
        asked = x_0, x_t, is_masked, rate, part**-3 + 0 * chance, w, language.mask_id, corrected
        total += (chance * bound(lambda _, at=logits: at, *asked)).nan_to_num().sum().item()
    return total


def masking_by_type(lesson, rng, L=4):
    """Each form with the denoiser that it likes best, and without any chance: which is a bound on -log p?"""
    language = MarkovDenoiser(torch.tensor([10 / 11, 1 / 11]), torch.tensor([[0.95, 0.05], [0.5, 0.5]]))
    c, texts = rates_by_type(language.sample(1, 50_000, rng)[0], 2), torch.tensor(list(product(range(2), repeat=L)))
    entropy = ((-L * language.nll(texts)).exp() @ language.nll(texts)).item()
    lesson.predict(f"two letters, masked by type at c = {c[0]:.2f} and {c[1]:.2f}", f"the entropy, {entropy:.4f} nats")
    forms = {"valid": ("entropy", True), "no_correction": ("entropy", False), "clamped": ("clamped", True)}
    for name, (masking, corrected) in forms.items():
        forms[name] = value = best_value(language, masking, c, L, corrected)
        lesson.say(f"  {name.replace('_', ' '):16}{value:.4f} nats, {value - entropy:+.4f}")
        lesson.number(name, value, f"masked by type, {name.replace('_', ' ')}: nats where {entropy:.4f} is true")
    off = forms.get(lesson.broken, forms["valid"]) - entropy
    lesson.claim("masked by type, the bound is the entropy", abs(off) < 1e-4, f"{off:+.4f}", "no_correction clamped")


def train(lesson, corpus, c):
    """The same first weights, windows, times and numbers for each token: arms differ in what they make of them."""
    mask_id, models = len(corpus.tokenizer), {}
    how = TrainConfig(**HOW | ({"steps": 3} if lesson.cfg.smoke else {}), seed=lesson.cfg.seed)
    for i, arm in enumerate(GRID, 1):
        weights, loss = torch.Generator().manual_seed(how.seed), partial(LOSSES[arm.weight], arm, c, mask_id)
        models[arm] = Transformer(TransformerConfig(mask_id + 1, **NET), weights)
        fit(models[arm], how, loss, corpus.batch, lesson.device, f"{i} of {len(GRID)}: {arm.name}")
    return models


def one_network_six_exams(lesson, model, x_0, mask_id, c):
    """The bound does not see the schedule; a schedule's plain cross-entropy sees little else. Both from one curve.
    Returns each grade less the score."""
    masks, k = partial(torch.Generator().manual_seed, 7), torch.arange(1, x_0.size(1) + 1).double()
    score, t = estimate_nelbo(model, x_0, mask_id, SAMPLES, masks()), (torch.arange(2000).double() + 0.5) / 2000
    curve, grades, expected, off = cross_entropy_curve(model, x_0, mask_id, samples=1, rng=masks()).mean, {}, {}, []
    for name in SIX:
        share = 1 - SCHEDULES[name].alpha(t)[:, None]
        chance = Binomial(len(k), share, validate_args=False).log_prob(k).exp().mean(0) * k
        expected[name] = (chance @ curve.double() / chance.sum()).item()
        grades[name] = exam(Arm(name, weight="plain"), c, mask_id, model, x_0, masks(), rounds=4 * SAMPLES)
        timed = estimate_nelbo(model, x_0, mask_id, SAMPLES, masks(), schedule=SCHEDULES[name])
        gap = Estimate.of(timed.per_sequence - score.per_sequence)
        off.append(abs(grades[name] - score.mean if lesson.broken == "own_exam" else gap.mean) / gap.stderr)
    lesson.predict("one network's grades", ", ".join(f"{name} {value:.3f}" for name, value in expected.items()))
    wrong = max(abs(grades[name] - expected[name]) for name in SIX)
    lesson.claim("its grades are as predicted", wrong < 0.03, f"at most {wrong:.3f} nats off")
    lesson.claim("six schedules, one score", max(off) < 4, f"{max(off):.1f} s.e. off", "own_exam", bool(lesson.broken))
    return {name: grade - score.mean for name, grade in grades.items()}


def compare(lesson, found):
    """Each arm against linear with the same masking, text by text. The pair that is equal shows what noise does."""
    gaps, table = {}, Table("arm", "score", "above linear", "own exam", box=box.SIMPLE_HEAD)
    for arm, (score, own) in found.items():
        gaps[arm] = gap = Estimate.of(score.per_sequence - found[Arm("linear", arm.masking)][0].per_sequence)
        said = f"≤ {score.mean:.4f} ± {score.stderr:.4f}", f"{gap.mean:+.4f} ± {gap.stderr:.4f}"
        table.add_row(arm.name, *said, f"{own:.4f}")
        lesson.number(arm.name.replace("-", "_"), score.mean, f"{arm.name}, nats per token")
    floor = max(abs(gap.mean) for arm, gap in gaps.items() if arm.schedule == "loglinear")
    lesson.say(table, f"[dim]Nats per token. linear and loglinear are equal, and differ by up to {floor:.4f}")
    lesson.number("floor", floor, "linear against loglinear: the noise floor, nats per token")
    return gaps, floor


def draw(axes, grades, gaps, floor):
    left, right = axes
    left.plot([grades[name] for name in SIX], range(len(SIX)), "o", color=COLOURS["another"])
    right.axvspan(-floor, floor, color="#D0D0D0")
    for masking, marker, dy, colour in (("uniform", "o", -0.12, "diffusion"), ("entropy", "s", 0.12, "other")):
        mine, at = [gaps[Arm(name, masking)] for name in SIX], [i + dy for i in range(len(SIX))]
        look = dict(fmt=marker, color=COLOURS[colour], label=f"{masking} masking")
        right.errorbar([gap.mean for gap in mine], at, xerr=[2 * gap.stderr for gap in mine], **look)
    for ax, title in ((left, "One network, six exams"), (right, "Twelve networks, one exam")):
        ax.axvline(0, color=COLOURS["exact"], linewidth=1)
        ax.set(title=title, ylim=(len(SIX) - 0.4, -0.6))
    left.set(xlabel="grade less score, nats per token", yticks=range(len(SIX)), yticklabels=SIX)
    right.set(xlabel="score less that of linear, nats per token")
    right.legend(loc="best")


def main(cfg: Config) -> None:
    lesson, rng = Lesson("step7_schedule_study", cfg, BREAKS), torch.Generator().manual_seed(cfg.seed)
    corpus = load_corpus(cfg.data, min_length=NET["seq_len"], n_chars=100_000 if cfg.smoke else 1_000_000)
    x_0, mask_id = corpus.windows(NET["seq_len"], 16 if cfg.smoke else WINDOWS).to(lesson.device), len(corpus.tokenizer)
    masking_by_type(lesson, rng)
    c, masks = rates_by_type(corpus.train, mask_id).to(lesson.device), partial(torch.Generator().manual_seed, 7)
    models, found = train(lesson, corpus, c), {}
    grades = one_network_six_exams(lesson, models[GRID[0]], x_0, mask_id, c)
    for arm, model in track(models.items(), "scoring", console=console, transient=True):
        score = estimate_nelbo(model, x_0, mask_id, SAMPLES, masks())
        found[arm] = score, exam(arm, c, mask_id, model, x_0, masks())
    gaps, floor = compare(lesson, found)
    spread, worst = max(grades.values()) - min(grades.values()), max(abs(gap.mean) for gap in gaps.values())
    lesson.number("spread", spread, "one network: worst grade less best, nats per token")
    lesson.claim("the arms differ less than the grades", worst < spread, f"{worst:.3f} and {spread:.3f}", trained=True)
    with figure(lesson.path(".png"), width=8.0, ncols=2, sharey=True) as (_, axes):
        draw(axes, grades, gaps, floor)
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
