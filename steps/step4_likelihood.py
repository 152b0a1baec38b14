"""Step 4: one number for a text

Question.  Step 3 writes. How probable is a text under such a model: when is masked cross-entropy a likelihood?
Answer.    If the sum over masked tokens is divided by L and multiplied by w(t) = -alpha'/(1 - alpha), on a way from
           clean text to nothing but MASK. Then it bounds -log p, and the bound is the same under every schedule.

Written out here      weight, denoise_log_probs, nelbo, count_nelbo, left_to_right_nll       (compare microdlm/)
Taken from earlier    SCHEDULES and mask_tokens (step 0), the training loop (step 1), Transformer (step 2)
Not the lesson        corpus, the exact denoisers (microdlm/oracle.py) and their curve (step 2, exact_curve)

Run        python steps/step4_likelihood.py                   a minute on two cores; with --smoke, seconds
           python steps/step4_likelihood.py --data FILE.txt   the network then learns this text
Expect     the entropy seven times, 21 other numbers from three popular habits, and two schedules at 0.3051 and 0.6225
           nats where ln 2 = 0.6931 is true: all computed first. The card shows three seeds (results/steps.json).
Look at    the columns of the table. A "validation loss" tells schedules apart that are all equally good.
Break it   --break mean_over_masked    divide by the number of masked tokens, and keep the weight
           --break forget_ends         drop what lies beyond the ends of clipped_cosine and sigmoid
           --break no_subs             let MASK keep the probability that the network gives it
Still missing   a GPT's exact value on the same text, and what either of them costs to write with.
"""

import math

import torch
from rich import box
from rich.progress import track
from rich.table import Table

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson, fit
from microdlm.likelihood import Estimate, exact_curve
from microdlm.masking import mask_count, mask_tokens
from microdlm.oracle import MarkovDenoiser
from microdlm.playlets import Playlets
from microdlm.schedules import SCHEDULES, complete
from microdlm.state import TrainConfig
from microdlm.terminal import console
from microdlm.transformer import Transformer, TransformerConfig

TEXTS = 100_000  # texts of two letters for each number
NET = dict(seq_len=64, n_layer=3, n_head=2, d_model=96)
HOW = dict(steps=2000, batch_size=8, lr=2e-3)
BREAKS = {
    "mean_over_masked": "the number of masked tokens counts twice, and the bound leaves the entropy, upwards",
    "forget_ends": "clipped_cosine and sigmoid come out below the entropy: no bound, however low it looks",
    "no_subs": "what MASK keeps, the characters lack: every likelihood gets worse by -log(1 - p(MASK))",
}


def weight(alpha, t):
    """w(t) = -alpha'(t) / (1 - alpha(t)): how fast tokens are masked, for each that is. The derivative by autograd."""
    t = t.double().requires_grad_()
    alpha_t = alpha(t)
    (slope,) = torch.autograd.grad(alpha_t.sum(), t)
    return (-slope / (1 - alpha_t)).detach()


def denoise_log_probs(logits, x_t, mask_id):
    """SUBS: log p(x_0 | x_t) (B, L, V) with the two things that are known before any training. Clean text holds no
    MASK, so MASK gets no probability; and a visible token is x_0 already, so all of it goes there."""
    log_p = logits.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf).log_softmax(-1)
    carried = torch.nn.functional.one_hot(x_t, logits.size(-1)).to(log_p.dtype).log()
    return torch.where((x_t == mask_id)[..., None], log_p, carried)


def nll_of(log_p, x_0):
    """(B, L) -log p of the true tokens: 0 at visible ones, thanks to SUBS."""
    return -log_p.gather(-1, x_0[..., None]).squeeze(-1)


def nelbo(log_p, x_0, is_masked, weight_t):
    """(B,) the bound in time, nats per token: t ~ U(0, 1), tokens masked with probability 1 - alpha(t). The sum is
    divided by L, not by the number of masked tokens: w(t) is about 1/u already where a share u is masked."""
    return weight_t * (nll_of(log_p, x_0) * is_masked).sum(1) / x_0.size(1)


