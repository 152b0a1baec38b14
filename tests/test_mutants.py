"""Would we notice? The core is broken on purpose, one edit at a time, and a short check must see it.

A mutant is a core whose source has one substitution. Each check passes on the original and asserts what the mutant
breaks; a mutant that survives is a failed test, and so is one that dies of anything but the assertion. No randomness
is left open: seeds are fixed and the tolerances are those of the statistics (4 sigma or more).
"""

import itertools
import math
import sys
import types
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from scipy.stats import chisquare

import microdlm
from microdlm.oracle import MarkovDenoiser

FOLDER = Path(microdlm.__file__).parent
CORE = (  # as they import
    *("schedules", "masking", "attention", "conditioning", "transformer", "objectives", "likelihood"),
    *("drawing", "pacing", "stepping", "planned", "surest", "revising", "samplers", "blocks"),
)


def build(module: str = "", old: str = "", new: str = "") -> types.SimpleNamespace:
    """A fresh copy of the core, in which `old` stands as `new` in one module. The real one is not touched."""
    core = {name: types.ModuleType(f"microdlm.{name}") for name in CORE}
    with patch.dict(sys.modules, {f"microdlm.{name}": copy for name, copy in core.items()}):
        for name, copy in core.items():
            source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
            if name == module:
                assert source.count(old) == 1, (
                    f"{old!r} occurs {source.count(old)} times in {name}.py: update the mutant"
                )
                source = source.replace(old, new)
            exec(compile(source, f"{name}.py", "exec"), vars(copy))
    return types.SimpleNamespace(**core)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CHAIN = MarkovDenoiser(torch.tensor([0.7, 0.3]), torch.tensor([[0.85, 0.15], [0.25, 0.75]]))
MASK, L = 2, 4
TWO_BLOCKS = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]).bool()
TEXTS = torch.tensor(list(itertools.product(range(2), repeat=L)))
PROBABILITY = (-L * CHAIN.nll(TEXTS)).exp()


def is_close(per_sequence, truth) -> bool:
    """Mean difference within 4 standard errors, which may be at most 2% of the truth."""
    off = per_sequence - truth
    stderr = off.std() / len(off) ** 0.5
    return bool(stderr < 0.02 * truth.mean() and off.mean().abs() < 4 * stderr + 1e-6)


# ---- the checks ----


def bound_in_time(core):
    """Masks at random times, SUBS, nelbo: the entropy of the chain under two schedules."""
    x_0 = CHAIN.sample(40_000, L, seeded())
    for name in ("cosine", "clipped_cosine"):
        s = core.schedules.complete(core.schedules.SCHEDULES[name])
        t = torch.rand(len(x_0), generator=seeded(1), dtype=torch.float64)
        x_t, is_masked = core.masking.mask_tokens(x_0, s.alpha(t), MASK, seeded(2))
        log_p = core.objectives.denoise_log_probs(CHAIN(x_t), x_t, MASK)
        assert is_close(core.objectives.nelbo(log_p, x_0, is_masked, s.weight(t)), CHAIN.nll(x_0)), name


def bound_in_counts(core):
    x_0 = CHAIN.sample(500, L, seeded())
    estimate = core.likelihood.estimate_nelbo(CHAIN, x_0, MASK, samples=32, rng=seeded(1))
    assert is_close(estimate.per_sequence, CHAIN.nll(x_0))


def estimate_in_time(core):
    x_0, schedules = CHAIN.sample(500, L, seeded()), core.schedules.SCHEDULES
    for name, given in (("linear", 0), ("clipped_cosine", 0), ("linear", 1)):
        estimate = core.likelihood.estimate_nelbo(CHAIN, x_0, MASK, 64, seeded(1), given, schedules[name])
        assert is_close(estimate.per_sequence, CHAIN.nll(x_0, given)), name


def exactly_k(core):
    k = torch.arange(L + 1)
    x_t, is_masked = core.masking.mask_count(torch.zeros(L + 1, L, dtype=torch.long), k, MASK, seeded())
    assert torch.equal(is_masked.sum(1), k) and torch.equal(x_t == MASK, is_masked)


