"""Step 7: masking by type is a bound in one form only, arms differ in what they should, and bugs show."""

import json
from itertools import product

import pytest
import torch

from microdlm.corpus import load_corpus
from microdlm.lesson import Config, Lesson
from microdlm.likelihood import Estimate, estimate_nelbo, exact_logits
from microdlm.masking import mask_tokens
from microdlm.objectives import denoise_log_probs, nelbo
from microdlm.oracle import MarkovDenoiser
from microdlm.schedules import SCHEDULES
from microdlm.transformer import Transformer, TransformerConfig


@pytest.fixture(scope="module")
def s7(step):
    return step("step7_schedule_study")


@pytest.fixture(scope="module")
def language():
    """Three letters, of unequal entropy."""
    transition = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.9, 0.05, 0.05]])
    return MarkovDenoiser(torch.tensor([0.5, 0.3, 0.2]), transition)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_texts(V, L):
    return torch.tensor(list(product(range(V), repeat=L)))


def entropy(language, L):
    nll = language.nll(all_texts(language.mask_id, L))
    return ((-L * nll).exp() @ nll).item()


def draws(s7, language, masking, c, n=40_000, L=3, tilt=None):
    """(n,) the bound as training draws it, with the denoiser that is exact for this masking, and t = part^3."""
    x_0, part = (
        language.sample(n, L, seeded(1)),
        torch.rand(n, generator=seeded(2), dtype=torch.float64).clamp(min=1e-3),
    )
    rate = s7.MASKINGS[masking]((part**3)[:, None], c)
    x_t, is_masked = mask_tokens(x_0, 1 - rate.gather(1, x_0), language.mask_id, seeded(3))
    logits = exact_logits(language, x_t, rate) + (0 if tilt is None else tilt)
    w = s7.EXPONENTS[masking](c)
    args = (lambda _: logits, x_0, x_t, is_masked, rate, 3 / part, w, language.mask_id)
    return s7.bound(*args, corrected=tilt is None)


# ---- the grid ----


def test_the_grids_are_twelve_different_arms_on_two_axes(s7):
    for grid in (s7.GRID, s7.PUBLISHED):
        assert len(set(grid)) == len({arm.name for arm in grid}) == 12
        assert {(a.schedule, a.masking) for a in grid} == set(product(s7.SIX, {a.masking for a in grid}))
        assert len({a.masking for a in grid}) == 2 and len({a.weight for a in grid}) == 1
    assert not set(s7.GRID) & set(s7.PUBLISHED)


def test_arms_of_one_seed_share_times_and_numbers(s7):
    """Common random numbers: where one arm masks less of each token than another, its masks are among the other's."""
    x_0, c = torch.randint(5, (8, 32), generator=seeded(4)), torch.linspace(0.5, 1.5, 5).double()
    masks = {a: s7.hide(a, x_0, c, 5, seeded(5))[1] for a in s7.GRID}
    states = set()
    for arm in s7.GRID + s7.PUBLISHED:
        rng = seeded(5)
        s7.hide(arm, x_0, c, 5, rng)
        states.add(rng.get_state().numpy().tobytes())
    assert len(states) == 1  # and every arm draws as many
    of = {(a.schedule, a.masking): m for a, m in masks.items()}
    for lighter, heavier in (("cosine", "linear"), ("linear", "sqrt"), ("loglinear", "linear")):
        assert not (of[lighter, "uniform"] & ~of[heavier, "uniform"]).any()
    assert (of["cosine", "uniform"] != of["linear", "uniform"]).any()
    assert not (of["linear", "entropy"] & ~of["linear", "uniform"])[c[x_0] < 1].any()  # hard tokens are masked less


# ---- masking by type ----


def test_rates_follow_the_published_formula(s7):
    """After 0 comes 0 or 1, evenly; after 1 always 2; after 2 always 0. So 2 is easy, what comes after 0 hard."""
    ids, x, g = [], 0, seeded()
    for u in torch.rand(60_000, generator=g).tolist():
        ids.append(x)
        x = {0: 0 if u < 0.5 else 1, 1: 2, 2: 0}[x]
    c = s7.rates_by_type(torch.tensor(ids), 3)
    # shares 1/2, 1/4, 1/4. Where 1 stands the entropy is ln 2, where 2 stands 0, where 0 stands half of the time ln 2.
    mean = 0.5 * 0.5 + 0.25
    assert c.tolist() == pytest.approx([2 - 0.5 / mean, max(0.5, 2 - 1 / mean), 1.5], abs=0.02)


