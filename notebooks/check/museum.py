"""Checks for notebook 8, the bug museum: one for each exhibit, named like it. Each knows the bug and says so."""

import functools
import math

import torch

from check.exercise import NotYet, ask, compare, exercise, near, pair, short, tensor
from microdlm.cost import CountForwards
from microdlm.likelihood import estimate_nelbo, exact_curve
from microdlm.objectives import count_nelbo, without_mask
from microdlm.objectives import nelbo as core_nelbo
from microdlm.oracle import MarkovDenoiser
from microdlm.samplers import ancestral, confidence
from microdlm.schedules import SCHEDULES
from microdlm.transformer import Transformer, TransformerConfig

MASK = 4


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _losses(hidden: list[int], L: int = 8):
    """(nll, is_masked) of texts of which so many tokens are hidden; nll is 0 elsewhere."""
    is_masked = torch.arange(L) < torch.tensor(hidden)[:, None]
    return torch.rand(len(hidden), L, generator=_seeded(3)).double() * is_masked, is_masked


@exercise
def counted_twice(mine):
    """my_loss(nll, is_masked, t) -> (B,): the bound, linear schedule."""
    nll, is_masked = _losses([0, 1, 3, 5, 6, 8])
    t, n, total = torch.tensor([0.1, 0.05, 0.3, 0.6, 0.8, 1.0]).double(), is_masked.sum(1), nll.sum(1)
    log_p = torch.stack([-nll, torch.full_like(nll, -math.inf)], -1)
    truth = core_nelbo(log_p, torch.zeros(nll.shape).long(), is_masked, SCHEDULES["linear"].weight(t))
    mean, twice = total / n.clamp(min=1), "Both are still there: the mean divides by the number of hidden tokens, and "
    answer = ask(mine, nll, is_masked, t)
    if getattr(answer, "shape", None) == ():
        raise NotYet("This is one number for the whole batch. Every text has a t of its own: return (B,).")
    answer = tensor(answer, (6,))
    if near(answer, mean):
        return (
            "You kept the mean and dropped the weight. With the linear schedule that is the bound too, times "
            "L / (L + 1): now and then nothing is hidden, and such a text counts as 0. With another schedule the "
            "mean would need the weight -alpha'(t)."
        )
    compare(
        answer,
        truth,
        {
            twice + "1/t does it again. Take one of them away.": mean / t,
            twice + "1/t, capped or not, does it again. Take one of them away.": mean * (1 / t).clamp(max=10),
            "The sum over hidden tokens needs the weight: where little is hidden the sum is small.": total / 8,
            "This is the sum over a text. Per token: divide by L.": total / t,
            "The cap lowers the weight of texts with little hidden: what is left is no bound.": total
            * (1 / t).clamp(max=10)
            / 8,
            "One ratio for the whole batch: that is the next exhibit.": total.sum() / n.sum() * torch.ones(6),
            "The weight is upside down: at small t little is hidden, and that little must count for more.": total
            * t
            / 8,
        },
        tell="For six texts of 8 tokens",
    )
    return (
        "The sum, divided by L, times w(t): the weight stands for the number of hidden tokens, which L does not know."
    )


@exercise
def batch_ratio(mine):
    """my_score(nll, is_masked) -> a number, nats per token; the counts are uniform on 1..L."""
    nll, is_masked = _losses([1, 2, 3, 4, 5, 6, 7, 8])
    n, total = is_masked.sum(1), nll.sum(1)
    compare(
        tensor(ask(mine, nll, is_masked)),
        count_nelbo(nll, is_masked).mean(),
        {
            "This is still one ratio for the batch: a text with 8 hidden tokens has 8 votes, a text with one has one. "
            "Every text should have the same say.": total.sum() / n.sum(),
            "Visible tokens cost nothing and are counted all the same: this is about half of it.": nll.mean(),
            "This is the sum over the hidden tokens of a text: take their mean.": total.mean(),
            "1/k twice: the mean over hidden tokens is taken already.": (total / n**2).mean(),
            "This is the sum over the texts: take their mean.": (total / n).sum(),
            "In time there is a weight; here k is uniform, and the plain mean is the bound.": (
                8 / n * total / n
            ).mean(),
        },
        tell="For eight texts of 8 tokens with 1, 2, .. 8 hidden",
    )
    return "First the mean over the hidden tokens of a text, then over texts. Now the two models tie, as they should."