def any_two(core):
    """The six pairs of four tokens, equally often."""
    _, is_masked = core.masking.mask_count(
        torch.zeros(3000, 4, dtype=torch.long), torch.full((3000,), 2), MASK, seeded()
    )
    pairs = (is_masked * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)[[3, 5, 6, 9, 10, 12]]
    assert chisquare(pairs, [500.0] * 6, sum_check=False).pvalue > 1e-4


def subs(core):
    logits, x_t = torch.randn(2, 6, 3, generator=seeded()), torch.tensor([[0, 1, 2, 2, 0, 2], [2, 2, 2, 2, 2, 1]])
    p = core.objectives.denoise_log_probs(logits, x_t, MASK).exp()
    assert (p[..., MASK] == 0).all() and torch.allclose(p.sum(-1), torch.ones(2, 6))
    assert torch.equal(p[x_t != MASK], torch.nn.functional.one_hot(x_t[x_t != MASK], 3).float())


def masked_loss(core):
    """A denoiser that is not exact where it need not be: only what it says about MASKs may count."""
    x_0 = torch.tensor([[0, 1, 1, 0]])
    is_masked = torch.tensor([[True, False, False, True]])
    log_p = torch.tensor([[0.25, 0.75, 0.0], [0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.125, 0.875, 0.0]]).log()[None]
    expected = torch.tensor([0.25 * 0.125]).log().neg()
    torch.testing.assert_close(core.objectives.nelbo(log_p, x_0, is_masked, torch.tensor([4.0])), expected)
    nll = core.objectives.masked_nll(lambda x: log_p, x_0, x_0.masked_fill(is_masked, MASK), is_masked, MASK)
    torch.testing.assert_close(nll.sum(1), expected)


def next_token(core):
    logits, x_0 = torch.randn(1, 5, 3, generator=seeded()), torch.tensor([[0, 1, 2, 2, 1]])
    log_p = logits.log_softmax(-1)
    expected = -torch.stack([log_p[0, i, x_0[0, i + 1]] for i in range(4)]).mean()
    torch.testing.assert_close(core.objectives.next_token_nll(logits, x_0), expected[None])


def in_order(core):
    x_0 = CHAIN.sample(20, L, seeded())
    torch.testing.assert_close(
        core.likelihood.left_to_right_nll(CHAIN, x_0, MASK), CHAIN.nll(x_0), rtol=1e-5, atol=1e-5
    )


def tiny(core, causal: bool):
    cfg = core.transformer.TransformerConfig(5, 8, n_layer=2, n_head=2, d_model=16, causal=causal)
    net, g = core.transformer.Transformer(cfg), seeded(1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=g)
    return net.eval()


def switch(core):
    """An edit of the middle token reaches the left only if not causal, the right always; order matters; a cache
    does not."""
    x, edited = torch.tensor([[0, 1, 2, 3, 0]]), torch.tensor([[0, 1, 4, 3, 0]])
    for causal in (False, True):
        net = tiny(core, causal)
        assert (net(x) != net(edited)).any(-1).tolist() == [[not causal] * 2 + [True] * 3]
        assert not torch.allclose(net(torch.tensor([[0, 1, 3]]))[0, 2], net(torch.tensor([[1, 0, 3]]))[0, 2], atol=1e-4)
    gpt, cache = tiny(core, causal=True), core.transformer.KVCache(2)
    pieces = torch.cat([gpt(piece, cache=cache) for piece in x.split([2, 1, 2], dim=1)], dim=1)
    torch.testing.assert_close(pieces, gpt(x), rtol=1e-4, atol=1e-5)


def told_t(core):
    """A hint at zero changes nothing; one that is not says how many are masked, as the schedule counts time."""
    sizes = dict(vocab_size=5, seq_len=8, n_layer=2, n_head=2, d_model=16, schedule="cosine")
    x = torch.tensor([[0, 1, 4, 3, 4, 4, 4, 4]])
    plain = tiny(core, causal=False)
    for time in ("add", "adaln"):
        net = core.transformer.Transformer(core.transformer.TransformerConfig(**sizes, time=time), seeded()).eval()
        net.load_state_dict(plain.state_dict(), strict=False)
        assert torch.equal(net(x), plain(x)), time
        torch.testing.assert_close(net.time.time(x), torch.tensor([math.acos(3 / 8) / (math.pi / 2)]))
        torch.nn.init.normal_(net.time.out.weight, generator=seeded(1))
        logits = net(x)
        assert (logits - plain(x)).abs().max() > 0.1
        assert logits.isfinite().all()


