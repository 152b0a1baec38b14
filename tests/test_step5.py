"""Step 5: its comparison is the core's, both numbers are found another way, and a wrong way of quoting shows."""

from types import SimpleNamespace

import pytest
import torch

from microdlm import comparison
from microdlm.errors import UserError
from microdlm.lesson import Config
from microdlm.likelihood import Estimate, cross_entropy_at, estimate_nelbo, left_to_right_nll
from microdlm.pretrained import LanguageModel
from microdlm.samplers import left_to_right
from microdlm.transformer import Transformer, TransformerConfig

L = 40  # more blanks than the 32 steps that diffusion writes in


@pytest.fixture(scope="module")
def lesson(step, small_playlets):
    return small_playlets(step("step5_twins"))


@pytest.fixture(scope="module")
def twins(corpus):
    """Twins that nobody trained, no weight of them zero."""

    def build(causal: bool) -> LanguageModel:
        cfg = TransformerConfig(len(corpus.tokenizer) + (not causal), L, n_layer=2, n_head=2, d_model=16, causal=causal)
        model, rng = Transformer(cfg), torch.Generator().manual_seed(2)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=rng)
        return LanguageModel(model.eval(), corpus.tokenizer, {"training": {"steps": 3, "batch_size": 5}})

    return {"gpt": build(True), "diffusion": build(False)}


# Step = core


@pytest.mark.parametrize("kind", ["gpt", "diffusion"])
def test_the_number_is_the_cores(lesson, corpus, twins, kind):
    x_0, lm = corpus.windows(L, 9), twins[kind]
    mine = lesson.nats_per_char(lm, x_0, corpus, samples=5, seed=3)
    core = comparison.nats_per_char(lm.score_windows(x_0, 5, 3), corpus)
    assert (mine.mean, mine.stderr) == pytest.approx((core["nats_per_char"], core["stderr"]), rel=1e-6)


def test_the_costs_are_the_cores(lesson, corpus, twins):
    cfg = comparison.Config((), texts=3)
    core = {
        "GPT": comparison.time_writing(twins["gpt"], "", comparison.WAYS["gpt"]["left to right"], cfg, None),
        **{
            mine: comparison.time_writing(twins["diffusion"], "", comparison.WAYS["diffusion"][theirs], cfg, None)
            for mine, theirs in (("diffusion", "surest first"), ("diffusion, one by one", "one by one"))
        },
    }
    for name, theirs in core.items():
        kind, way, _ = lesson.WAYS[name]
        passes, tokens, _, texts = lesson.cost(twins[kind], twins[kind].canvas("\n", n=3), way, seed=0)
        assert (passes, tokens) == (theirs["passes"], theirs["token_forwards"])
        assert corpus.tokenizer.decode(texts[0]) == theirs["sample"]


