"""The notebooks run and are what their sources say; their checks know right from wrong, and name the usual mistakes."""

import ast
import importlib
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.runs import ROOT

HERE = ROOT / "notebooks"
sys.path.insert(0, str(HERE))  # as it is for whoever opens one of them

import build  # noqa: E402
import show  # noqa: E402
from check.exercise import EMPTY  # noqa: E402

STEPS = [int(source.stem[0]) for source in build.SOURCES if "museum" not in source.stem]  # it has a file of its own


def exercises(step: int) -> dict:
    found = vars(importlib.import_module(f"check.step{step}"))
    return {name: check for name, check in found.items() if getattr(check, "is_exercise", False)}


def solution(step: int, name: str) -> tuple:
    answer = getattr(importlib.import_module(f"solutions.step{step}"), name)
    return answer if isinstance(answer, tuple) else (answer,)


EVERY = [(step, name) for step in STEPS for name in exercises(step)]


# ---- wrong answers, each with a part of the hint that must be given ----

cos, pi, rand = torch.cos, math.pi, torch.rand
FREE = torch.Generator().manual_seed(9)  # of somebody who does not use the generator he is given


def masks_by(drawn, rate=lambda a: a[:, None], flip=False):
    """A my_mask that draws and compares in its own way."""

    def mine(x_0, alpha_t, mask_id, rng):
        is_masked = (drawn(x_0, rng) >= rate(alpha_t)).expand(x_0.shape)
        is_masked = ~is_masked if flip else is_masked
        return x_0.masked_fill(is_masked, mask_id), is_masked

    return mine


def in_place(x_0, alpha_t, mask_id, rng):
    is_masked = rand(x_0.shape, generator=rng) >= alpha_t[:, None]
    return x_0.masked_fill_(is_masked, mask_id), is_masked


def upside_down(x_0, alpha_t, mask_id, rng):
    is_masked = rand(x_0.shape, generator=rng) >= alpha_t[:, None]
    return x_0.masked_fill(is_masked, mask_id), ~is_masked


def exact_count(x_0, alpha_t, mask_id, rng):
    rank = rand(x_0.shape, generator=rng).argsort(1).argsort(1)
    is_masked = rank >= (alpha_t * x_0.size(1)).round()[:, None]
    return x_0.masked_fill(is_masked, mask_id), is_masked


def jumbled(x_0, alpha_t, mask_id, rng):
    """The right rate; but where alpha is small, other numbers decide."""
    drawn = rand(x_0.shape, generator=rng)
    is_masked = torch.where(alpha_t[:, None] < 0.45, 1 - drawn, drawn) >= alpha_t[:, None]
    return x_0.masked_fill(is_masked, mask_id), is_masked


def log_probs(by):
    """A my_log_probs with carry-over, whose hidden rows are `by`(logits, mask_id)."""

    def mine(logits, x_t, mask_id):
        known = torch.nn.functional.one_hot(x_t, logits.size(-1)).to(logits).log()
        return torch.where((x_t == mask_id)[..., None], by(logits, mask_id), known)

    return mine


def wrong_axis(logits, x_t, mask_id):
    logits = logits.clone()
    logits[:, mask_id] = -math.inf
    return torch.where(logits == -math.inf, logits, logits.log_softmax(-1))


def put(logits, mask_id, axis=-1):
    return logits.index_fill(axis, torch.tensor(mask_id), -math.inf)


def sampler(**slip):
    """A my_step with one slip."""

    def mine(denoiser, x, mask_id, p, rng):
        drawn = rand(x.shape if "row" not in slip else (len(x), 1), generator=rng).expand(x.shape)
        opens = drawn < slip.get("p", lambda p: p)(p)
        opens = opens if "overwrite" in slip else opens & (x == mask_id)
        believed = denoiser(x)[opens].exp() ** slip.get("power", 1)
        if "greedy" in slip:
            return x.masked_scatter(opens, believed.argmax(-1))
        return x.masked_scatter(opens, torch.multinomial(believed, 1, generator=rng)[:, 0])

    return mine


def nats(shift):
    def mine(logits, x):
        rows, tokens = shift
        picked = logits.log_softmax(-1)[:, rows].gather(-1, x[:, tokens, None])[..., 0]
        return -picked.mean(1)

    return mine