def by_blocks(core):
    """Scored block by block the exact chain has its likelihood. A block of a network's page knows the clean blocks
    before it and no others; and a block that was read once, with its blanks, leaves nothing in the cache."""
    x = CHAIN.sample(3000, L, seeded(1))
    for n in (1, 2, L):
        how = dict(samples=8, rng=seeded(), read=core.blocks.one_by_one)
        assert is_close(core.blocks.estimate_block_nelbo(CHAIN, x, MASK, n, **how).per_sequence, CHAIN.nll(x))
    net, x_0, blank = tiny(core, causal=False), torch.tensor([[0, 1, 2, 3]]), torch.full((1, 4), 4)
    page, here = core.blocks.one_pass, torch.ones(1, 4, dtype=torch.bool)
    before = page(net, x_0, 4, 2)(blank, here)
    for i, reached in ((0, [False, False, True, True]), (3, [False] * 4)):
        edited = x_0.scatter(1, torch.tensor([[i]]), (x_0[:, i : i + 1] + 1) % 4)
        assert (page(net, edited, 4, 2)(blank, here) != before).any(-1).tolist() == reached
    torch.testing.assert_close(before[2:], net(torch.cat([x_0[:, :2], blank[:, 2:]], 1), seen=TWO_BLOCKS)[0, 2:])
    places, reader = torch.tensor([0, 1]), core.blocks.next_block(net, core.attention.KVCache(2), x_0[:, :2], 2)
    reader(blank[:, 2:], places)
    torch.testing.assert_close(reader(blank[:, 2:], places), before[2:], rtol=1e-4, atol=1e-5)


def writes_the_language(core):
    """Chi-square against the exact joint, for the samplers that are exact."""
    in_blocks = {"block_length": 2, "inside": "first_hitting"}
    several = (("first_hitting", {}), ("left_to_right", {}), ("ancestral", {"num_steps": 400}), ("block", in_blocks))
    for name, how in several:
        *_, x = core.samplers.SAMPLERS[name](CHAIN, torch.full((3000, L), MASK), MASK, rng=seeded(), **how)
        seen = (x * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
        assert chisquare(seen, PROBABILITY * 3000).pvalue > 1e-4, name


def random_order(core):
    """Which of 4 MASKs does first_hitting open first? Each, a quarter of the time."""
    first = next(core.samplers.first_hitting(CHAIN, torch.full((2000, L), MASK), MASK, rng=seeded()))
    assert chisquare((first != MASK).sum(0)).pvalue > 1e-4


def visible_stays(core):
    """Half the text is given, and it is text that the chain would not write; in every state it is still there."""
    x = torch.tensor([[1, MASK, 0, MASK, 1, MASK, 0, MASK]]).expand(50, 8)
    for name, steps in core.samplers.SAMPLERS.items():
        for state in steps(lambda x: CHAIN(torch.full_like(x, MASK)), x, MASK, 4, rng=seeded()):
            assert torch.equal(state[:, ::2], x[:, ::2]), name
        assert (state != MASK).all(), name


def surest_first(core):
    """Three certain tokens and one coin: at one token a step the coin comes last."""
    log_p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).log()
    x = torch.full((20, L), MASK)
    for state in core.samplers.confidence(
        lambda x: log_p.expand(len(x), L, 3), x, MASK, 4, pace="linear", rng=seeded()
    ):
        if (state == MASK).any():
            assert (state[:, 1] == MASK).all()


def one_of_a_tie(core):
    ab = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    first = next(core.samplers.threshold(ab, torch.full((20, 8), MASK), MASK, rng=seeded()))
    assert ((first != MASK).sum(1) == 1).all()


def ab_first(core):
    """On an empty page of ABAB.. one letter costs nothing to open, a second would cost ln 2."""
    ab = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    first = next(core.samplers.entropy_bounded(ab, torch.full((20, 8), MASK), MASK, rng=seeded()))
    assert ((first != MASK).sum(1) == 1).all()