def test_with_one_rate_for_all_types_it_is_the_bound_of_step_4(s7, network):
    net, x_0 = network(), torch.randint(4, (6, 16), generator=seeded(3))
    arm, c = s7.Arm("cosine"), torch.ones(4).double()
    x_t, is_masked, rate, weight_t = s7.hide(arm, x_0, c, 4, seeded(6))
    mine = s7.bound(net, x_0, x_t, is_masked, rate, weight_t, torch.ones(4), 4)
    core = nelbo(denoise_log_probs(net(x_t), x_t, 4), x_0, is_masked, weight_t)
    torch.testing.assert_close(mine.float(), core.float(), rtol=1e-5, atol=1e-6)


def test_masked_by_type_the_bound_is_the_entropy(s7, language):
    """Drawn as training draws it, within 4 standard errors; and by quadrature, with no chance in it."""
    c = torch.tensor([1.5, 0.5, 0.9]).double()
    e, truth = Estimate.of(draws(s7, language, "entropy", c)), entropy(language, 3)
    assert abs(e.mean - truth) < 4 * e.stderr and e.stderr < 0.02 * truth
    assert s7.best_value(language, "entropy", c, 3) == pytest.approx(entropy(language, 3), abs=1e-4)


def test_any_other_denoiser_pays_more(s7, language):
    """It is a bound: with the posterior of uniform masking, to which masks say nothing, it lies above."""
    c = torch.tensor([1.5, 0.5, 0.9]).double()
    x_0, part = language.sample(40_000, 3, seeded(1)), torch.rand(40_000, generator=seeded(2)).double().clamp(min=1e-3)
    rate = s7.MASKINGS["entropy"]((part**3)[:, None], c)
    x_t, is_masked = mask_tokens(x_0, 1 - rate.gather(1, x_0), 3, seeded(3))
    right = draws(s7, language, "entropy", c)
    untold = s7.bound(
        lambda x: language(x)[:, :, :3] - rate.log()[:, None], x_0, x_t, is_masked, rate, 3 / part, 1 / c, 3
    )
    gap = Estimate.of(untold - right)
    assert gap.mean > 4 * gap.stderr


def test_the_published_form_is_no_bound_and_by_how_much(s7, language):
    """Tokens with c < 1 stay visible with probability 1 - c at any t. Quadrature and drawing agree."""
    c = torch.tensor([1.5, 0.5, 0.9]).double()
    e, value = Estimate.of(draws(s7, language, "clamped", c)), s7.best_value(language, "clamped", c, 3)
    assert abs(e.mean - value) < 4 * e.stderr
    assert value < 0.85 * entropy(language, 3)
    never = 1 - s7.MASKINGS["clamped"](torch.ones(1, 1).double(), c)
    assert never[0].tolist() == pytest.approx([0, 0.5, 0.1])
    assert (1 - s7.MASKINGS["entropy"](torch.ones(1, 1).double(), c)).abs().max() == 0


def test_without_the_correction_a_denoiser_can_go_below_the_entropy(s7, language):
    c = torch.tensor([1.5, 0.5, 0.9]).double()
    e = Estimate.of(draws(s7, language, "entropy", c, tilt=(1 / c).log()))
    value, truth = s7.best_value(language, "entropy", c, 3, corrected=False), entropy(language, 3)
    assert abs(e.mean - value) < 4 * e.stderr
    assert truth - value > 4 * e.stderr and truth - value > 0.01


def test_of_a_single_token_the_bound_is_the_integral_in_closed_form(s7):
    """L = 1, V = 3, u_v = t^w_v: the entropy is 0.897946 nats, and without the correction 0.815 is reached."""
    p, c = torch.tensor([0.6, 0.3, 0.1]), 1 / torch.tensor([0.5, 1.0, 3.0]).double()
    one = MarkovDenoiser(p, torch.eye(3))
    truth = -(p.double() * p.double().log()).sum().item()
    assert truth == pytest.approx(0.897946, abs=1e-5)
    assert s7.best_value(one, "entropy", c, 1, points=2000) == pytest.approx(truth, abs=1e-4)
    assert s7.best_value(one, "entropy", c, 1, corrected=False) < truth - 0.01


