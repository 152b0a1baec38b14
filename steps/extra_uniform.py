"""Extra: noise that leaves no mark

Question.  MASK says of itself that it is noise. What if a token is replaced by a random other one instead?
Answer.    Then whoever denoises has to find out which tokens to believe, and has to know the time; in return nothing is
           ever final. Either noise is one matrix, and all else is the same few lines (D3PM).

Written out here      masking, uniform (two matrices), posterior, bridge, step, bound     (D3PM, 2107.03006)
Taken from earlier    the exact curve (step 2) and its Riemann sum (step 3)
Not the lesson        the exact denoiser (microdlm/oracle.py), the figure

Run        python steps/extra_uniform.py                      seconds; nothing is trained, nothing is drawn at random
Expect     predictions, then measurements, of a language so small that all its texts are counted: the bound in T steps
           for masks; both bounds fall to the entropy; a token changes once, or (1 - 1/S)(1 + 1/2 + .. + 1/T) times.
Look at    the planted mistake: masks keep it for ever. And the columns "written": in few steps uniform noise is further
           from the language than masks are, in many it is nearer, for it can still mend what it wrote.
Break it   --break no_time         the denoiser is told t = 1/2 all the way
           --break keep_visible    what stands there is believed, as masked diffusion believes it
           And by hand: give `uniform` a row that prefers some letters. Which start does writing then need?
Still missing   a network that has learnt it, at a size that matters: UDLM (2412.10193), Duo (2506.10892).
"""

import math
from functools import cache
from itertools import pairwise, product

import torch
from rich.table import Table

from microdlm import cli
from microdlm.colours import COLOURS
from microdlm.figures import figure
from microdlm.lesson import Config, Lesson
from microdlm.likelihood import exact_curve
from microdlm.oracle import MarkovDenoiser

S, L = 3, 4  # letters, tokens: 81 texts, 256 with masks in them
STEPS = (1, 2, 4, 8, 16, 32, 64)
AGAIN = 0.9  # a letter comes again
MISTAKE, WHEN = (0, 0, 1, 0), 0.25  # a lonely letter in a language that repeats itself, and when it is found there
BREAKS = {
    "no_time": "Masks do not mind: their denoiser never asked. With uniform noise no number of steps is enough.",
    "keep_visible": "In any number of steps what is written under uniform noise is as far off as noise itself.",
}


def masking(alpha):
    """(V, V) where a token goes: it stays, or becomes MASK, which is id S."""
    to_mask = torch.zeros(S + 1, S + 1, dtype=torch.float64)
    to_mask[:, S] = 1
    return alpha * torch.eye(S + 1, dtype=torch.float64) + (1 - alpha) * to_mask


def uniform(alpha):
    """(V, V) it stays, or becomes any letter, be it the same."""
    return alpha * torch.eye(S, dtype=torch.float64) + (1 - alpha) / S


NOISES = {"masked": masking, "uniform": uniform}


class World:
    """All clean texts with their probabilities, and all texts that a noise can make of them."""

    def __init__(self, noise, language):
        self.noise, V = noise, len(noise(1.0))
        self.x_0, self.x = (torch.tensor(list(product(range(n), repeat=L))) for n in (S, V))
        self.p = (-L * language.nll(self.x_0)).exp()
        self.one_hot = torch.nn.functional.one_hot(self.x_0, S).double()

    def together(self, alpha):
        """(clean, noised) p(x_0) q(x_t | x_0): tokens become noise independently."""
        return self.p[:, None] * self.noise(alpha)[self.x_0[:, None], self.x].prod(2)

    def posterior(self, alpha):
        """(noised, L, S) p(x_0,i | x_t), what a perfect denoiser says: of all texts, those that x_t can come from."""
        p = torch.einsum("cn,cls->nls", self.together(alpha), self.one_hot)
        return p / p.sum(-1, keepdim=True).clamp(min=1e-300)  # a text that nothing can become has no posterior

    def believed(self, alpha, bug=None):
        """As posterior; with a bug, what one says who does not know the time, or believes what stands there."""
        p = self.posterior(0.5 if bug == "no_time" else alpha)
        if bug == "keep_visible":
            visible = self.x < S
            p[visible] = torch.nn.functional.one_hot(self.x[visible], S).double()
        return p


def bridge(noise, alpha_t, alpha_s):
    """(V, S, V) q(x_s | x_t, x_0) of one token, s before t: Bayes. Noise goes on from s to t by alpha_t / alpha_s."""
    onward, sofar = noise(alpha_t / alpha_s), noise(alpha_s)[:S]
    both = onward.T[:, None, :] * sofar[None, :, :]
    return both / both.sum(-1, keepdim=True).clamp(min=1e-300)  # what cannot be stays 0


