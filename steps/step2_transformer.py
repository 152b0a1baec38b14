"""Step 2: a denoiser with context

Question.  Step 1 gives every blank the same guess. What does it buy to look at the letters around it?
Answer.    Much, and it has a shape: what a hidden letter costs, against the share of letters that are hidden. Without
           context the line is flat. With context it falls as letters appear, and where all are hidden the two meet.
           The area under it is one number for the whole model (step 4: a bound on -log p).

Written out here      rotation_angles, rotate, Attention, Block, Transformer      (compare microdlm/transformer.py)
Taken from earlier    mask_count (step 0, told how many), masked_nll, the MLP and the training loop (step 1)
Not the lesson        corpus, the exact denoiser of playlets, estimates and their errors (step 4)

Run        python steps/step2_transformer.py       two minutes on two cores; --data shakespeare: no exact curve there
Expect     the flat line, the value where all are hidden, the least possible area and how far an edit reaches are
           computed first. The card at the end shows what three seeds measured (results/steps.json).
Look at    the right end of the picture, where nothing can be known, and the left, where little is left to know. A
           noise schedule says how often training visits each place of the x-axis: it re-weights, and adds nothing.
Break it   --break causal          turn the one switch that makes a GPT of it
           --break no_positions    leave the rotation out
           --break bert            always hide 15 percent, as BERT does
Still missing   asked about a blank page it names one letter, everywhere. How does a filler of blanks write (step 3)?
"""

from functools import partial

import torch
from rich.progress import track
from rich.text import Text
from torch import Tensor, nn

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.corpus import load_corpus
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson, fit
from microdlm.likelihood import Estimate, cross_entropy_at, estimate_nelbo
from microdlm.masking import mask_count, stratified, to_count
from microdlm.objectives import count_nelbo, masked_nll, without_mask
from microdlm.playlets import Playlets
from microdlm.schedules import SCHEDULES
from microdlm.state import TrainConfig
from microdlm.terminal import coloured, console
from microdlm.transformer import ReluSquared, TransformerConfig, rms_norm

L = 128  # letters in a window
SIZES = dict(n_layer=3, n_head=2, d_model=96)  # 0.34M weights
TRAINING = dict(steps=2500, batch_size=8, lr=2e-3)  # 2.6M letters
WINDOWS = 32  # held-out windows that every denoiser is asked about
COUNTS = (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)  # letters hidden: the points of the picture
MARGIN = 0.03  # nats: how near to the unigram value training must come where all is hidden
LOOKS = {"transformer": ("━", COLOURS["diffusion"]), "no context": ("│", COLOURS["other"]), "exact": ("◆", "bold")}
BREAKS = {
    "causal": "an edit reaches only what stands right of it, and the area is larger: half of the context is gone",
    "no_positions": "mirrored text, mirrored answers; and the line is all but flat: a bag of letters tells little",
    "bert": "good where 15 percent is hidden, worse than counting where all is: that it never practised",
}