@exercise
def wrong_axis(mine):
    """my_forbid(logits, mask_id) -> logits without MASK."""
    for L, mask_id in ((6, MASK), (3, MASK), (6, 0)):
        logits = torch.randn(2, L, 5, generator=_seeded(1)).double()
        found = ask(mine, logits, mask_id)
        if isinstance(found, torch.Tensor) and found.shape == logits.shape and mask_id < L:
            if (found[:, mask_id] == -math.inf).all():
                raise NotYet(
                    f"All of position {mask_id} is ruled out, and MASK nowhere: `:` stands for one axis, `...` for as "
                    "many as there are. The vocabulary is the last."
                )
        found = tensor(found, logits.shape)
        if (found[..., mask_id] == 0).all():
            raise NotYet("0 is a logit like any other: MASK still has e^0 of the sum. Nothing is -inf.")
        p = found.softmax(-1)
        if (p[..., mask_id] > 1e-9).any():
            least = "The MASK of this test is id 0: forbid mask_id, wherever it stands. " if mask_id == 0 else ""
            raise NotYet(f"{least}MASK keeps probability {p[..., mask_id].max():.2g}.")
        if not near(p, without_mask(logits, mask_id).softmax(-1)):
            raise NotYet("MASK is gone, and something else has changed: the other logits should stay as they are.")
    return "The last axis, -inf, in a copy; and it holds for fewer tokens than ids, and for any id of MASK."


@exercise
def overwrite(mine):
    """my_update(x_t, drawn, is_open, mask_id) -> the next page."""
    x_t = torch.tensor([[0, 1, MASK, MASK, 2, MASK], [MASK, 3, MASK, 0, MASK, MASK]])
    drawn = torch.tensor([[3, 3, 1, 0, 0, 2], [1, 1, 0, 2, 3, 0]])
    is_open = torch.tensor([[1, 1, 1, 0, 1, 0], [0, 1, 1, 1, 0, 1]]).bool()
    hidden = x_t == MASK
    compare(
        tensor(ask(mine, x_t, drawn, is_open, MASK), x_t.shape),
        torch.where(hidden & is_open, drawn, x_t),
        {
            "A token that was written is drawn again, and so is the prompt. is_open says what is visible afterwards, "
            "and much of that is visible before: it must stay.": torch.where(is_open, drawn, x_t),
            "Every MASK opens at once: wait for is_open.": torch.where(hidden, drawn, x_t),
            "Here only the visible tokens are drawn: it is the MASKs that wait.": torch.where(~hidden, drawn, x_t),
        },
        tell="On two pages",
    )
    return "Where there is a MASK and its hour has come, the drawn token; everywhere else what was there."


@exercise
def backwards(mine):
    """my_times(num_steps) -> (num_steps,): the t that each pass is told, linear schedule."""
    for n in (4, 10):
        i = torch.arange(n).double()
        compare(
            tensor(ask(mine, n), (n,)),
            1 - i / n,
            {
                "t still rises. Training called clean text 0 and nothing but MASK 1, and writing begins with MASK.": i
                / n,
                "t still rises: it should begin at 1, where all is MASK, and fall.": (i + 1) / n,
                "The last pass is told t = 0, a clean text; yet it has tokens to fill in. Its page is at 1 / num_steps."
                : torch.linspace(1, 0, n).double(),
                "This is the t of the page that comes out of each pass. The denoiser reads the one that goes in.": 1
                - (i + 1) / n,
                "These are steps, not times: divide by num_steps.": n - i,
            },
            tell=f"For {n} passes",
        )  # fmt: skip
    return "From 1 down to 1 / num_steps: the t of the page that is read. Better still is a denoiser that is not told."