@cache
def step(world, alpha_t, alpha_s, bug=None):
    """(noised, L, V) p(x_s,i | x_t): the bridge, averaged over what x_0,i may be. All tokens move at once, and do not
    see each other."""
    ways = bridge(world.noise, alpha_t, alpha_s)[world.x]  # (noised, L, S, V)
    return torch.einsum("nls,nlsv->nlv", world.believed(alpha_t, bug), ways)


def times(T, start=0.0):
    """Pairs of alpha, of the linear schedule, on the way back from `start` to clean text in T steps."""
    return list(pairwise(start + (1 - start) * i / T for i in range(T + 1)))


def bound(world, T, bug=None):
    """The NELBO in T steps, nats per token, exact: for each step the divergence of what the sampler does from the
    bridge to the true x_0, averaged over all texts and all their noise."""
    total = 0.0
    for alpha_t, alpha_s in times(T):
        true = bridge(world.noise, alpha_t, alpha_s)[world.x, world.x_0[:, None]]  # (clean, noised, L, V)
        divergence = torch.xlogy(true, true) - torch.xlogy(true, step(world, alpha_t, alpha_s, bug))
        total += (world.together(alpha_t) * divergence.sum((2, 3))).nan_to_num(0.0, math.inf).sum().item()
    return total / L


def write(world, law, alphas, bug=None):
    """From the law of x_t (noised,) to that of what is written, and the expected number of changes of a token. Nothing
    is drawn: every text goes every way, each with its probability."""
    changes, place = 0.0, torch.arange(L)
    for alpha_t, alpha_s in alphas:
        moves = step(world, alpha_t, alpha_s, bug)
        stays = moves.gather(2, world.x[..., None]).squeeze(2)  # (noised, L)
        changes += (law @ (1 - stays)).mean().item()
        law = law @ moves[:, place, world.x].prod(2)
    return law, changes


def start(world):
    """The law at t = 1, of which x_0 says nothing: all MASK, or any letters."""
    return world.noise(0.0)[0][world.x].prod(1)


def hidden_masks(language, world, alpha):
    """The posterior under uniform noise in another way: by all masks that may have been there. A token was kept or
    redrawn; if one knew which, the denoiser of masked diffusion could be asked."""
    total = torch.zeros(*world.x.shape, S, dtype=torch.float64)
    for was_kept in product([True, False], repeat=L):
        kept = torch.tensor(was_kept)
        fits = ((world.x[:, None] == world.x_0) | ~kept).all(2).double() @ world.p  # p(what was kept)
        many = int(kept.sum())
        weight = alpha**many * ((1 - alpha) / S) ** (L - many) * fits
        total += weight[:, None, None] * language(world.x.masked_fill(~kept, S)).exp()[..., :S]
    return total / total.sum(-1, keepdim=True)


def riemann(curve, T):
    """The bound for masks in T steps from the exact curve c_1 .. c_L alone: the right Riemann sum of m(u) (step 3)."""
    u, k = torch.arange(1, T + 1).double()[:, None] / T, torch.arange(1, L + 1).double()
    ways = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)  # which k - 1 of the other three are masked too
    return ((ways * u ** (k - 1) * (1 - u) ** (L - k)) @ curve).mean().item()


def posteriors(lesson, language, worlds):
    """Two exact answers, each in another way; and what the time has to do with them."""
    early, late = 0.7, 0.3
    oracle = language(worlds["masked"].x).exp()[..., :S]
    off = torch.stack([worlds["masked"].posterior(a) - oracle for a in (early, late)]).abs().max().item()
    lesson.claim("masks: the posterior is the oracle's, at any time", off < 1e-9, f"at most {off:.0e} off")
    world = worlds["uniform"]
    pairs = [world.posterior(a) - hidden_masks(language, world, a) for a in (early, late)]
    off = torch.stack(pairs).abs().max().item()
    lesson.claim("uniform: that of masks whose marks are gone", off < 1e-9, f"at most {off:.0e} off")
    apart = (world.posterior(early) - world.posterior(late)).abs().sum(-1).max().item() / 2
    lesson.number("apart", apart, "uniform: posteriors at t = .3 and .7 apart, at most, total variation")


