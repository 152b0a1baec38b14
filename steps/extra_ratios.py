"""Extra: the same model, said in ratios

Question.  Some papers train no p(x_0 | x_t) but a score: how many times more probable a text would be if one token of
           it were another. Is that another model?
Answer.    No. At time t the score of writing y over a MASK is p(y | visible) alpha / (1 - alpha), and its loss, the
           score entropy, is the weighted cross-entropy of step 4, text by text.

Written out here      probabilities, score, score_entropy, walk     (SEDD, 2310.16834; RADD, 2406.03736)
Taken from earlier    SCHEDULES and mask_tokens (step 0), denoise_log_probs and the bound (step 4)
Not the lesson        the exact denoiser (microdlm/oracle.py), the figure

Run        python steps/extra_ratios.py                       seconds; nothing is trained
Expect     every score of every noised text of a small language, by enumeration and from one pass of the denoiser: the
           same to ten digits. From ratios alone -log p of a whole text, once again. And two losses that are one.
Look at    the figure: the scores span orders of magnitude, and move with t although the denoiser does not know t.
Break it   --break forget_noise    the factor alpha / (1 - alpha) is left out
           --break stand_still     each token is exchanged in the text one came from, not in the one it has become
           And by hand: ask for the score of writing over a visible token. What does this model say of it?
Still missing   noise that leaves no mark: then the score is all there is to learn (extra_uniform).
"""

from itertools import product

import torch

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson
from microdlm.masking import mask_tokens
from microdlm.objectives import denoise_log_probs, nelbo
from microdlm.oracle import MarkovDenoiser
from microdlm.schedules import SCHEDULES
from microdlm.transformer import Transformer, TransformerConfig

S, L = 3, 5  # letters of the language, tokens of a text: 243 texts, 1,024 noised ones
TIMES = (0.1, 0.5, 0.9)
BREAKS = {
    "forget_noise": "Only where half of all tokens are visible is p(y | visible) the score: there the factor is one.",
    "stand_still": "Each ratio is right, for another text. Together they are no distribution of the language.",
}


def a_language(seed: int) -> MarkovDenoiser:
    """A random chain over S letters, of which no step is impossible. MASK is S."""
    rng = torch.Generator().manual_seed(seed)
    initial, step = torch.rand(S, generator=rng).double() + 0.05, torch.rand(S, S, generator=rng).double() ** 2 + 0.05
    return MarkovDenoiser(initial / initial.sum(), step / step.sum(1, keepdim=True))


def all_texts(letters: int) -> torch.Tensor:
    """(letters^L, L), in the order in which `place` counts them."""
    return torch.tensor(list(product(range(letters), repeat=L)))


def place(x: torch.Tensor, letters: int) -> torch.Tensor:
    """Which of `all_texts` each row of x is."""
    return (x * letters ** torch.arange(L - 1, -1, -1)).sum(-1)


def probabilities(language: MarkovDenoiser, alpha_t: float) -> torch.Tensor:
    """p_t(x) of each of the (S + 1)^L noised texts: the sum over all clean ones of p(x_0) q(x | x_0). No denoiser."""
    x_0, x_t = all_texts(S), all_texts(S + 1)
    kept, hidden = (x_t[:, None] == x_0).double(), (x_t == S)[:, None].double()
    q = (alpha_t * kept + (1 - alpha_t) * hidden).prod(2)  # (noised, clean)
    return q @ (-L * language.nll(x_0)).exp()


def score(denoiser, x_t: torch.Tensor, alpha_t: float) -> torch.Tensor:
    """(B, L, S) p_t(x_t with y in place of its MASK) / p_t(x_t), for all MASKs in one pass; 0 at visible tokens, where
    masked diffusion never moves. p(y | visible) says which token; the factor says how likely it is to be seen at all.
    """
    log_p = denoise_log_probs(denoiser(x_t), x_t, S)[..., :S]
    return log_p.exp() * (x_t == S)[..., None] * alpha_t / (1 - alpha_t)


def enumerated(p_t: torch.Tensor, x_t: torch.Tensor) -> torch.Tensor:
    """The same from the probabilities of all noised texts."""
    ratios = torch.zeros(*x_t.shape, S, dtype=torch.float64)
    for i, y in product(range(L), range(S)):
        other = x_t.clone()
        other[:, i] = y
        ratios[:, i, y] = p_t[place(other, S + 1)] / p_t[place(x_t, S + 1)] * (x_t[:, i] == S)
    return ratios


def score_entropy(s: torch.Tensor, x_0: torch.Tensor, x_t: torch.Tensor, alpha_t: float, rate: float) -> torch.Tensor:
    """(B,) SEDD's loss at time t, per token: at each MASK, rate times the sum over y of s_y - r_y log s_y + r_y log r_y
    - r_y, where r is the score if x_0 were the only text. It is zero for s = r, and its mean is least for the score."""
    r = torch.nn.functional.one_hot(x_0, S).double() * alpha_t / (1 - alpha_t)
    terms = s - torch.xlogy(r, s) + torch.xlogy(r, r) - r
    return rate * torch.where((x_t == S)[..., None], terms, 0.0).sum((1, 2)) / L