def share_is_kept(core):
    """Half of the steps done, half of the page is MASK, whatever was masked again; and something was."""
    states = list(core.samplers.remask(CHAIN, torch.full((500, 16), MASK), MASK, 8, eta=1.0, rng=seeded()))
    assert abs((states[3] == MASK).double().mean() - 0.5) < 4 * 0.5 / 8000**0.5
    assert ((states[3] != MASK) & (states[4] == MASK)).any()


def mends(core):
    """Gibbs sampling brings 0101 to the language."""
    x = torch.tensor([[0, 1, 0, 1]]).expand(3000, L)
    given = torch.zeros(3000, L, dtype=torch.bool)
    *_, x = core.samplers.refine(CHAIN, x, MASK, 150, given=given, share=0.0, rng=seeded())
    seen = (x * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert chisquare(seen, PROBABILITY * 3000).pvalue > 1e-4


def paces(core):
    """A cliff between 4 MASKs and 5: two steps at the best pace go to its edge and over; and the cosine by hand."""
    curve = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    assert core.pacing.optimal_pace(curve, 2) == [6, 4]
    assert abs(core.pacing.parallel_bound(curve, [6, 4]) - 0.6) < 1e-9
    assert core.pacing.parallel_bound(torch.tensor([1.0, 2.0]), [2]) == 2
    assert core.pacing.step_counts("cosine", 4, 12) == [1, 3, 4, 4]
    assert core.pacing.step_counts([1, 2, 3], 0, 12) == [2, 4, 6]


def the_end(core):
    """A language that is END (1) from the first token on: one pass, and the page is full."""
    log_p = torch.tensor([-30.0, 0.0, -30.0]).expand(3, 6, 3)
    states = list(core.samplers.left_to_right(lambda x: log_p, torch.full((3, 6), MASK), MASK, end_id=1, rng=seeded()))
    assert len(states) == 1 and (states[0] == 1).all()


def temperature(core):
    logits = torch.tensor([2.0, 0.0, 1.0, 9.0])  # the last is MASK
    for t in (0.5, 2.0):
        seen = core.drawing.draw(logits.expand(5000, 4), 3, t, rng=seeded()).bincount(minlength=4)
        assert seen[3] == 0 and chisquare(seen[:3], (logits[:3].double() / t).softmax(0) * 5000).pvalue > 1e-4


def top_p(core):
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    for bound, kept in ((0.1, 1), (0.6, 2), (0.9, 3)):
        assert core.drawing.keep_top(p.log(), None, bound).isfinite().sum() == kept


# ---- the mutants: name -> (check, module, what stands there, what stands there instead) ----

MUTANTS = {
    # The bound in time
    "weight is 1": (
        bound_in_time,
        "objectives",
        "return weight_t * torch.where(",
        "return torch.ones_like(weight_t) * torch.where(",
    ),
    "linear weight is 1": (
        estimate_in_time,
        "schedules",
        "lambda t: 1 / t, lambda u: u / end",
        "lambda t: t / t, lambda u: u",
    ),
    "cosine weight is maskgit's": (
        bound_in_time,
        "schedules",
        "lambda t: HALF_PI / torch.tan(HALF_PI / 2 * t)",
        "lambda t: HALF_PI / torch.tan(HALF_PI * t)",
    ),
    "divided by the number masked": (
        bound_in_time,
        "objectives",
        ".sum(1) / x_0.size(1)",
        ".sum(1) / is_masked.sum(1).clamp(min=1)",
    ),
    "keep and mask swapped": (bound_in_time, "masking", "rng) >= rate", "rng) < rate"),
    "the ends are forgotten": (
        estimate_in_time,
        "likelihood",
        "whole, n = complete(schedule), num_scored(x_0, given)",
        "whole, n = schedule, num_scored(x_0, given)",
    ),
    "given tokens are masked": (estimate_in_time, "likelihood", "alpha_t[:, :given] = 1.0", "pass"),
    "weight of the middle not stretched": (
        bound_in_time,
        "schedules",
        "s.weight(t) / middle",
        "s.weight(t)",
    ),
    # SUBS
    "no zero masking": (
        subs,
        "objectives",
        "log_p = without_mask(logits, mask_id).log_softmax(-1)",
        "log_p = logits.log_softmax(-1)",
    ),
    "no carry-over": (
        subs,
        "objectives",
        "return torch.where((x_t == mask_id)[..., None], log_p, carried)",
        "return log_p",
    ),
    "loss on all positions": (masked_loss, "objectives", "torch.where(is_masked, nll, 0.0)", "nll"),
    "loss on visible positions": (masked_loss, "objectives", "torch.where(is_masked,", "torch.where(~is_masked,"),
    # The bound in counts
    "masks k + 1": (exactly_k, "masking", "< k[:, None]", "< k[:, None] + 1"),
    "masks a prefix": (any_two, "masking", "order.argsort(dim=1).argsort(dim=1)", "torch.arange(x_0.size(1))"),
    "k from 0 to n - 1": (bound_in_counts, "masking", ".clamp(max=n - 1) + 1", ".clamp(min=1, max=n - 1)"),
    "k never 1": (bound_in_counts, "masking", "(u * n).long()", "(u * n).long().clamp(min=1)"),
    "k leans to many": (bound_in_counts, "masking", "return (u * n)", "return (u.sqrt() * n)"),
    "count form divides by L": (bound_in_counts, "likelihood", "1 / k.double()", "1 / k.new_full(k.shape, n).double()"),
    # Next tokens, left to right
    "predicts itself": (next_token, "objectives", "x_0[:, 1:], reduction", "x_0[:, :-1], reduction"),
    "sees what it predicts": (
        in_order,
        "likelihood",
        "hidden = here.cumsum(1).bool()",
        "hidden = here.cumsum(1).bool() & ~here.roll(1, 1)",
    ),
    # The network
    "causal ignored": (switch, "attention", "causal = self.causal and ", "causal = False and "),
    "always causal": (switch, "attention", "causal = self.causal and ", "causal = "),
    "no positions": (
        switch,
        "attention",
        "torch.outer(positions.float(), frequency)",
        "torch.outer(positions * 0.0, frequency)",
    ),
    "cache forgets where it is": (
        switch,
        "transformer",
        "positions = torch.arange(start, start + x.size(1)",
        "positions = torch.arange(x.size(1)",
    ),
    "old keys are lost when room is made": (
        switch,
        "attention",
        "more.slice_scatter(held[:, :, :, :start], 3, end=start)",
        "more.zero_()",
    ),
    "a piece sees its own future": (switch, "attention", ".tril(total - new)", ".tril(total)"),
    # Told t
    "t counts what is visible": (told_t, "conditioning", "(x_t == self.mask_id)", "(x_t != self.mask_id)"),
    "t is the share": (told_t, "conditioning", "self.schedule.time(", "("),
    "gates closed at first": (told_t, "transformer", "(1 + gate) *", "gate *"),
    "the end forgets its scale": (told_t, "transformer", "h * (1 + told[-2])", "h * told[-2]"),
    "t is told to nobody": (told_t, "transformer", "h, told = h + told[0], ()", "told = ()"),
    # Blocks
    "a block sees its own answer": (by_blocks, "blocks", "(block < block[:, None])", "(block <= block[:, None])"),
    "no clean block is seen": (by_blocks, "blocks", "own | (is_clean", "own & (is_clean"),
    "a clean copy stands elsewhere": (
        by_blocks,
        "blocks",
        ".repeat(2)[: len(seen)]",
        ".repeat(2)[: len(seen)].flip(0)",
    ),
    "a block is never all masked": (by_blocks, "blocks", "(u * n).long() + 1", "(u * (n - 1)).long() + 1"),
    "blocks weigh alike, whatever is masked": (by_blocks, "blocks", ".sum(-1) / k.clamp(min=1)", ".sum(-1) / n"),
    "a cached block does not see itself": (
        by_blocks,
        "blocks",
        "seen = block[cache.length :, None] >= block",
        "seen = block[cache.length :, None] > block",
    ),
    # Samplers
    "MASK may be drawn": (
        temperature,
        "drawing",
        "logits = without_mask(logits.double(), mask_id)",
        "logits = logits.double()",
    ),
    "temperature ignored": (temperature, "drawing", "keep_top(logits / temperature,", "keep_top(logits,"),
    "temperature upside down": (temperature, "drawing", "logits / temperature", "logits * temperature"),
    "argmax instead of a draw": (temperature, "drawing", "(p / clocks.clamp(min=1e-300))", "p"),
    "top_p one too few": (top_p, "drawing", "p.cumsum(-1) - p >= top_p", "p.cumsum(-1) >= top_p"),
    "first_hitting takes the first": (
        random_order,
        "planned",
        'turn = {"random": uniform}[order](x.shape, x.device, rng)',
        "turn = torch.arange(L).expand_as(x)",
    ),
    "the page is never looked at again": (writes_the_language, "planned", "lambda x, i: ask(", "lambda _, i: ask("),
    "ancestral opens all at once": (
        writes_the_language,
        "planned",
        "torch.where(x == mask_id, survives, num_steps)",
        "torch.where(x == mask_id, 0, num_steps)",
    ),
    "left_to_right reads one back": (
        writes_the_language,
        "planned",
        "rows + spots[i, :, 0]",
        "rows + spots[i, :, 0] - 1",
    ),
    "a block reads the first columns": (writes_the_language, "samplers", "+ start + column", "+ column"),
    "confidence overwrites": (
        visible_stays,
        "surest",
        "torch.where(highest(sure, keep), filled, x)",
        "torch.where(highest(sure, keep), filled, x.roll(1, 1))",
    ),
    "ancestral overwrites": (
        visible_stays,
        "planned",
        "torch.where(x == mask_id, survives, num_steps)",
        "survives",
    ),
    "confidence opens the least sure": (
        surest_first,
        "stepping",
        "score.argsort(dim=1, descending=True)",
        "score.argsort(dim=1)",
    ),
    "threshold opens every tie": (
        one_of_a_tie,
        "surest",
        "(sure > tau) | highest(sure, torch.ones_like(x[:, 0]))",
        "(sure > tau) | (sure >= sure.amax(1, keepdim=True))",
    ),
    "entropy_bounded counts the last one too": (ab_first, "surest", "entropy.cumsum(1) - entropy", "entropy.cumsum(1)"),
    "entropy_bounded sums nothing": (ab_first, "surest", "before <= gamma", "before * 0 <= gamma"),
    "texts go on after their end": (the_end, "planned", "(x == mask_id), end_id, x)", "(x == mask_id), x, x)"),
    # Revising
    "remask hides what was given": (visible_stays, "revising", "~given & ~is_open &", "~is_open &"),
    "remask opens as if nothing came back": (
        share_is_kept,
        "revising",
        "stays = (u_s - sigma * (1 - u_t)) / u_t",
        "stays = u_s / u_t",
    ),
    "remask takes nothing back": (share_is_kept, "revising", "(noise < sigma)", "(noise < 0)"),
    "refine redraws what was given": (
        visible_stays,
        "revising",
        "doubt.masked_fill(~free, -torch.inf)",
        "doubt",
    ),
    "refine redraws nothing": (mends, "revising", "~free, -torch.inf), some)", "~free, -torch.inf), some * 0)"),
    "refine redraws all": (mends, "revising", "(share * revisable)", "(revisable)"),
    # Pace
    "a step costs what is left after it": (paces, "pacing", "(n[:, None] - n) * c[:, None]", "(n[:, None] - n) * c"),
    "the bound is the left sum": (paces, "pacing", "curve[masked - 1]", "curve[masked - k]"),
    "cosine is linear": (paces, "pacing", "math.cos(math.pi / 2 * s)", "1 - s"),
    "counts are not scaled": (paces, "pacing", "sum(pace[i + 1 :]) / sum(pace)", "sum(pace[i + 1 :]) / n"),
}
CHECKS = sorted({check for check, *_ in MUTANTS.values()}, key=lambda check: check.__name__)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_original_passes(check):
    check(build())


@pytest.mark.parametrize("check, module, old, new", MUTANTS.values(), ids=MUTANTS)
def test_the_mutant_is_killed(check, module, old, new):
    mutant = build(module, old, new)  # outside: a mutant that cannot be built is no kill
    with pytest.raises(AssertionError):
        check(mutant)