def count_nelbo(nll, is_masked):
    """(B,) the same bound in counts: k ~ U{1..L} tokens masked, and the mean over them. Neither weight nor schedule,
    because integrated over t the chance that k tokens are masked, times w, is 1/k for every schedule."""
    return nll.sum(1) / is_masked.sum(1)


def draw_count_nelbo(denoiser, x_0, mask_id, rng, log_probs=denoise_log_probs):
    """(B,) the bound in counts, one draw for each text. Its mean is also what training makes small."""
    k = torch.randint(1, x_0.size(1) + 1, (len(x_0),), generator=rng).to(x_0.device)
    x_t, is_masked = mask_count(x_0, k, mask_id, rng)
    return count_nelbo(nll_of(log_probs(denoiser(x_t), x_t, mask_id), x_0) * is_masked, is_masked)


@torch.no_grad()
def left_to_right_nll(denoiser, x_0, mask_id):
    """(B,) exact -log p(x_0), nats per token, of text that is written from left to right: token i is scored with i..
    masked. The bound is the mean over all orders, so a network's may lie on either side; an exact denoiser's agree."""
    nll, place = 0.0, torch.arange(x_0.size(1), device=x_0.device)
    for i in place:
        x_t = x_0.masked_fill(place >= i, mask_id)
        nll += nll_of(denoise_log_probs(denoiser(x_t).double(), x_t, mask_id), x_0)[:, i]
    return nll / len(place)


def two_letters(again):
    """A letter comes again with probability `again`: 0 is ABAB.. or BABA.., 0.9 a sticky language."""
    return MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[again, 1 - again], [1 - again, again]]))


# Four habits. The loss is a fraction, and this is what each text adds above the line and below it, given its summed
# cross-entropy, its number n of masked tokens, its weight w and its length L.
WAYS = {
    "bound": lambda nll, n, w, L: (w * nll, L + 0 * n),
    "n twice": lambda nll, n, w, L: (w * nll / n.clamp(min=1), 1 + 0 * n),
    "sum / sum": lambda nll, n, w, L: (nll, n),
    "no weight": lambda nll, n, w, L: (nll, L + 0 * n),
}


def predicted(way, s, curve, points=20_000):
    """What a habit gives with the exact denoiser, by quadrature over t = part^3. Given u, n is binomial, and n masked
    tokens cost n c_n nats together; `curve` is c_1 .. c_L."""
    L, part = len(curve), (torch.arange(points).double() + 0.5)[:, None] / points
    u, n = 1 - s.alpha(part**3), torch.arange(L + 1)
    nll = n * torch.cat([torch.zeros(1), curve])
    chance = torch.tensor([math.comb(L, k) for k in n]) * u**n * (1 - u) ** (L - n) * part**2
    top, bottom = WAYS[way](nll, n, s.weight(part**3), L)
    return ((chance * top).sum() / (chance * bottom).sum()).item()


def measured(way, s, language, x_0, rng):
    """The same by drawing masks. Here too t = part^3 and dt = 3 part^2: were t itself uniform, the variance under the
    square root would be infinite. Returns the mean and its standard error."""
    part, L = torch.rand(len(x_0), generator=rng, dtype=torch.float64).clamp(min=1e-6), x_0.size(1)
    x_t, is_masked = mask_tokens(x_0, s.alpha(part**3), language.mask_id, rng)
    nll = L * nelbo(denoise_log_probs(language(x_t), x_t, language.mask_id), x_0, is_masked, 1.0)
    top, bottom = (part**2 * v for v in WAYS[way](nll, is_masked.sum(1), s.weight(part**3), L))
    mean = top.mean() / bottom.mean()
    return mean.item(), ((top - mean * bottom).std() / bottom.mean() / len(x_0) ** 0.5).item()