def in_steps(lesson, worlds, curve):
    """The bound above the entropy, the law of what is written, and the changes it takes, for each number of steps."""
    above, ways, entropy = {name: [] for name in NOISES}, {}, curve.mean().item()
    table = Table("steps", "masked", "uniform", "written", "written", "changes", "changes")
    for T in STEPS:
        for name, world in worlds.items():
            above[name].append(bound(world, T, lesson.broken) - entropy)
            law, changes = write(world, start(world), times(T), lesson.broken)
            clean = law[(world.x < S).all(1)]
            ways[name, T] = (torch.xlogy(world.p, world.p / clean).sum().item() / L, changes)
        cells = [[f"{above[n][-1]:.4f}" for n in NOISES], *([f"{ways[n, T][i]:.4f}" for n in NOISES] for i in (0, 1))]
        table.add_row(str(T), *(cell for pair in cells for cell in pair))
    lesson.say("\nNats per token above the entropy: the bound, and what is written; changes of a token", table)
    pairs = zip(STEPS, above["masked"], strict=True)
    off = torch.tensor([gap + entropy - riemann(curve, T) for T, gap in pairs]).abs().max().item()
    lesson.claim("masked: the bound is the Riemann sum", off < 1e-9, f"at most {off:.0e} off")
    for name, broken_by in (("masked", ""), ("uniform", "no_time keep_visible")):
        gap, half = above[name][-1], above[name][-2] / above[name][-1]  # half as much in twice the steps
        holds, found = 0 < gap < 0.02 and 1.5 < half < 2.5, f"{gap:.4f} above in {STEPS[-1]} steps"
        lesson.claim(f"{name}: the bound falls to the entropy", holds, found, broken_by)
        lesson.number(f"{name} bound", gap, f"{name}: bound above the entropy in {STEPS[-1]} steps, nats per token")
    worst = max(ways[name, T][0] - above[name][i] for name in NOISES for i, T in enumerate(STEPS))
    lesson.claim("what is written is no further off than the bound", worst < 1e-9, f"{worst:.4f} at the closest")
    return above, ways


def changing(lesson, worlds, ways):
    """How often a token changes on its way, and what becomes of a mistake."""
    T, once = STEPS[-1], ways["masked", STEPS[-1]][1]
    lesson.claim("masked: a token changes once", abs(once - 1) < 1e-9, f"{once:.4f}")
    often, expected = ways["uniform", T][1], harmonic(T)
    holds, found = abs(often / expected - 1) < 0.02, f"{often:.3f} in {T} steps"
    lesson.claim("uniform: as often as predicted", holds, found, "no_time keep_visible")
    lesson.number("changes", often, f"uniform: changes of a token in {T} steps")
    kept = {}
    for name, world in worlds.items():
        there = (world.x == torch.tensor(MISTAKE)).all(1)
        law, _ = write(world, there.double(), times(T, 1 - WHEN), lesson.broken)
        kept[name] = law[world.x[:, 2] == MISTAKE[2]].sum().item()
    lesson.claim("masked: a mistake stays", abs(kept["masked"] - 1) < 1e-9, f"{kept['masked']:.3f}")
    there = (worlds["uniform"].x == torch.tensor(MISTAKE)).all(1)
    true = worlds["uniform"].posterior(1 - WHEN)[there, 2, MISTAKE[2]].item()
    holds, found = abs(kept["uniform"] - true) < 0.02, f"{kept['uniform']:.3f} kept, {true:.3f} by the posterior"
    lesson.claim("uniform: it stays as often as it is none", holds, found, "no_time keep_visible")
    lesson.number("kept", kept["uniform"], f"uniform: a lonely letter found at t = {WHEN} stays, probability")


def harmonic(T):
    """Changes of a token in T steps of linear noise, on the way to it as on the way back: from s to t it is redrawn
    with probability 1 - alpha_t / alpha_s, and is another with (S - 1) / S."""
    return (1 - 1 / S) * sum(1 / n for n in range(1, T + 1))


def main(cfg: Config) -> None:
    lesson = Lesson("extra_uniform", cfg, BREAKS)
    if cfg.data != Config.data:
        lesson.say("  [dim]--data is of no use here: what is counted has to be small")
    moves = uniform((AGAIN * S - 1) / (S - 1))  # the same matrix once more: a letter comes again, or any other does
    language = MarkovDenoiser(torch.full((S,), 1 / S, dtype=torch.float64), moves)
    worlds, curve = {name: World(noise, language) for name, noise in NOISES.items()}, exact_curve(language, L)
    lesson.predict("both bounds, in ever more steps", f"{curve.mean():.4f} nats per token, the entropy")
    lesson.predict(f"masked: bound in {STEPS[2]} steps", f"{riemann(curve, STEPS[2]):.4f} nats per token")
    lesson.predict(f"changes of a token in {STEPS[-1]} steps", f"masked 1, uniform {harmonic(STEPS[-1]):.3f}")
    posteriors(lesson, language, worlds)
    above, ways = in_steps(lesson, worlds, curve)
    changing(lesson, worlds, ways)
    with figure(lesson.path(".png")) as (_, ax):
        for name, colour, marker, side in (("masked", "diffusion", "o", -20), ("uniform", "remasked", "s", 8)):
            ax.loglog(STEPS, above[name], f"{marker}-", color=COLOURS[colour])
            ax.annotate(
                name, (STEPS[-2], above[name][-2]), (-10, side), textcoords="offset points", color=COLOURS[colour]
            )
            ax.loglog(STEPS, [ways[name, T][0] for T in STEPS], f"{marker}:", color=COLOURS[colour], markersize=4)
        ax.set(xlabel="steps", ylabel="nats per token above the entropy", title="Bound (line), what is written (dots)")
    lesson.close()


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