def rotation_angles(positions: Tensor, head_size: int, base: float = 10_000.0) -> Tensor:
    """(L, K/2): how far position p turns each pair of coordinates. The first pair turns by p radians, each next one
    more slowly: a fast hand tells neighbours apart, a slow hand tells near from far, as on a clock."""
    speed = base ** -(torch.arange(0, head_size, 2, device=positions.device) / head_size)
    return positions.float()[:, None] * speed


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i+K/2}). Of two vectors turned like this only the difference of the turns shows in their
    product: a query and a key know how far apart they stand, and nothing of where."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class Attention(nn.Module):
    """Every position asks (q), every position it may see offers (k) and tells (v)."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.n_head, self.causal = cfg.n_head, cfg.causal
        D = cfg.d_model
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, L, K)
        q, k = rotate(rms_norm(q), cos, sin), rotate(rms_norm(k), cos, sin)
        score = q @ k.mT / q.size(-1) ** 0.5  # (B, H, L, L): row i asks, column j offers
        if self.causal:  # the one switch: what comes later is not on offer
            score = score.masked_fill(torch.ones_like(score, dtype=torch.bool).triu(1), -torch.inf)
        return self.out((score.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Listen to the others, then think alone. Both add to the stream x, neither replaces it."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.attention, self.mlp = Attention(cfg), ReluSquared(cfg.d_model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(rms_norm(x), cos, sin)
        return x + self.mlp(rms_norm(x))


class Transformer(nn.Module):
    """x_t (B, L) in, logits (B, L, V) out. It is not told how much is hidden, for it can count the MASKs."""

    def __init__(self, cfg: TransformerConfig, rng: torch.Generator | None = None, turn: float = 1.0):
        super().__init__()
        self.cfg, self.turn = cfg, turn
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        for name, weight in self.named_parameters():
            # What writes to the stream or to the logits starts silent: at first all letters are equally likely.
            silent = name.endswith(("out.weight", "head.weight"))
            nn.init.normal_(weight, std=0.0 if silent else weight.size(1) ** -0.5, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        h = rms_norm(self.embedding(x))
        places = torch.arange(x.size(1), device=x.device)
        angles = self.turn * rotation_angles(places, self.cfg.d_model // self.cfg.n_head)
        cos, sin = angles.cos().to(h.dtype), angles.sin().to(h.dtype)
        for block in self.blocks:
            h = block(h, cos, sin)
        return self.head(rms_norm(h))


def loss(model, x_0: Tensor, rng: torch.Generator, always: int | None = None) -> Tensor:
    """Hide k letters of each window, k from 1 to L and evenly spread over the batch; the mean surprise at them."""
    k, mask_id = to_count(stratified(len(x_0), rng=rng), x_0.size(1)).to(x_0.device), model.cfg.vocab_size - 1
    x_t, is_masked = mask_count(x_0, k if always is None else torch.full_like(k, always), mask_id, rng)
    return count_nelbo(masked_nll(model, x_0, x_t, is_masked, mask_id), is_masked).mean()


def reach(model, x: Tensor, causal: bool) -> list[int]:
    """At how many places of x (1, L) the logits move when the first, middle, last letter is another one."""
    for block in model.blocks:
        block.attention.causal = causal
    row, i, edited = range(3), [0, L // 2, L - 1], x.repeat(3, 1)
    edited[row, i] = (edited[row, i] + 1) % (model.cfg.vocab_size - 1)
    return (model(x) != model(edited)).any(-1).sum(1).tolist()


def curve(denoiser, x_0: Tensor, mask_id: int, counts, seed: int) -> dict[int, Estimate]:
    """c_k by k: the mean cross-entropy of a hidden letter when k are hidden. Each k has a generator of its own, so
    every denoiser gets the same questions; where k is small it gets more of them."""
    rngs = {k: torch.Generator().manual_seed(1000 * seed + k) for k in counts}
    todo = track(rngs.items(), "letters hidden", console=console, transient=True)
    return {k: cross_entropy_at(denoiser, x_0, mask_id, k, max(1, 8 // k), rng, 0) for k, rng in todo}


def sigmas(difference: Tensor) -> float:
    """How many standard errors the sum of paired differences lies from 0, if each should be 0 on average."""
    return (difference.sum() / difference.square().sum().sqrt().clamp(min=1e-4)).item()


def plot(lesson: Lesson, curves: dict[str, dict[int, Estimate]], counts) -> None:
    """The picture as text, 14 cells a nat."""
    lesson.say("\nhidden  nats per hidden character: " + "   ".join(f"{LOOKS[name][0]} {name}" for name in curves))
    for k in reversed(counts):
        at = {name: min(64, round(14 * of_k[k].mean)) for name, of_k in curves.items()}
        cells = dict.fromkeys(range(at["transformer"]), LOOKS["transformer"]) | {at[name]: LOOKS[name] for name in at}
        bar = (cells.get(i, " ") for i in range(65))
        lesson.say(Text.assemble(f"{k / L:6.0%}  {curves['transformer'][k].mean:.2f}  ", *bar))


def draw(path, curves: dict[str, dict[int, Estimate]], counts, area: float) -> None:
    """The spine of the course: what a hidden letter costs, by how many are hidden."""
    share, middle = [k / L for k in counts], len(counts) // 2
    with figure(path) as (_, ax):
        for name, of_k in curves.items():
            colour, line = (COLOURS["exact"], "--") if name == "exact" else (LOOKS[name][1], "-")
            mean, error = zip(*((of_k[k].mean, of_k[k].stderr) for k in counts), strict=True)
            ax.errorbar(share, mean, error, color=colour, linestyle=line, marker="o", markersize=3, elinewidth=1)
            ax.text(share[middle] - 0.01, mean[middle] + 0.08, name, color=colour, ha="right")
        ax.fill_between(share, [curves["transformer"][k].mean for k in counts], alpha=0.08)
        ax.text(0.64, 0.85, f"area {area:.2f} nats\nper character", color=COLOURS["diffusion"], ha="center")
        ax.set(xlabel="share of letters hidden", ylabel="nats per hidden character", title="What context buys")
        ax.set(xlim=(0, 1.01), ylim=(0, None))


def fill(lesson: Lesson, model, x_0: Tensor, tokenizer, k: int) -> None:
    """Hide k letters of x_0 (1, L) and take the likeliest letter at each, all in one pass."""
    x_t, is_masked = mask_count(x_0, torch.tensor([k], device=x_0.device), tokenizer.mask_id, torch.Generator())
    x = torch.where(is_masked, without_mask(model(x_t), tokenizer.mask_id).argmax(-1), x_t)
    lesson.say(f"\n{k} of {L} letters hidden, all named in one pass: {(x == x_0)[is_masked].double().mean():.0%} right")
    lesson.say(coloured(x_t[0].tolist(), None, tokenizer, L // 2) + "\n")
    lesson.say(coloured(x[0].tolist(), x_t[0].tolist(), tokenizer, L // 2))


def judge(lesson: Lesson, curves, counts, unigram: Tensor, areas: Tensor, bound: Estimate) -> None:
    """The numbers of the picture and what is claimed of them."""
    c, flat, area = curves["transformer"], curves["no context"], areas.mean().item()
    lesson.number("flat", unigram.mean().item(), "without context, nats per character")
    lesson.number("all", c[L].mean, "transformer, all hidden")
    lesson.number("half", c[L // 2].mean, "transformer, half hidden")
    lesson.number("area", area, "area: a bound on -log p, nats per character")
    far = max((sigmas(flat[k].per_sequence - unigram) for k in counts), key=abs)
    lesson.claim("without context: flat, as predicted", abs(far) < 4, f"{far:+.1f} s.e. at worst")
    gap = c[L].mean - unigram.mean().item()
    lesson.claim("all hidden: context buys nothing", abs(gap) < MARGIN, f"{gap:+.4f} nats", "bert", trained=True)
    rises = [Estimate.of(c[2 * k].per_sequence - c[k].per_sequence) for k in (L // 4, L // 2)]
    rise = min(d.mean / d.stderr for d in rises)
    lesson.claim("half as many hidden: a lower curve", rise > 4, f"by {rise:.0f} s.e. or more", "no_positions", True)
    off = sigmas(areas - bound.per_sequence)
    lesson.claim("area = NELBO by a cosine schedule", abs(off) < 4, f"{area:.3f}, {bound.mean:.3f}: {off:+.1f} s.e.")
    if "exact" in curves:
        low = min(sigmas(c[k].per_sequence - curves["exact"][k].per_sequence) for k in counts)
        lesson.claim("nowhere below the exact denoiser", low > -4, f"{low:+.1f} s.e. at worst")


def main(cfg: Config) -> None:
    lesson = Lesson("step2_transformer", cfg, BREAKS)
    corpus = load_corpus(cfg.data, min_length=2 * L)
    mask_id, counts = corpus.tokenizer.mask_id, COUNTS[3::4] if cfg.smoke else COUNTS
    x_0 = corpus.windows(L, 2 if cfg.smoke else WINDOWS).to(lesson.device)
    # What can be said before anything is trained. Any x_t -> logits is a denoiser: the first one looks at nothing.
    counted = nn.functional.pad(torch.bincount(corpus.train, minlength=mask_id) + 1.0, (0, 1))  # of MASK: none
    log_p = counted.log().log_softmax(0).to(lesson.device)
    fillers, unigram = {"no context": lambda x_t: log_p.expand(*x_t.shape, -1)}, -log_p[x_0].mean(1).cpu()
    lesson.predict("no context, or all hidden", f"{unigram.mean():.3f} nats per character, from counts")
    if corpus.entropy_rate is not None:
        fillers["exact"] = Playlets().denoiser()
        lesson.predict("least possible area", f"{fillers['exact'].nll(x_0).mean():.3f}, these texts' exact -log p")
    lesson.predict("an edit left, middle, right moves", f"{L} {L} {L}; causal {L} {L - L // 2} 1")
    sizes = TransformerConfig(mask_id + 1, L, **SIZES, causal=lesson.broken == "causal")
    turn, always = float(lesson.broken != "no_positions"), round(0.15 * L) if lesson.broken == "bert" else None
    model = Transformer(sizes, rng := torch.Generator().manual_seed(cfg.seed), turn)
    how = TrainConfig(**TRAINING | dict(steps=10) if cfg.smoke else TRAINING, seed=cfg.seed)
    fit(model, how, partial(loss, always=always), corpus.batch, lesson.device, "hide k letters, name them")
    model.requires_grad_(False)
    # The picture, and its area a second time: the bound in time of step 0's cosine. It re-weights the same curve.
    curves = {"transformer": curve(model, x_0, mask_id, range(1, L + 1), cfg.seed)}
    areas = torch.stack([c.per_sequence for c in curves["transformer"].values()]).mean(0)  # the mean over all k
    curves |= {name: curve(filler, x_0, mask_id, counts, cfg.seed) for name, filler in fillers.items()}
    bound = estimate_nelbo(model, x_0, mask_id, 64, rng, schedule=SCHEDULES["cosine"])
    plot(lesson, curves, counts)
    draw(lesson.path(".png"), curves, counts, areas.mean().item())
    fill(lesson, model, x_0[:1], corpus.tokenizer, k=L // 2)
    fill(lesson, model, x_0[:1], corpus.tokenizer, k=L)
    judge(lesson, curves, counts, unigram, areas, bound)
    model.double()  # what follows holds for any weights; a touch from far away must not be rounded off
    gap = (model(x_0.flip(1)).flip(1) - model(x_0)).abs().max().item()
    lesson.claim("mirrored, a text gets other answers", gap > 1e-9, f"by {gap:.2g}", broken_by="no_positions")
    off, on = reach(model, x_0[:1], sizes.causal), reach(model, x_0[:1], True)
    holds, found = (off, on) == ([L] * 3, [L, L - L // 2, 1]), f"{off}, switched on {on}"
    lesson.claim("an edit moves all answers, if not causal", holds, found, broken_by="causal")
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