def seven_schedules(lesson, rng, n, ends):
    """One exact denoiser, every habit, every schedule. Returns the entropy and {(habit, schedule): number}."""
    language, L = two_letters(0.9), 8
    x_0, curve = language.sample(n, L, rng), exact_curve(language, L)
    entropy = curve.mean().item()
    cases = {(way, s.name): (way, ends(s) if way == "bound" else s) for way in WAYS for s in SCHEDULES.values()}
    expected = {case: entropy if case[0] == "bound" else predicted(*how, curve) for case, how in cases.items()}
    for way in WAYS:
        values = [expected[way, name] for name in SCHEDULES]
        lesson.predict(f"{way}, seven schedules", f"{min(values):.3f} to {max(values):.3f}")
    if lesson.broken == "mean_over_masked":
        cases |= {(way, name): ("n twice", s) for (way, name), (_, s) in cases.items() if way == "bound"}
    progress = track(cases.items(), "drawing masks", console=console, transient=True)
    found = {case: measured(*how, language, x_0, rng) for case, how in progress}
    off = {case: abs(mean - expected[case]) / stderr for case, (mean, stderr) in found.items()}
    right, *wrong = (max(off[way, name] for name in SCHEDULES) for way in WAYS)
    lesson.claim("the bound is the entropy", right < 4, f"at most {right:.1f} s.e. off", "mean_over_masked forget_ends")
    lesson.claim("the other habits err as predicted", max(wrong) < 4, f"at most {max(wrong):.1f} s.e. off")
    table = Table("schedule", *WAYS, box=box.SIMPLE_HEAD)
    for name in SCHEDULES:
        table.add_row(name, *(f"{found[way, name][0]:.3f} [dim]{expected[way, name]:.3f}" for way in WAYS))
    above = [sorted(found[way, name][0] - entropy for name in SCHEDULES) for way in WAYS]
    table.add_row("above entropy", *(f"{v[0]:+.2f} {v[-1]:+.2f}" for v in above), style="bold")
    lesson.say(f"\nNats per token, measured (± {max(e for _, e in found.values()):.3f} or less) [dim]and predicted")
    lesson.say(table)
    lesson.number("bound", found["bound", "cosine"][0], "bound under cosine, nats per token")
    lesson.number("sum / sum", found["sum / sum", "cosine"][0], "sum / sum under cosine, nats per token")
    # No schedule at all: the bound in counts, and the exact value, each against the truth text by text.
    gap = draw_count_nelbo(language, x_0, 2, rng) - language.nll(x_0)
    off = (gap.mean().abs() / gap.std() * n**0.5).item()
    lesson.claim("so is the bound in counts", off < 4, f"{off:.1f} s.e. off")
    off = (left_to_right_nll(language, x_0, 2) - language.nll(x_0)).abs().max().item()
    lesson.claim("left to right it is -log p, text by text", off < 1e-9, f"at most {off:.0e} nats off")
    return entropy, found


def stopping_short(lesson, rng, n, ends, L=16):
    """ABAB.. or BABA..: the one secret is out unless all letters are masked, and some schedules never go there."""
    language, curve, off = two_letters(0.0), torch.zeros(L).double(), []
    curve[-1], x_0 = math.log(2), language.sample(n, L, rng)
    for s in (SCHEDULES[name] for name in ("loglinear", "clipped_cosine", "sigmoid")):
        alone = L * predicted("bound", s, curve)  # u(1)^L - u(0)^L of a secret
        lesson.predict(f"{s.name}, u from {s.ends[0]:.3f} to {s.ends[1]:.3f}", f"{alone:.4f} nats (ln 2 = 0.6931)")
        (mean, stderr), (walked, error) = (measured("bound", way, language, x_0, rng) for way in (s, ends(s)))
        lesson.say(f"  measured   {L * mean:.4f} ± {L * stderr:.4f}; ends walked: {L * walked:.4f} ± {L * error:.4f}")
        lesson.number(s.name, L * mean, f"{s.name} without its ends, nats where ln 2 is true")
        off.append((abs(mean - alone / L) / stderr, abs(walked - math.log(2) / L) / error))
    short, whole = (max(each) for each in zip(*off, strict=True))
    lesson.claim("stopping short is no bound, as predicted", short < 4, f"at most {short:.1f} s.e. off")
    lesson.claim("walked to the ends it is", whole < 4, f"at most {whole:.1f} s.e. off", "forget_ends")