@exercise
def came_back(mine):
    """my_pages(x_0, shares, mask_id, rng) -> (n, L): one text at rising noise."""
    L, shares = 4000, torch.linspace(0, 1, 11)
    x_0 = torch.randint(MASK, (L,), generator=_seeded(1))
    pages = tensor(ask(mine, x_0, shares, MASK, _seeded()), (11, L)).long()
    hidden = pages == MASK
    if not torch.equal(pages[~hidden], x_0.expand(11, L)[~hidden]):
        raise NotYet("A visible token has become another one. What is not hidden stays as it is.")
    back = int((hidden[:-1] & ~hidden[1:]).sum())
    if back:
        raise NotYet(
            f"{back} times a hidden token comes back: each page draws numbers of its own. A token needs one number, "
            "for its whole life."
        )
    share, piled = hidden.double().mean(1), 1 - (1 - shares.double()).cumprod(0)
    if (share - shares).abs().max() > 0.05:
        if (share - piled).abs().max() < 0.05:
            raise NotYet(
                f"At u = 0.3 you hide {share[3]:.0%}: each page hides a share of what the last one left, so the shares "
                "pile up. Nothing comes back, and the rate is wrong."
            )
        raise NotYet(f"At u = 0, 0.1, 0.2 .. you hide the shares {short(share)}.")
    if torch.equal(pages, tensor(ask(mine, x_0, shares, MASK, _seeded(5)), (11, L)).long()):
        raise NotYet(
            "Another generator, the same holes: you seed inside, so all texts are hidden in one order. The caller owns "
            "the randomness: take your numbers from rng."
        )
    return "One number for each token, drawn once, compared with every share: masks are nested, and MASK absorbs."


@exercise
def first_loss(mine):
    """my_table(V, D, rng) -> (V, D), embedding and head in one; the last id is MASK."""
    V, D = 10_001, 512
    table = tensor(ask(mine, V, D, _seeded()), (V, D))
    if torch.equal(table[0], table[1]):
        raise NotYet(
            "The loss is ln V, and stays there: all tokens have the same row, so the network cannot tell them apart."
        )
    h = table[-1] / table[-1].square().mean().sqrt().clamp(
        min=1e-9
    )  # what the head reads on a page of MASK, after the norm
    loss = torch.logsumexp(table[:-1] @ h, 0) - (table[:-1] @ h).mean()
    found, target = f"A first loss of {loss:.1f} nats, and ln {V - 1} = {math.log(V - 1):.1f}", math.log(V - 1)
    scale = table.std().item()
    if loss > target + 0.2:
        if 0.9 < scale < 1.1:
            raise NotYet(
                f"{found}: as a head, rows of N(0, 1) give logits with a standard deviation of sqrt(D) = 22.6."
            )
        if 0.9 < scale * math.sqrt(D) < 1.1:
            raise NotYet(
                f"{found}: half a nat above. 1 / sqrt(D) makes logits of standard deviation 1, so guesses are still "
                "taken. Smaller: they should be near 0."
            )
        raise NotYet(f"{found}. The numbers in your table have a standard deviation of {scale:.2g}: too large.")
    return f"{found}. A network that knows nothing should say so."


@exercise
def gumbel(mine):
    """my_noise(shape, rng) -> standard Gumbel noise that can be large."""
    noise = ask(mine, (2**18,), _seeded())
    values = tensor(noise, (2**18,))
    if torch.as_tensor(noise).dtype != torch.float64:
        raise NotYet(f"The noise is {torch.as_tensor(noise).dtype}, in which nothing above 16.64 is ever drawn.")
    mean = values.mean().item()
    if abs(mean + 0.5772) < 0.02:
        raise NotYet("Upside down: Gumbel noise has its long tail to the right, so a minus is missing or too many.")
    if values.min() >= 0 and abs(mean - 1) < 0.02:
        raise NotYet("This is -log(u), exponential noise. Once more: -log of it.")
    cells = (-values.neg().exp()).exp() * 2**24  # u, in units of what a float32 in [1/2, 1) can tell apart
    if (cells - cells.round()).abs().lt(1e-4).double().mean() > 0.5:
        raise NotYet(
            "Drawn in float32, then made float64: the numbers still lie on a grid of 2^-24, the noise still ends at "
            "16.64. torch.rand itself takes a dtype."
        )
    if not values.isfinite().all() or abs(mean - 0.5772) > 0.02 or abs(values.var().item() - math.pi**2 / 6) > 0.05:
        raise NotYet(
            f"Gumbel noise has mean 0.577 and variance 1.645; yours {mean:.3f} and {values.var():.3f}: -log(-log(u))."
        )
    if torch.equal(values, tensor(ask(mine, (2**18,), _seeded(1)), (2**18,))):
        raise NotYet("Another generator, the same noise: hand `generator=rng` to torch.rand.")
    return "53 bits in place of 24: the noise reaches 36.7, and one in a billion is drawn once in a billion times."