def pages(slip):
    """A my_page with one slip: `slip`(row block, column block, row is clean, column is clean) is seen too, or not."""

    def mine(L, n, sees=True):
        block, clean = torch.arange(L).repeat(2) // n, torch.arange(2 * L) >= L
        r, c, rc, cc = block[:, None], block[None], clean[:, None], clean[None]
        seen = ((r == c) & (rc == cc)) | (cc & (c < r))
        return slip(seen, r, c, rc, cc)

    return mine


def spread_over_blocks(nll, is_masked, n):
    return nll.reshape(len(nll), -1, n).sum(-1) / is_masked.reshape(len(nll), -1, n).sum(-1)


WRONG = [
    (0, "alpha", lambda t: 1 - cos(pi / 2 * t), "the share that is hidden"),
    (0, "alpha", lambda t: 1 - torch.sin(pi / 2 * t), "the other cosine"),
    (0, "alpha", lambda t: torch.sin(pi / 2 * t), "Time runs backwards"),
    (0, "alpha", lambda t: cos(pi * t), "cos(pi t) falls to -1"),
    (0, "alpha", lambda t: cos(pi / 2 * t) ** 2, "This is the square of it"),
    (0, "alpha", lambda t: cos(90 * t), "cos takes radians"),
    (0, "alpha", lambda t: 1 - t, "the straight line"),
    (0, "alpha", lambda t: 0.5 * t, "expected 1 0.9877"),
    (0, "mask", masks_by(lambda x, g: rand(x.shape, generator=g), flip=True), "to stay visible"),
    (0, "mask", masks_by(lambda x, g: rand(len(x), 1, generator=g)), "a number of its own"),
    (0, "mask", masks_by(lambda x, g: rand(x.size(1), generator=g)), "All texts have the same holes"),
    (0, "mask", masks_by(lambda x, g: rand(x.shape, generator=FREE)), "generator=rng"),
    (0, "mask", masks_by(lambda x, g: rand(x.shape, generator=g), lambda a: a[:, None] ** 2), "it should be half"),
    (0, "mask", exact_count, "The count is always the same"),
    (0, "mask", in_place, "changes what it is given"),
    (0, "mask", upside_down, "is_masked is upside down"),
    (0, "mask", jumbled, "letters come back"),
    (0, "mask", lambda x, a, m, g: x, "Return 2 things"),
    (0, "count", lambda L, u: (L * u, L * u * (1 - u)), "This is the variance"),
    (0, "count", lambda L, u: (L * u, (L * u) ** 0.5), "only while u is small"),
    (0, "count", lambda L, u: (L * (1 - u), 1.0), "counts the visible tokens"),
    (0, "count", lambda L, u: (L * u, (u * (1 - u) / L) ** 0.5), "the spread of a share"),
    (0, "mean_share", 0.5, "This is the mean of t"),
    (0, "mean_share", 1 - cos(torch.tensor(pi / 4)), "the share at the mean time"),
    (0, "mean_share", 0.6366, "what stays visible"),
    (0, "mean_share", 0.9, "0.9 is too large"),
    (0, "opens", lambda s, t: s - t, "of any token"),
    (0, "opens", lambda s, t: (s - t) / s, "This looks forward"),
    (0, "opens", lambda s, t: (1 - s) / (1 - t), "it stays hidden"),
    (1, "entropy", lambda p: -(p * p.log2()).nansum(), "This is in bits"),
    (1, "entropy", lambda p: torch.xlogy(p, p).sum(), "The sign"),
    (1, "entropy", lambda p: -p.log().sum(), "Every logarithm counts alike"),
    (1, "entropy", lambda p: -(p * p.log()).sum(), "holds nan"),
    (1, "divergence", lambda p, q: (q * (q / p).log()).sum(), "This is KL(q || p)"),
    (1, "divergence", lambda p, q: -(p * q.log()).sum(), "This is the cross-entropy"),
    (1, "divergence", lambda p, q: (p * (q / p).log()).sum(), "The sign"),
    (1, "first_loss", lambda V: math.log(V), "V counts MASK"),
    (1, "first_loss", lambda V: math.log2(V - 1), "In nats"),
    (1, "first_loss", lambda V: 1 / (V - 1), "the probability of one character"),
    (1, "masked_mean", lambda nll, m: nll.mean(), "visible letters are scored too"),
    (1, "masked_mean", lambda nll, m: (nll * m).mean(), "You divide by all positions"),
    (1, "masked_mean", lambda nll, m: (nll * m).sum(), "This is the sum"),
    (1, "masked_mean", lambda nll, m: ((nll * m).sum(1) / m.sum(1)).mean(), "each text's mean"),
    (1, "report", "b", "Half of the entropy"),
    (1, "report", "c", "x_0 in place of x_t"),
    (1, "report", "D", "initialisation"),
    (1, "report", 7, "one letter in quotation marks"),
    (2, "middle", lambda P, a, b: P[a], "what the left neighbour says"),
    (2, "middle", lambda P, a, b: P[a] * P[:, b], "divide by their sum"),
    (2, "middle", lambda P, a, b: P[a] * P[b] / (P[a] * P[b]).sum(), "the column P[:, b]"),
    (2, "middle", lambda P, a, b: (P[a] + P[:, b]) / (P[a] + P[:, b]).sum(), "multiplied, not added"),
    (2, "attention", lambda q, k, v: (q @ k.T).softmax(-1) @ v, "not divided by sqrt(K)"),
    (2, "attention", lambda q, k, v: (q @ k.T / q.size(-1)).softmax(-1) @ v, "You divide by K"),
    (2, "attention", lambda q, k, v: (q @ k.T / q.size(-1) ** 0.5).softmax(0) @ v, "the wrong axis"),
    (2, "attention", lambda q, k, v: (k @ q.T / q.size(-1) ** 0.5).softmax(-1) @ v, "The offers ask"),
    (2, "causal", lambda L: torch.ones(L, L).triu(), "Upside down"),
    (2, "causal", lambda L: torch.ones(L, L).tril(-1), "must see itself"),
    (2, "causal", lambda L: torch.ones(L, L), "that is the denoiser"),
    (2, "reach", lambda i, L, causal: i + 1 if causal else L, "what stands left of it"),
    (2, "reach", lambda i, L, causal: L - i - 1 if causal else L, "its own place counts too"),
    (2, "reach", lambda i, L, causal: L, "That is the denoiser"),
    (2, "reach", lambda i, L, causal: L - i, "everybody listens to everybody"),
    (2, "impossible", "ab", "a is possible"),
    (2, "impossible", "bc", "c is possible"),
    (2, "impossible", "b", "the entropy of what is hidden"),
    (2, "impossible", "d", "Look at the right end"),
    (3, "valid", lambda k: 2.0**-k, "one particular text"),
    (3, "valid", lambda k: 1.0, "nothing makes them fit"),
    (3, "valid", lambda k: 1 / k, "Coins multiply"),
    (3, "price", lambda c, plan: solution(3, "price")[0](c, plan) * len(c), "divide by L"),
    (3, "price", lambda c, plan: c.mean() if len(plan) < 6 else 0, "the mean of the curve"),
    (3, "price", lambda c, plan: _price(c, plan, after=True), "before any of them is known"),
    (3, "price", lambda c, plan: _price(c, plan, up=True), "counts down from L"),
    (3, "passes", lambda T, N: T, "Every step costs a pass"),
    (3, "passes", lambda T, N: N, "One pass for each blank"),
    (3, "passes", lambda T, N: T * (1 - 1 / T) ** N, "steps that open nothing"),
    (3, "passes", lambda T, N: 1 - (1 - 1 / T) ** N, "There are T of them"),
    (3, "step", sampler(overwrite=True), "A visible token has changed"),
    (3, "step", sampler(greedy=True), "the most probable token"),
    (3, "step", sampler(p=lambda p: 1 - p), "A share 1 - p opens"),
    (3, "step", sampler(p=lambda p: 1.0), "All blanks open at once"),
    (3, "step", sampler(row=True), "all together or not at all"),
    (3, "step", sampler(power=3), "with the denoiser's probabilities"),
    (3, "step", sampler(power=0.0), "Is MASK drawn too?"),
    (3, "exact", "abd", "two tokens of one pass"),
    (3, "exact", "abc", "easy guesses win"),
    (3, "exact", "a", "One is missing"),
    (4, "subs", lambda logits, x, m: logits.log_softmax(-1), "MASK keeps some probability"),
    (4, "subs", wrong_axis, "The vocabulary is the last axis"),
    (4, "subs", log_probs(lambda z, m: put(z.log_softmax(-1), m)), "sum to less than 1"),
    (4, "subs", log_probs(lambda z, m: put(z, m) + 9), "sum to more than 1"),
    (4, "subs", lambda z, x, m: put(z, m).log_softmax(-1), "carry-over"),
    (4, "weight", lambda t: 1 / t, "the linear schedule"),
    (4, "weight", lambda t: -pi / 2 / torch.tan(pi / 4 * t), "The sign"),
    (4, "weight", lambda t: 1 / (1 - cos(pi / 2 * t)), "the slope of the schedule is missing"),
    (4, "weight", lambda t: pi / 2 * torch.sin(pi / 2 * t), "Divide by the share that is hidden"),
    (4, "weight", lambda t: pi / 2 * torch.tan(pi / 2 * t), "You divide by alpha"),
    (4, "weight", lambda t: 1 / torch.tan(pi / 4 * t), "The chain rule"),
    (4, "nelbo", lambda nll, m, w: w * nll.sum(1) / m.sum(1), "they are counted twice"),
    (4, "nelbo", lambda nll, m, w: nll.sum(1) / 8, "The weight is missing"),
    (4, "nelbo", lambda nll, m, w: nll.sum(1) / m.sum(1), "neither weight nor L"),
    (4, "nelbo", lambda nll, m, w: w * nll.sum(1), "divide by L"),
    (4, "nelbo", lambda nll, m, w: (w * nll.sum(1) / 8).mean(), "one number for the whole batch"),
    (4, "nelbo", lambda nll, m, w: w * nll.sum() / m.sum(), "went into one ratio"),
    (4, "habits", (11.09, 11.09, 22.18), "1/t times the sum: You left out the weight"),
    (4, "habits", (22.18, 22.18, 22.18), "no weight: The mean of t is 1/2"),
    (4, "habits", (22.18, 11.09, 11.09), "does not care how many"),
    (4, "habits", (32, 11.09, 22.18), "in nats"),
    (4, "area", lambda c: c.sum(), "divide by L"),
    (4, "area", lambda c: (torch.arange(1, 7) * c).sum() / 21, "`sum / sum`"),
    (4, "area", lambda c: c[-1], "only the end of the curve"),
    (4, "missing", lambda L, a, b: (b - a) * math.log(2), "not spread evenly"),
    (4, "missing", lambda L, a, b: b**L * math.log(2), "The walk begins at u_0"),
    (4, "missing", lambda L, a, b: (1 - b**L + a**L) * math.log(2), "what it misses"),
    (4, "missing", lambda L, a, b: b**L - a**L, "In nats"),
    (5, "extra", lambda D, tied: D, "MASK has a row in both"),
    (5, "extra", lambda D, tied: 0, "every id has a vector"),
    (5, "extra", lambda D, tied: 2 * D, "Tied: the head is"),
    (5, "next_token", nats((slice(0, 7), slice(0, 7))), "shift by one"),
    (5, "next_token", nats((slice(1, 7), slice(0, 6))), "Shifted the wrong way"),
    (5, "next_token", lambda z, x: 6 * solution(5, "next_token")[0](z, x), "the sum over tokens"),
    (5, "next_token", lambda z, x: 6 / 7 * solution(5, "next_token")[0](z, x), "You divide by L"),
    (5, "next_token", lambda z, x: solution(5, "next_token")[0](z, x).mean(), "one number for the whole batch"),
    (5, "bits", lambda n, c: n / math.log(2), "bits per token"),
    (5, "bits", lambda n, c: n / c, "divide by ln 2"),
    (5, "bits", lambda n, c: n / c * math.log(2), "do not multiply"),
    (5, "paired", lambda a, b: ((a - b).mean(), ((a.var() + b.var()) / len(a)) ** 0.5), "two independent samples"),
    (5, "paired", lambda a, b: ((a - b).mean(), (a - b).std()), "the scatter of one difference"),
    (5, "paired", lambda a, b: ((b - a).mean(), (a - b).std() / len(a) ** 0.5), "The sign"),
    (5, "tokens_read", lambda L, g, s: ((s + 1) * L, 1, 1), "Frames are one more"),
    (5, "tokens_read", lambda L, g, s: (s * L, sum(range(L)), 1), "The prompt is written already"),
    (5, "tokens_read", lambda L, g, s: (s * L, sum(range(g, L)), L), "never read"),
    (5, "tokens_read", lambda L, g, s: (s * L, sum(range(g, L)), L - g), "The prompt has to be read too, once"),
    (6, "block_nelbo", lambda nll, m, n: nll.sum(1) / m.sum(1), "counts for more"),
    (6, "block_nelbo", lambda nll, m, n: spread_over_blocks(nll, m, n).sum(1), "You sum over the blocks"),
    (6, "block_nelbo", lambda nll, m, n: nll.sum(1) / 12, "You divide by L"),
    (6, "questions", lambda L, n: L // n * 2**n, "To hide nothing is no question"),
    (6, "questions", lambda L, n: 2**n - 1, "That is for one block"),
    (6, "questions", lambda L, n: 2.0**L - 1, "add, do not multiply"),
    (6, "page", pages(lambda seen, r, c, rc, cc: seen | (cc & (r == c))), "sees its own clean copy"),
    (6, "page", pages(lambda seen, r, c, rc, cc: seen | (rc & cc)), "Clean blocks see what comes after"),
    (6, "page", pages(lambda seen, r, c, rc, cc: seen | (~rc & cc & (c > r))), "those are not written yet"),
    (6, "page", pages(lambda seen, r, c, rc, cc: seen | (~rc & ~cc)), "other noised blocks"),
    (6, "page", pages(lambda seen, r, c, rc, cc: seen | (rc & ~cc & (r == c))), "Clean tokens see noised ones"),
    (6, "page", pages(lambda seen, r, c, rc, cc: seen.T), "Rows and columns have changed places"),
    (6, "page", pages(lambda seen, r, c, rc, cc: seen.tril()), "to both sides"),
    (6, "cost", lambda L, n, k: (n // k, 1), "the passes of one block"),
    (6, "cost", lambda L, n, k: (L // k, L // k * n), "read once more"),
    (6, "cost", lambda L, n, k: (L // k, L // k * n + L), "nothing follows it"),
    (6, "cost", lambda L, n, k: (L // k, L // k * L), "without a cache"),
    (7, "exams", (1.5, 1.5, 1.75), "exam under linear: That is the area under m"),
    (7, "exams", (1.5, 5 / 3, 5 / 3), "exam under sqrt: That is the mean of m over time"),
    (7, "exams", (2, 5 / 3, 1.75), "the bound: That is m(1)"),
    (7, "exams", (1.5, 5 / 6, 1.75), "Divide by the integral of u"),
    (7, "exams", (1.5, 5 / 3, 1.6), "dt = 2 u du"),
    (7, "exam", lambda m, a, t: m(1 - a(t)).mean(), "weigh m(u) by u"),
    (7, "exam", lambda m, a, t: ((1 - a(t)) * m(1 - a(t))).mean(), "divide by how many are hidden"),
    (7, "exam", lambda m, a, t: m(t).mean(), "the same for every schedule"),
    (7, "exam", lambda m, a, t: (a(t) * m(a(t))).mean() / a(t).mean(), "the share that is visible"),
    (7, "exam", lambda m, a, t: m((1 - a(t)).mean()), "not m of the mean"),
    (7, "blank", lambda c, p, L: (p @ c) ** L, "the clamp is missing"),
    (7, "blank", lambda c, p, L: p @ c.clamp(max=1), "That is one token"),
    (7, "blank", lambda c, p, L: c.min() ** L, "the hardest type only"),
    (7, "blank", lambda c, p, L: p @ c.clamp(max=1) ** L, "before the mean"),
    (7, "blank", lambda c, p, L: 1.0, "never sure to be hidden"),
    (7, "effect", lambda a, b: ((a - b).mean(), (a - b).std() / 600**0.5), "600 windows as 600 trainings"),
    (7, "effect", lambda a, b: ((a - b).mean(), (a - b).mean(0).std() / 200**0.5), "how far other *texts* could lie"),
    (7, "effect", lambda a, b: ((a - b).mean(), ((a.mean(1).var() + b.mean(1).var()) / 3) ** 0.5), "cancels in the"),
    (7, "effect", lambda a, b: ((a - b).mean(), (a - b).mean(1).std()), "the scatter of one training"),
    (7, "effect", lambda a, b: ((b - a).mean(), 0.1), "The sign"),
    (7, "alarms", lambda n, level: (n * (1 - level), 1 - (1 - level) / n), "are *expected*"),
    (7, "alarms", lambda n, level: (level**n, 1 - (1 - level) / n), "that there is none"),
    (7, "alarms", lambda n, level: (1 - level**n, (1 - level) / n), "the error that each may make"),
    (7, "alarms", lambda n, level: (1 - level**n, level), "not as sure"),
    (7, "floor", lambda a, b: (a - b).mean().abs(), "ups and downs cancel"),
    (7, "floor", lambda a, b: (a - b).abs().mean(), "the largest that equal arms have shown"),
    (7, "floor", lambda a, b: (a - b).max(), "the absolute value is missing"),
    (7, "floor", lambda a, b: max(a.max(), b.max()) - min(a.min(), b.min()), "Same seed, same masking"),
]


def _price(curve, plan, after=False, up=False):
    """The price of a plan by somebody who looks at the curve after the pass, or counts from the wrong end."""
    total, done = 0.0, 0
    for k in plan:
        n = done + k if up else len(curve) - done - (k if after else 0)
        total, done = total + k * (curve[n - 1] if n else 0), done + k
    return total / len(curve)


# ---- checks ----


@pytest.mark.parametrize("step, name", EVERY)
def test_every_solution_is_right(step, name, capsys):
    assert exercises(step)[name](*solution(step, name)) is True
    assert capsys.readouterr().out.startswith("Right. ")


@pytest.mark.parametrize("step, name", EVERY)
def test_an_untouched_stub_is_told_where_to_begin(step, name, capsys):
    answers = solution(step, name)
    stub = [(lambda *args: None) if callable(answer) else ... for answer in answers]
    assert exercises(step)[name](*stub) is False
    assert capsys.readouterr().out == f"Not yet. {EMPTY}\n"


@pytest.mark.parametrize("step, name, answer, hint", WRONG, ids=[f"{s}-{n}-{h[:20]}" for s, n, _, h in WRONG])
def test_a_wrong_answer_gets_the_hint_that_is_meant_for_it(step, name, answer, hint, capsys):
    assert exercises(step)[name](*(answer if isinstance(answer, tuple) else (answer,))) is False
    assert hint in capsys.readouterr().out


def test_every_exercise_knows_a_wrong_answer():
    assert {(step, name) for step, name, *_ in WRONG} == set(EVERY)


@pytest.mark.parametrize("step, name", EVERY)
def test_a_check_never_raises(step, name, capsys):
    """Whatever is handed over: code that stops, text, a list, a tensor of another shape."""
    n = len(solution(step, name))
    for answer in (lambda *args: 1 / 0, "no", [], torch.zeros(2, 3), lambda *args: torch.zeros(7, 7, 7), {}, object):
        assert exercises(step)[name](*[answer] * n) is False
        assert capsys.readouterr().out.startswith("Not yet. ")


def test_a_function_that_stops_says_why(capsys):
    exercises(0)["alpha"](lambda t: 1 / 0)
    assert "stopped with ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_tiny_shakespeare_has_the_entropy_that_notebook_1_quotes(shakespeare):
    corpus = load_corpus(shakespeare)
    counts = torch.cat([corpus.train, corpus.val]).bincount().double()
    found = solution(1, "entropy")[0](counts / counts.sum())
    assert f"{found:.4f} nats: another text" in SOURCES["1_denoise_mlp"].read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_is_good_enough(dtype):
    assert exercises(0)["alpha"](lambda t: torch.cos(torch.pi / 2 * t.to(dtype)))


# ---- the notebooks ----

SOURCES = {source.stem: source for source in build.SOURCES}
CALL = re.compile(r"^check\.step(\d)\.(\w+)\(", re.M)


def said(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=SOURCES)
def committed(request):
    return request.param, nbformat.read(HERE / f"{request.param}.ipynb", as_version=4)


@pytest.mark.parametrize("stem", SOURCES)
def test_it_runs_from_top_to_bottom(stem):
    """In small; every assertion in it holds, and every check finds its stub untouched."""
    notebook = build.assemble(SOURCES[stem])
    build.execute(notebook, MICRODLM_SMOKE="1")
    checks = [cell for cell in code(notebook) if CALL.search(cell.source)]
    assert all(said(cell) == f"Not yet. {EMPTY}\n" for cell in checks)


def test_it_is_what_its_source_says(committed):
    stem, notebook = committed
    built = build.assemble(SOURCES[stem])
    cells = [[(cell.id, cell.cell_type, cell.source) for cell in nb.cells] for nb in (built, notebook)]
    assert cells[0] == cells[1], f"python notebooks/build.py {stem[0]}"
    nbformat.validate(notebook)


def test_it_was_run_in_order_and_without_errors(committed):
    _, notebook = committed
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 3 and not [kind for kind in kinds if "widget" in kind]
    assert all(said(cell) == f"Not yet. {EMPTY}\n" for cell in cells if CALL.search(cell.source))
    text = "".join(said(cell) for cell in cells)
    assert "\x1b" not in text and str(ROOT) not in text


def test_every_exercise_stands_in_its_notebook_once_with_hint_and_solution(committed):
    stem, notebook = committed
    step, cells = int(stem[0]), notebook.cells
    if step not in STEPS:
        pytest.skip("test_museum.py looks at its exhibits")
    asked = [(i, call) for i, cell in enumerate(cells) for call in CALL.findall(cell.source)]
    assert [call for _, call in asked] == [(str(step), name) for name in exercises(step)]
    assert 3 <= len(asked) <= 6
    for i, _ in asked:
        title, stub, after = cells[i - 2].source, cells[i - 1].source, cells[i + 1].source
        assert "### Exercise" in title and "..." in stub
        assert after.startswith("<details><summary>Hint</summary>\n\n")  # the empty line lets the host render it
        assert f"(solutions/step{step}.py)" in after.split("</details>")[0]


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda s: s.stem)
def test_it_imports_the_core_and_defines_no_model(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    modules = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {a.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert modules - set(sys.stdlib_module_names) <= {"microdlm", "check", "show", "torch", "matplotlib"}


def first_cell(stem: str) -> str:
    return code(build.assemble(SOURCES[stem]))[0].source


def test_the_first_cell_does_nothing_here(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **how: pytest.fail("it runs something"))
    path, folder = list(sys.path), Path.cwd()
    exec(first_cell("0_masking"), {})
    assert (sys.path, Path.cwd()) == (path, folder)


def test_the_first_cell_fetches_the_project_on_colab(monkeypatch, tmp_path):
    """`git clone` and `pip install` are replaced; what is left must find the project and its checks."""
    ran = []

    def run(command, check):
        ran.append(command)
        if "clone" in command:
            (tmp_path / "microDLM" / "notebooks").mkdir(parents=True)
        assert check

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    exec(first_cell("0_masking"), {})
    assert [command[0] for command in ran] == ["git", sys.executable]
    assert f"https://github.com/{build.repository()}" in ran[0] and "--editable" in ran[1]
    assert Path.cwd() == tmp_path / "microDLM" / "notebooks"
    assert sys.path[:2] == [str(Path.cwd()), str(tmp_path / "microDLM")]


@pytest.mark.parametrize("stem", SOURCES)
def test_its_badge_opens_itself(stem):
    assert f"/{build.repository()}/blob/main/notebooks/{stem}.ipynb" in build.assemble(SOURCES[stem]).cells[0].source


def test_one_command_points_everything_at_another_address(monkeypatch, tmp_path):
    """And nothing that has run is lost or run again."""
    for path in (build.PROJECT, *build.HERE.glob("*.ipynb")):
        shutil.copy(path, tmp_path / path.name)
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "PROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(build, "repository", partial(build.repository, tmp_path / "pyproject.toml"))
    before = {path.name: nbformat.read(path, 4) for path in tmp_path.glob("*.ipynb")}
    build.publish("a-school/dlm.course")
    assert build.repository() == "a-school/dlm.course"
    for name, notebook in before.items():
        after = nbformat.read(tmp_path / name, 4)
        assert "github/a-school/dlm.course/blob/main/notebooks/" in after.cells[0].source
        assert "https://github.com/a-school/dlm.course" in after.cells[1].source
        assert after.cells[2:] == notebook.cells[2:]
    with pytest.raises(UserError, match="owner/name"):
        build.publish("https://github.com/a/b")


# ---- what they share ----


def test_a_slider_that_is_moved_in_a_living_kernel_shows_another_picture():
    """The page of notebook 6: the knob goes from 1 to 8 and back, as by a hand. Another picture, then the first."""
    notebook = build.assemble(SOURCES["6_blocks"])
    cells = code(notebook)
    notebook.cells = [cells[1], *(cell for cell in cells if "slider(draw_page" in cell.source)]
    find = "import ipywidgets\n(knob,) = [w for w in ipywidgets.Widget.widgets.values() if hasattr(w, 'index')]\n"
    notebook.cells += [nbformat.v4.new_code_cell(source) for source in (find, "knob.value = 8", "knob.value = 1")]
    client = NotebookClient(notebook, timeout=120, extra_arguments=["--log-level=CRITICAL"])

    def shown() -> list[str]:
        """What stands below the slider: the pictures of its output area."""
        areas = [state["outputs"] for state in client.widget_state.values() if "outputs" in state]
        return [output["data"]["image/png"] for area in areas for output in area if "image/png" in output["data"]]

    env = {k: v for k, v in os.environ.items() if k != "MICRODLM_STILL"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    pictures = []
    with client.setup_kernel(cwd=str(HERE), env=env):
        for i, cell in enumerate(notebook.cells):
            client.execute_cell(cell, i)
            pictures.append(shown())
    first, moved, back = pictures[2:]
    assert len(first) == len(moved) == len(back) == 1
    assert moved != first and back == first


def test_a_slider_draws_its_stills_and_then_what_the_hand_asks_for(monkeypatch):
    drawn, handed = [], {}
    monkeypatch.setattr(show, "STILL", False)
    monkeypatch.setattr(show.plt, "show", show.plt.close)
    monkeypatch.setattr(show.ipywidgets, "interact", lambda one, value: handed.update(one=one, knob=value))
    show.slider(lambda ax, value: drawn.append(value), "k", [1, 2, 3, 4], still=[1, 3])
    assert drawn == [1, 3] and handed["knob"].options == (1, 2, 3, 4)
    handed["one"](4)
    assert drawn == [1, 3, 4]


@pytest.mark.parametrize("left, right, error", [(1.0, 1.1, 0.0), (1.0, 1.5, 0.1), (math.nan, 1.0, 0.1)])
def test_numbers_that_differ_do_not_agree(left, right, error):
    with pytest.raises(AssertionError):
        show.agree("two sides", left, right, error)
    show.agree("within four errors", 1.0, 1.3, 0.1)


# ---- the page for teachers ----

PAGE = HERE / "README.md"


def test_the_page_shows_the_seconds_that_were_measured():
    known = json.loads((ROOT / "results" / "notebooks.json").read_text(encoding="utf-8"))["notebooks"]
    rows = dict(re.findall(r"^\| \[`(\w+)`\].*\| (\d+) \|$", PAGE.read_text(encoding="utf-8"), re.M))
    assert rows == {stem: f"{known[stem]['seconds']:.0f}" for stem in SOURCES}


def test_what_the_page_points_to_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links and all((HERE / link).exists() for link in links)


def test_the_commands_of_the_cards_are_real():
    """Each `--break NAME` that a card names is one that its step offers."""
    named = re.findall(r"python (steps/\w+\.py) --break (\w+)", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 6
    for script, name in named:
        assert f'"{name}":' in (ROOT / script).read_text(encoding="utf-8"), (script, name)


def test_functions_stay_short():
    """Here as in the core: no function over 50 lines."""
    modules = [build, show, *(importlib.import_module(f"{p}.step{s}") for p in ("check", "solutions") for s in STEPS)]
    sizes = {
        f"{module.__name__}.{name}": len(inspect.getsource(f).splitlines())
        for module in modules
        for name, f in vars(module).items()
        if inspect.isfunction(f) and inspect.unwrap(f).__module__ == module.__name__
    }
    assert max(sizes.values()) <= 50, max(sizes, key=sizes.get)