def one_network(lesson, corpus, rng):
    """Train a small one. Its bound, its exact value when it writes from left to right, and the truth if it is known."""
    cfg, few = lesson.cfg, 4 if lesson.cfg.smoke else 64
    x_0, mask_id = corpus.windows(NET["seq_len"], few).to(lesson.device), len(corpus.tokenizer)
    model = Transformer(TransformerConfig(mask_id + 1, **NET), torch.Generator().manual_seed(cfg.seed))
    how = TrainConfig(**HOW | ({"steps": 10} if cfg.smoke else {}), seed=cfg.seed)
    fit(model, how, lambda m, x, g: draw_count_nelbo(m, x, mask_id, g).mean(), corpus.batch, lesson.device, "training")
    log_probs = (lambda logits, *_: logits.log_softmax(-1)) if lesson.broken == "no_subs" else denoise_log_probs
    with torch.no_grad():
        rounds = track(range(few), "scoring", console=console, transient=True)
        bound = torch.stack([draw_count_nelbo(model, x_0, mask_id, rng, log_probs) for _ in rounds])
        kept = log_probs(model(x_0 * 0 + mask_id), x_0 * 0 + mask_id, mask_id)[..., mask_id].exp().mean().item()
    found = {"bound": bound, "left to right": left_to_right_nll(model, x_0, mask_id)}
    if corpus.entropy_rate is not None:
        found["truth"] = Playlets().denoiser().nll(x_0.cpu())
    found = {what: Estimate.of(values / corpus.chars_per_token) for what, values in found.items()}
    lesson.say(f"\nA network on {len(x_0)} held-out windows of {corpus.name}")
    for what, e in found.items():
        lesson.say(f"  {what:15}{'≤' if what == 'bound' else '='} {e.mean:.3f} ± {e.stderr:.3f} nats per character")
        lesson.number(f"network {what}", e.mean, f"network: {what}, nats per character")
    lesson.claim("MASK keeps no probability", kept == 0, f"{kept:.3f}", "no_subs")
    for what in ("bound", "left to right") if "truth" in found else ():
        gap = Estimate.of(found[what].per_sequence - found["truth"].per_sequence)
        lesson.claim(f"network, {what}: above the truth", gap.mean > 4 * gap.stderr, f"by {gap.mean:.3f}")


def main(cfg: Config):
    lesson, rng = Lesson("step4_likelihood", cfg, BREAKS), torch.Generator().manual_seed(cfg.seed)
    corpus = load_corpus(cfg.data, min_length=NET["seq_len"], n_chars=50_000 if cfg.smoke else 4_000_000)
    n, t = TEXTS // (10 if cfg.smoke else 1), torch.linspace(0.01, 0.99, 99).double()
    ends = (lambda s: s) if lesson.broken == "forget_ends" else complete
    off = max((weight(s.alpha, t) / s.weight(t) - 1).abs().max().item() for s in SCHEDULES.values())
    lesson.claim("-alpha'/(1 - alpha) by autograd is the closed form", off < 1e-6, f"{off:.0e} apart")
    entropy, found = seven_schedules(lesson, rng, n, ends)
    stopping_short(lesson, rng, n, ends)
    one_network(lesson, corpus, rng)
    with figure(lesson.path(".png"), height=3.6) as (_, ax):
        ax.axvline(entropy, ls="--", color=COLOURS["exact"])
        for way, marker, colour in zip(WAYS, "oDs^", ("diffusion", "another", "other", "masked"), strict=True):
            ax.plot([found[way, name][0] for name in SCHEDULES], list(SCHEDULES), marker, color=COLOURS[colour])
            ax.annotate(way, (found[way, "sigmoid"][0], 5), (-8, -4), textcoords="offset points", ha="right")
        ax.annotate("the entropy", (entropy, -0.5), (5, -3), textcoords="offset points")
        ax.set(title="One perfect denoiser, four habits", xlabel="nats per token", ylim=(6.5, -0.8))
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