@pytest.mark.parametrize("cached", [True, False])
def test_left_to_right_is_the_cores(lesson, twins, cached):
    gpt, x = twins["gpt"], twins["gpt"].canvas("\n", n=3)
    *_, core = left_to_right(gpt.model, x, gpt.mask_id, rng=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = list(lesson.left_to_right(gpt.model, x, gpt.mask_id, torch.Generator().manual_seed(1), cached))
    assert torch.equal(states[-1], core)
    assert (x[:, 1:] == gpt.mask_id).all()  # the page it was given stays blank


# One number two ways, and what is none


def test_token_by_token_is_all_at_once(lesson, corpus, twins):
    x_0, model = corpus.windows(L, 6), twins["gpt"].model
    torch.testing.assert_close(lesson.token_by_token(model, x_0), left_to_right_nll(model, x_0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [2, 17, L])
def test_the_arithmetic_of_costs(lesson, twins, n):
    for kind, way, arithmetic in lesson.WAYS.values():
        if arithmetic(n)[0] == lesson.STEPS and n <= lesson.STEPS:
            continue  # diffusion has never more steps than blanks
        start = twins[kind].canvas("\n", n, n=2)
        assert lesson.cost(twins[kind], start, way, seed=0)[:2] == arithmetic(n)


def test_the_mean_over_a_batch_is_no_likelihood(lesson, chain):
    """With the exact denoiser the bound is the entropy. The mean over hidden tokens is too large, by what the curve
    c_k says: long gaps, where tokens are hard, have more of them."""
    x_0 = chain.sample(300, 10, torch.Generator().manual_seed(0))
    lm = SimpleNamespace(kind="diffusion", model=chain, mask_id=chain.mask_id)
    bound = estimate_nelbo(chain, x_0, chain.mask_id, 20, torch.Generator())
    wrong = lesson.batch_ratio(lm, x_0, SimpleNamespace(chars_per_token=1.0), 20, seed=0)
    gap = Estimate.of(wrong.per_sequence - bound.per_sequence)
    assert gap.mean > 4 * gap.stderr
    curve = [cross_entropy_at(chain, x_0, 4, k, 2, None, 0).mean for k in range(1, 11)]
    # k is uniform on 0..L when t is uniform, so the mean over hidden tokens weighs c_k by k.
    expected = sum(k * c for k, c in enumerate(curve, 1)) / sum(range(1, 11))
    assert wrong.mean == pytest.approx(expected, abs=4 * bound.stderr)


def test_the_line_keeps_order_and_names_all(lesson):
    marks = [(0.5, "exact", "exact"), (0.51, "GPT", "gpt"), (1.4, "diffusion ≤", "diffusion"), (4.0, "ln 55", "masked")]
    axis, *rows = lesson.number_line(marks).plain.split("\n")
    at = [i for i, cell in enumerate(axis) if cell == "●"]
    assert len(at) == 4 and at[-1] == 50 and at[2] == round(1.4 / 4.0 * 50)
    for column, row, (value, name, _) in zip(reversed(at), rows, reversed(marks), strict=True):
        assert row.endswith(f"└ {name} {value:.3f}") and row.index("└") == column
    assert max(map(len, [axis, *rows])) <= 80


# The run


EXACT, COUNTED = "GPT: exact, the same token by token", "passes and tokens read as predicted"


def test_it_runs_and_a_break_trains_nothing(lesson, smoke, cats, tmp_path, monkeypatch):
    """The scripts train on a text of our own. A break is in the scoring: it takes the twins that it finds."""
    holds = smoke(lesson, data=cats).claims
    assert holds.pop("both are found another way too") is None  # that takes training
    assert all(holds.values()) and len(holds) == 5
    monkeypatch.setattr(lesson, "subprocess", None)
    lesson.main(Config(cats, smoke=True, out=tmp_path, broken="batch_ratio"))
    assert len([*tmp_path.glob("*-frames*.json"), *tmp_path.glob("*-batch_ratio*.json")]) == 1


@pytest.fixture
def at_hand(lesson, twins, monkeypatch):
    monkeypatch.setattr(lesson, "trained", lambda kind, *_: twins[kind])
    return lesson


def test_it_runs_on_the_built_in_language(at_hand, smoke):
    run = smoke(at_hand)
    assert not run.failed and run.claims["nobody knows it better than itself"]
    exact, counted, equal = (run.numbers[name] for name in ("exact", "letter", "ln"))
    assert exact < counted < equal


@pytest.mark.parametrize(("name", "what"), [("training_loss", EXACT), ("frames", COUNTED)])
def test_a_break_breaks_what_it_should(at_hand, smoke, name, what):
    assert smoke(at_hand, broken=name).failed == [what]


def test_a_script_that_fails_and_a_file_that_is_missing_are_one_clear_line(lesson, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there is no file"):
        lesson.main(Config(str(tmp_path / "nothing.txt"), smoke=True, out=tmp_path))
    failing = SimpleNamespace(run=lambda command: SimpleNamespace(returncode=2))
    monkeypatch.setattr(lesson, "subprocess", failing)
    with pytest.raises(UserError, match=r"gpt\.py did not finish"):
        lesson.main(Config(smoke=True, out=tmp_path))