def walk(denoiser, x: torch.Tensor, y: torch.Tensor, stand_still: bool = False) -> torch.Tensor:
    """(B,) log p(y) / p(x) of clean texts, from ratios alone: x becomes y token by token, and each change has a ratio,
    p(y_i | the others) / p(x_i | the others). That is one pass with this token hidden."""
    total, now = torch.zeros(len(x), dtype=torch.float64), x.clone()
    for i in range(L):
        seen = (x if stand_still else now).clone()
        seen[:, i] = S
        log_p = denoise_log_probs(denoiser(seen), seen, S)[:, i]
        total += (log_p.gather(1, y[:, i : i + 1]) - log_p.gather(1, x[:, i : i + 1])).squeeze(1)
        now[:, i] = y[:, i]
    return total


def every_score(lesson: Lesson, language: MarkovDenoiser) -> list[tuple[float, torch.Tensor, torch.Tensor]]:
    """For each time all scores, both ways."""
    x_t, found, schedule = all_texts(S + 1), [], SCHEDULES["cosine"]
    for t in TIMES:
        alpha_t = schedule.alpha(torch.tensor(t, dtype=torch.float64)).item()
        asked = score(language, x_t, 0.5 if lesson.broken == "forget_noise" else alpha_t)
        found.append((t, enumerated(probabilities(language, alpha_t), x_t)[x_t == S], asked[x_t == S]))
    off = torch.stack([asked / true - 1 for _, true, asked in found]).abs().max().item()
    many = f"{len(found[0][1]) * S * len(TIMES):,} scores, at most {off:.0e} off"
    lesson.claim("the denoiser gives every score", off < 1e-9, many, "forget_noise")
    lesson.number("largest", max(true.max().item() for _, true, _ in found), "largest score")
    lesson.number("smallest", min(true.min().item() for _, true, _ in found), "smallest score")
    return found


def whole_texts(lesson: Lesson, language: MarkovDenoiser) -> None:
    """Ratios fix a distribution: from all ratios to one text, and their sum, follow the probabilities of all texts."""
    x_0 = all_texts(S)
    ratios = walk(language, x_0[:1].expand_as(x_0), x_0, stand_still=lesson.broken == "stand_still").exp()
    off = (-(ratios / ratios.sum()).log() - L * language.nll(x_0)).abs().max().item()
    lesson.claim("ratios alone give -log p of every text", off < 1e-9, f"at most {off:.0e} nats off", "stand_still")


def two_losses(lesson: Lesson, language: MarkovDenoiser, rng: torch.Generator, n: int = 1000) -> None:
    """Of an untrained network, so of any: not equal on average, equal for each text, each mask and each time."""
    schedule, x_0 = SCHEDULES["cosine"], language.sample(n, L, rng)
    network = Transformer(TransformerConfig(S + 1, L, n_layer=1, n_head=2, d_model=16), rng).double()
    torch.nn.init.normal_(network.head.weight, generator=rng)
    apart, sizes = [], []
    for t in TIMES:
        alpha_t = schedule.alpha(torch.tensor(t, dtype=torch.float64))
        x_t, is_masked = mask_tokens(x_0, alpha_t.expand(n), S, rng)
        weight_t = schedule.weight(torch.tensor(t, dtype=torch.float64))
        with torch.no_grad():
            cross = nelbo(denoise_log_probs(network(x_t), x_t, S), x_0, is_masked, weight_t.expand(n))
            rate = (weight_t * (1 - alpha_t) / alpha_t).item()  # -alpha' / alpha: how fast a visible token is masked
            entropy = score_entropy(score(network, x_t, alpha_t.item()), x_0, x_t, alpha_t.item(), rate)
        apart.append((cross - entropy).abs())
        sizes.append(cross.mean().item())
    off = torch.cat(apart).max().item()
    found = f"{3 * n:,} draws around {min(sizes):.2f} to {max(sizes):.2f} nats, at most {off:.0e} apart"
    lesson.claim("score entropy is the weighted cross-entropy", off < 1e-9, found)


def main(cfg: Config) -> None:
    lesson, language = Lesson("extra_ratios", cfg, BREAKS), a_language(cfg.seed)
    if cfg.data != Config.data:
        lesson.say("  [dim]--data is of no use here: what is enumerated has to be small")
    lesson.predict("each score", "p(y | visible) alpha / (1 - alpha)")
    lesson.predict("score entropy less weighted cross-entropy", "0, draw by draw")
    found = every_score(lesson, language)
    whole_texts(lesson, language)
    two_losses(lesson, language, torch.Generator().manual_seed(cfg.seed))
    with figure(lesson.path(".png"), width=4.6, height=4.0) as (_, ax):
        for (t, true, asked), colour in zip(found, ("another", "diffusion", "masked"), strict=True):
            ax.loglog(true.flatten(), asked.flatten(), ".", color=COLOURS[colour])
            ax.annotate(f"t = {t}", (true.max(), asked.max()), (-6, 2), textcoords="offset points", ha="right")
        ends = [min(true.min() for _, true, _ in found), max(true.max() for _, true, _ in found)]
        ax.plot(ends, ends, "--", color=COLOURS["exact"], linewidth=1)
        ax.set(xlabel="ratio of enumerated probabilities", ylabel="score, from one pass of the denoiser")
        ax.set_title("One pass gives every ratio")
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