@pytest.mark.parametrize("name", ["linear-uniform", "sqrt-entropy", "cosine-clamped-plain"])
def test_every_loss_has_gradients_at_its_extremes(s7, network, name):
    arm = next(a for a in s7.GRID + s7.PUBLISHED if a.name == name)
    net, x_0 = network(), torch.randint(4, (64, 16), generator=seeded(3))
    value = s7.LOSSES[arm.weight](arm, torch.tensor([0.5, 0.8, 1.1, 1.5]).double(), 4, net, x_0, seeded())
    value.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


# ---- one network, six exams ----


def test_on_playlets_all_schedules_score_one_checkpoint_equally(s7, network):
    corpus = load_corpus("playlets", n_chars=20_000)
    net, x_0 = network(vocab_size=len(corpus.tokenizer) + 1, seq_len=32), corpus.windows(32, 48)
    score = estimate_nelbo(net, x_0, len(corpus.tokenizer), 16, seeded(7))
    for name in s7.SIX:
        timed = estimate_nelbo(net, x_0, len(corpus.tokenizer), 16, seeded(8), schedule=SCHEDULES[name])
        gap = Estimate.of(timed.per_sequence - score.per_sequence)
        assert abs(gap.mean) < 4 * gap.stderr


# ---- the step itself ----


@pytest.fixture
def tiny(s7, monkeypatch):
    """The step with two arms of each masking, untrained: seconds."""
    monkeypatch.setattr(s7, "GRID", [a for a in s7.GRID if a.schedule in ("linear", "loglinear")])
    monkeypatch.setattr(s7, "SIX", ("linear", "loglinear"))
    return s7


@pytest.mark.parametrize("broken", [None, "no_correction", "clamped"])
def test_each_form_of_masking_by_type_is_judged(s7, broken, tmp_path):
    lesson = Lesson("step7_schedule_study", Config(broken=broken, out=tmp_path, device="cpu"), s7.BREAKS)
    s7.masking_by_type(lesson, seeded(), L=2)
    (claim,) = lesson.claims
    assert claim.holds == claim.expected == (broken is None)
    assert lesson.numbers["clamped"]["value"] < lesson.numbers["no_correction"]["value"]
    assert lesson.numbers["no_correction"]["value"] < lesson.numbers["valid"]["value"] - 1e-3


def test_the_step_keeps_what_it_measures(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "train", lambda lesson, corpus, c: {a: fresh(len(corpus.tokenizer)) for a in tiny.GRID})
    tiny.main(Config(smoke=True, out=tmp_path, device="cpu"))
    (path,) = tmp_path.glob("*.json")
    numbers = json.loads(path.read_text(encoding="utf-8"))["numbers"]
    assert {arm.name.replace("-", "_") for arm in tiny.GRID} < set(numbers)
    assert numbers["floor"]["value"] == 0  # these networks are all the same
    assert len(list(tmp_path.glob("*.png"))) == 1


def fresh(V):
    return Transformer(TransformerConfig(V + 1, seq_len=64, n_layer=1, n_head=2, d_model=16), seeded()).eval()


def test_graded_by_its_own_rule_one_network_is_six(s7, tmp_path, monkeypatch):
    """A network that knows something: its curve is not flat, so the grades differ."""
    corpus = load_corpus("playlets", n_chars=20_000)
    x_0, mask_id = corpus.windows(64, 32), len(corpus.tokenizer)

    def reads_counts(x_t):
        """It knows how much of the page is masked, and is the surer the less that is."""
        sure = (x_t != mask_id).double().mean(1)
        logits = torch.zeros(*x_t.shape, mask_id + 1, dtype=torch.float64)
        return logits.scatter(-1, answer(x_t)[..., None], (6 * sure)[:, None, None].expand(-1, x_t.size(1), 1))

    def answer(x_t):
        """The text that x_t comes from: the one whose visible tokens agree most."""
        agree = (x_t[:, None] == x_0).double().mean(2)
        return x_0[agree.argmax(1)]

    for broken in (None, "own_exam"):
        lesson = Lesson("step7_schedule_study", Config(broken=broken, out=tmp_path, device="cpu"), s7.BREAKS)
        grades = s7.one_network_six_exams(lesson, reads_counts, x_0, mask_id, torch.ones(mask_id).double())
        claim = next(c for c in lesson.claims if c.what.startswith("six schedules"))
        assert claim.holds == (broken is None)
    order = sorted(grades, key=grades.get)
    assert order[0] == "clipped_cosine" and order[-1] == "sigmoid" and order.index("sqrt") == 4  # as study/PLAN.md says
    assert abs(grades["linear"] - grades["loglinear"]) < 0.01