def _read(ids, alphabet: str) -> str:
    try:
        return "".join(alphabet[int(i)] for i in ids)
    except (TypeError, ValueError, IndexError, RuntimeError) as e:
        raise NotYet("Return a list of ids: of each character its place in the alphabet.") from e


@exercise
def spaces(mine):
    """my_encode(text, alphabet) -> ids; a character without an id is an error that names it."""
    alphabet, text = "\n !',.:?EGMTaceinorst", "Enter Mira.\nMira: I sing no more!\n"
    alphabet += "".join(sorted(set(text) - set(alphabet)))
    ids = ask(mine, text, alphabet)
    back = _read(ids, alphabet)
    if lost := [c for c in sorted(set(text)) if back.count(c) < text.count(c)]:
        how = f"{len(ids)} of {len(text)} characters arrive" if len(ids) < len(text) else "some have become others"
        raise NotYet(f"{how}: encoded and decoded, the text reads {back[:12]!r} and lacks {lost[0]!r}.")
    if back != text:
        raise NotYet(f"Encoded and decoded, the text reads {back[:20]!r}.. and should be {text[:20]!r}..")
    try:
        silent = mine("Enter Zoë.", alphabet + "Z")
    except Exception as error:
        if "ë" in str(error):
            return "What is decoded is what was typed, and what cannot be encoded is said, by name."
        raise NotYet(
            f"Your function stops at an unknown character and says {str(error)!r}. Which one? Say it: somebody has to "
            "find it in her prompt."
        ) from None
    became = _read(silent, alphabet + "Z")
    raise NotYet(
        f"'Enter Zoë.' holds a letter that has no id, and becomes {became!r} without a word. That is an error."
    )


class _Case:
    """Two tiny networks, one of which was saved: plain or compiled, on either side."""

    def __init__(self, new_is_compiled: bool, saved_is_compiled: bool):
        sizes = TransformerConfig(5, 4, n_layer=1, n_head=1, d_model=4)
        old, new = (Transformer(sizes, _seeded(seed)) for seed in (1, 2))
        self.want, self.model = old.state_dict(), torch.compile(new) if new_is_compiled else new
        self.saved = (torch.compile(old) if saved_is_compiled else old).state_dict()

    def arrives(self, mine) -> bool:
        ask(mine, self.model, dict(self.saved))
        found = getattr(self.model, "_orig_mod", self.model).state_dict()
        return all(torch.equal(found[name], p) for name, p in self.want.items())


@exercise
def resume(mine):
    """my_load(model, saved) -> the model, whoever of the two was compiled."""
    if not _Case(False, True).arrives(mine):
        raise NotYet(
            "No weight of a compiled model arrives, and nobody says so: all names begin with _orig_mod., none fits, "
            "and strict=False skips what does not fit."
        )
    if not _Case(False, False).arrives(mine):
        raise NotYet("Now the weights of a model that was not compiled are lost: take the prefix off only where it is.")
    for saved_is_compiled in (False, True):
        if not _Case(True, saved_is_compiled).arrives(mine):
            raise NotYet("A compiled model does not get its weights. The plain one is inside it: model._orig_mod.")
    case = _Case(False, True)
    del case.saved["_orig_mod.embedding.weight"]
    try:
        mine(case.model, case.saved)
    except Exception:
        return "Names without the prefix, and strict: whatever is missing is an error on the spot."
    raise NotYet("A file without the embedding is loaded without a word. Let load_state_dict be strict, its default.")


def _film(denoiser, x):
    """For the check of `frames`: three frames for every pass, and the second half of them read one token only."""
    for step in range(6):
        denoiser(x if step < 3 else x[:, :1])
        yield from (x, x, x)


@exercise
def frames(mine):
    """my_cost(sampler, denoiser, x) -> (forward passes, token-forwards)."""

    def blank(x_t, **options):
        return torch.zeros(*x_t.shape, 9)

    x = torch.full((1, 64), 8)
    writers = {
        "confidence": lambda d, x: confidence(d, x, 8, 16, rng=_seeded()),
        "ancestral": lambda d, x: ancestral(d, x, 8, 200, rng=_seeded()),
        "a sampler with three frames for each pass": _film,
    }
    for name, sampler in writers.items():
        counted = CountForwards(blank)
        states = len(list(sampler(counted, x)))
        answer = pair(ask(mine, sampler, blank, x), "forward passes", "token-forwards")
        passes, tokens = (tensor(v, what=what) for v, what in zip(answer, ("Passes", "Tokens"), strict=True))
        if passes == 0:
            raise NotYet("You count 0 passes: hand the sampler the denoiser that counts, and run it to its end.")
        if passes == states != counted.passes:
            raise NotYet(
                f"{name} shows {states} states and makes {counted.passes} passes. A frame is a picture; count in the "
                "denoiser, where the work is done."
            )
        first = "These are frames, and the page before the first pass cost nothing. Count in the denoiser, where the "
        compare(passes, counted.passes, {first + "work is done.": states + 1}, f"Passes of {name}")
        compare(
            tokens,
            counted.token_forwards,
            {
                "This is as if every pass read the whole page. Count what each pass is given: x_t.numel(). A cache "
                "makes that much less.": counted.passes * x.numel(),
                "These are the passes again. How many tokens went through?": counted.passes,
            },
            f"Token-forwards of {name}",
        )
    return "Counted where the work is done. Frames, steps and passes are three numbers, and a pass is not a price."


def _blurred(denoiser):
    """It means well, and gives a quarter of its probability away."""

    def answer(x_t):
        p = 0.75 * denoiser(x_t).exp()
        p[..., :-1] += 0.25 / (p.size(-1) - 1)
        return p.log()

    return answer


def _habits(curve, schedule) -> dict[str, float]:
    """What a score becomes by four habits, on average; curve: c_1 .. c_L."""
    L, k = len(curve), torch.arange(len(curve) + 1).double()
    t = (torch.arange(20_000).double() + 0.5) / 20_000
    u = 1 - schedule.alpha(t)[:, None]
    ways = torch.tensor([math.comb(L, int(j)) for j in k]).double() * u**k * (1 - u) ** (L - k)  # P(k hidden at t)
    c = torch.cat([torch.zeros(1).double(), curve.double()])
    per_text = ways.mean(0)
    return {
        "This is still its own exam: one ratio over the hidden tokens, drawn by the run's own schedule. Another "
        "schedule, another number, for the same model.": ((per_text * k * c).sum() / (per_text * k).sum()).item(),
        "The weight is missing: an average over the times of its own schedule.": (per_text * k * c).sum().item() / L,
        "The mean over hidden tokens, at times of its own schedule: draw k uniformly in place of t, or weigh.": (
            (per_text * c).sum().item()
        ),
        "The weight w(t) on a mean over hidden tokens: exhibit 1.": (
            (schedule.weight(t)[:, None] * ways * c).sum(1).mean().item()
        ),
    }


@functools.cache
def _runs():
    """Texts; an exact denoiser of them and one that is not, each with its bound; c_1 .. c_L of the first."""
    exact = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    x_0 = exact.sample(8000, 8, _seeded())
    known = [(run, estimate_nelbo(run, x_0, 2, 2, _seeded(1)).mean) for run in (exact, _blurred(exact))]
    return x_0, known, exact_curve(exact, 8)


@exercise
def ranking(mine):
    """my_rank(denoiser, schedule, x_0, mask_id, rng) -> nats per token, the same ruler for every run."""
    x_0, known, curve = _runs()
    for denoiser, truth in known:
        for name in ("maskgit_cosine", "cosine", "linear"):
            found = tensor(ask(mine, denoiser, SCHEDULES[name], x_0, 2, _seeded(2))).item()
            if abs(found - truth) < 0.025:
                continue
            if denoiser is known[0][0]:
                habits = _habits(curve, SCHEDULES[name])
                hint = min(habits, key=lambda habit: abs(habits[habit] - found))
                if abs(habits[hint] - found) < 0.05 * found:
                    raise NotYet(f"{name}: {found:.3f}, and the bound is {truth:.3f}. {hint}")
            raise NotYet(f"With the schedule {name} you find {found:.3f} nats per token, and the bound is {truth:.3f}.")
    return "One ruler: the bound in counts, in which no schedule occurs. The run that errs comes last."
