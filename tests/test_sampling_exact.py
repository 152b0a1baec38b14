"""What samplers lose, by results/sampling_exact.py: every number against enumeration of a language of four letters.

False alarms, had the seeds not been fixed: each of the 4 chi-square tests fails a right law with probability 1e-4, each
of the 5 tests at 4 sigma with 6e-5.
"""

import json
import math
from functools import partial
from itertools import permutations, product
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from microdlm.drawing import ORDERS
from microdlm.likelihood import Estimate, exact_curve
from microdlm.masking import mask_count
from microdlm.objectives import without_mask
from microdlm.pacing import expected_passes, optimal_pace
from microdlm.runs import ROOT, read_json
from microdlm.samplers import SAMPLERS

L, MASK = 4, 4
TEXTS = torch.tensor(list(product(range(MASK), repeat=L)))
# Where these open is decided by what is visible, and by nothing else.
DECIDED = {
    "margin": partial(SAMPLERS["confidence"], order="margin", pace="linear", num_steps=2),
    "entropy": partial(SAMPLERS["confidence"], order="entropy", pace=[1, 3]),
    "entropy-bounded": partial(SAMPLERS["entropy_bounded"], gamma=1.5),
    "block": partial(SAMPLERS["block"], block_length=2, inside="entropy_bounded", gamma=1.5),
}
IN_THE_MOUTH = {  # and these, if the most probable token stands for the one drawn
    "confidence": partial(SAMPLERS["confidence"], order="confidence", pace="linear", num_steps=2),
    "threshold": partial(SAMPLERS["threshold"], tau=0.4),
}


@pytest.fixture(scope="module")
def exact(script):
    return script("results/sampling_exact")


@pytest.fixture(scope="module")
def p(chain):
    return (-L * chain.nll(TEXTS)).exp()


def blank(x_0):
    return torch.full_like(x_0, MASK)


# The text in the sampler's mouth


def test_the_mouth_names_the_truth_and_is_as_sure_as_before(exact, chain, rng):
    x_0 = chain.sample(60, 8, rng)
    x_t, _ = mask_count(x_0, torch.arange(60) % 8 + 1, MASK, rng)
    mouth, log_p = exact.Mouth(chain, x_0), chain(x_t)
    said = mouth(x_t, torch.arange(x_t.numel()))
    assert torch.equal(said.argmax(-1), x_0.flatten())
    torch.testing.assert_close(said.sort().values, log_p.flatten(0, 1).sort().values, rtol=0, atol=1e-8)
    for measure in ("confidence", "margin", "entropy"):
        was, now = (
            ORDERS[measure](without_mask(q, MASK).softmax(-1), q.argmax(-1), None) for q in (log_p.flatten(0, 1), said)
        )
        torch.testing.assert_close(was, now, rtol=0, atol=1e-8)
    assert torch.equal(mouth.nats, -log_p.gather(-1, x_0[..., None]).squeeze(-1))
    some = torch.tensor([3, 77, 400])
    assert torch.equal(mouth(x_t, some), said[some])


def test_of_two_that_are_as_likely_it_names_the_true_one(exact, ab):
    x_0 = torch.tensor([[0, 1, 0], [1, 0, 1]])
    said = exact.Mouth(ab, x_0)(torch.full_like(x_0, 2), torch.arange(6))
    assert torch.equal(said.argmax(-1), x_0.flatten())
    nats, _ = exact.nats_lost(SAMPLERS["left_to_right"], ab, torch.full_like(x_0, 2), x_0)
    torch.testing.assert_close(nats, torch.full((2,), math.log(2), dtype=torch.float64))


def test_what_opens_is_the_text_or_nothing_is_measured(exact, chain):
    def other_text(denoiser, x, mask_id, temperature):
        yield (x_0 + 1) % MASK

    x_0 = TEXTS[:9]
    with pytest.raises(AssertionError):
        exact.nats_lost(other_text, chain, blank(x_0), x_0)


@pytest.mark.parametrize(
    "name, how",
    [("first_hitting", {}), ("left_to_right", {}), ("confidence", dict(order="random", num_steps=99))]
    + [("confidence", dict(order=order, pace="linear", num_steps=99)) for order in ("margin", "entropy", "confidence")]
    + [("block", dict(block_length=1, num_steps=99))],
    ids=str,
)
def test_one_at_a_time_loses_nothing(exact, chain, rng, name, how):
    """The chain rule, in whatever order: what is lost of each text is its exact -log p, the first token given."""
    x_0 = chain.sample(200, 9, rng)
    page = blank(x_0)
    page[:, 0] = x_0[:, 0]
    nats, passes = exact.nats_lost(partial(SAMPLERS[name], rng=rng, **how), chain, page, x_0)
    torch.testing.assert_close(nats / 8, chain.nll(x_0, given=1))
    assert passes == 8


@pytest.mark.parametrize("name", ["ancestral", "confidence"])
def test_one_step_is_the_product_of_marginals(exact, chain, rng, name):
    """Which are rows of a power of the transition matrix."""
    x_0 = chain.sample(200, 6, rng)
    page = blank(x_0)
    page[:, 0] = x_0[:, 0]
    move = torch.zeros(MASK, MASK, dtype=torch.float64).index_put((chain.source, chain.target), chain.prob)
    expected = -sum(torch.linalg.matrix_power(move, i)[x_0[:, 0], x_0[:, i]].log() for i in range(1, 6))
    nats, passes = exact.nats_lost(partial(SAMPLERS[name], rng=rng, num_steps=1), chain, page, x_0)
    torch.testing.assert_close(nats, expected)
    assert passes == 1


def test_passes_are_counted_for_each_text(exact, chain, rng):
    """Ancestral, where a step may open nothing in one text and something in another: the closed form, to 4 sigma."""
    x_0 = chain.sample(4000, 6, rng)
    _, passes = exact.nats_lost(partial(SAMPLERS["ancestral"], rng=rng, num_steps=8), chain, blank(x_0), x_0)
    assert passes == pytest.approx(expected_passes("linear", 8, 6), abs=4 * 0.8 / 4000**0.5)


@pytest.mark.parametrize("name", [*DECIDED, *IN_THE_MOUTH])
def test_the_nats_are_minus_log_of_a_law(exact, chain, p, name):
    """Over all 256 texts exp(-nats) sums to one. And no law is nearer to the language than itself."""
    nats, passes = exact.nats_lost((DECIDED | IN_THE_MOUTH)[name], chain, blank(TEXTS), TEXTS)
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-9)
    assert p @ nats > L * (p @ chain.nll(TEXTS)) + 0.01 and 1 < passes < L


@pytest.mark.parametrize("name", DECIDED)
def test_it_is_the_law_of_what_the_sampler_writes(exact, chain, name):
    """20,000 texts of the sampler as it is, chi-square over all 256; in p(x) itself they do not lie."""
    nats, _ = exact.nats_lost(DECIDED[name], chain, blank(TEXTS), TEXTS)
    *_, x = DECIDED[name](chain, torch.full((20_000, L), MASK), MASK, rng=torch.Generator().manual_seed(3))
    counts = (x @ MASK ** torch.arange(L - 1, -1, -1)).bincount(minlength=len(TEXTS)).double()

    def p_value(law):
        rare = 20_000 * law < 5  # together they are one cell
        seen, expected = (torch.cat([of[~rare], of[rare].sum()[None]]) for of in (counts, 20_000 * law))
        return chisquare(seen[expected > 0], expected[expected > 0]).pvalue

    assert p_value((-nats).exp()) > 1e-4 > 1e-8 > p_value((-L * chain.nll(TEXTS)).exp())


# The prediction


def enumerated(chain, p, plans: list) -> float:
    """Nats per token over all texts and all plans alike: a plan is the step at which each position opens."""
    nats = 0.0
    for steps in map(torch.tensor, plans):
        for s in steps.unique():
            log_p = chain(TEXTS.masked_fill(steps >= s, MASK)).gather(-1, TEXTS[..., None]).squeeze(-1)
            nats -= (p @ log_p[:, steps == s].sum(1)).item()
    return nats / L / len(plans)


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_right_sum_is_what_ancestral_costs(exact, chain, p, num_steps):
    """Under a linear schedule every position opens at any step, each as likely."""
    found = exact.predicted(exact_curve(chain, L), "ancestral", {"num_steps": num_steps})
    assert found == pytest.approx(enumerated(chain, p, list(product(range(num_steps), repeat=L))))


@pytest.mark.parametrize(
    "how, counts",
    [
        (dict(pace="linear", num_steps=2), [2, 2]),
        (dict(pace="linear", num_steps=1), [4]),
        (dict(pace="cosine", num_steps=3), [1, 1, 2]),
        (dict(pace=[1, 3]), [1, 3]),
        (dict(pace=[3, 1], num_steps=7), [3, 1]),
    ],
    ids=str,
)
def test_the_right_sum_is_what_random_order_costs(exact, chain, p, how, counts):
    found = exact.predicted(exact_curve(chain, L), "confidence", dict(order="random") | how)
    steps = [s for s, k in enumerate(counts) for _ in range(k)]
    assert found == pytest.approx(enumerated(chain, p, list(permutations(steps))))


def test_one_at_a_time_the_area_is_the_entropy(exact, chain, p):
    curve = exact_curve(chain, L)
    found = exact.predicted(curve, "first_hitting", {})
    assert found == pytest.approx((p @ chain.nll(TEXTS)).item())
    assert found == pytest.approx(enumerated(chain, p, list(permutations(range(L)))))


@pytest.mark.parametrize("name, how", [("ancestral", {}), ("confidence", dict(order="random", pace="linear"))], ids=str)
@pytest.mark.parametrize("num_steps", [2, 3])
def test_what_is_measured_lies_around_what_is_predicted(exact, chain, rng, name, how, num_steps):
    """Texts of the language in the mouths of both, 20,000 of them, to 4 sigma."""
    x_0, how = chain.sample(20_000, L, rng), how | dict(num_steps=num_steps)
    nats, _ = exact.nats_lost(partial(SAMPLERS[name], rng=rng, **how), chain, blank(x_0), x_0)
    found = Estimate.of(nats / L)
    assert abs(found.mean - exact.predicted(exact_curve(chain, L), name, how)) < 4 * found.stderr < 0.03


def test_nothing_is_predicted_of_a_sampler_that_looks(exact, chain):
    curve = exact_curve(chain, L)
    for name, how in [("confidence", dict(order="margin", pace="linear", num_steps=2)), ("threshold", dict(tau=0.9))]:
        assert exact.predicted(curve, name, how) is None
    assert exact.predicted(curve, "remask", dict(num_steps=2)) is None


def test_only_the_optimal_pace_is_computed(exact, chain):
    curve = exact_curve(chain, L)
    how = dict(order="random", pace="optimal", num_steps=2)
    assert exact.options(how, curve) == how | {"pace": optimal_pace(curve, 2)} and how["pace"] == "optimal"
    for how in (dict(pace="cosine", num_steps=2), dict(tau=0.9)):
        assert exact.options(how, curve) == how


# Lines


def lines_of(exact, texts: list[str], asked=lambda denoiser, x: None) -> dict:
    def write(denoiser, x, mask_id):
        asked(denoiser, x)
        yield x
        yield torch.tensor([[ord(c) for c in text] for text in texts])

    language = SimpleNamespace(denoiser=lambda: lambda x: x, mask_id=0, accepts={"yes", "Yes"}.__contains__)
    page = torch.zeros(len(texts), len(texts[0]), dtype=torch.long)
    return exact.lines_valid(write, language, page, lambda row: "".join(map(chr, row)))


def test_whole_lines_are_counted_and_no_others(exact):
    """What the edges cut, and an empty line, are nobody's fault: yes, no, yes and Yes remain."""
    found = lines_of(exact, ["yes\nyes\nno\n\nyes\nyes", "yes\nYes\nyesyesyesye"])
    assert found["lines"] == 4 and found["lines_valid"] == 3 / 4
    assert found["stderr"] == pytest.approx(math.sqrt(3 / 4 * 1 / 4 / 4))


def test_no_line_is_no_error(exact):
    found = lines_of(exact, ["yes\nyes"])
    assert (found["lines"], found["lines_valid"], found["stderr"]) == (0, 0, 0)


def test_a_pass_is_one_of_a_text_s_own(exact):
    """Both texts are read once, one of them once more: one and a half passes a text."""
    found = lines_of(exact, ["a\nyes\nb"] * 2, asked=lambda denoiser, x: [denoiser(x), denoiser(x[:1])])
    assert found["passes"] == 1.5


# The whole


@pytest.fixture(scope="module")
def small(exact, play, tmp_path_factory):
    """A run of three texts of seven characters, one setting of each way: what it kept, what it was made with."""
    asked = {"nats_lost": [], "lines_valid": []}

    def spy(name: str):
        real = getattr(exact, name)
        return lambda *args: asked[name].append(args) or real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "Playlets", lambda: play)
        patch.setattr(exact, "WAYS", {name: (*way[:2], way[2][:1], way[3]) for name, way in exact.WAYS.items()})
        for name in asked:
            patch.setattr(exact, name, spy(name))
        cfg = exact.Config(texts=3, length=7, seed=5, out=tmp_path_factory.mktemp("small") / "exact.json")
        exact.main(cfg)
        (*_, blank, decode), (*_, told, x_0) = asked["lines_valid"][0], asked["nats_lost"][0]
        again = exact.measure(cfg)
    numbers = json.loads(cfg.out.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    return SimpleNamespace(numbers=numbers, again=again, blank=blank, decode=decode, told=told, x_0=x_0)


def points_of(numbers) -> dict[str, dict]:
    return {point["way"]: point for point in numbers["points"]}


def test_a_run_is_of_texts_of_the_language_and_can_be_repeated(small, play):
    x_0, numbers = play.denoiser().sample(3, 7, torch.Generator().manual_seed(5)), small.numbers
    assert torch.equal(small.x_0, x_0) and (numbers["texts"], numbers["length"], numbers["seed"]) == (3, 7, 5)
    truth = Estimate.of(play.denoiser().nll(x_0, given=1))
    assert numbers["exact"] == {"nats_per_char": pytest.approx(truth.mean), "stderr": pytest.approx(truth.stderr)}
    assert {"commit", "command"} <= set(numbers["made_by"])
    assert small.again["points"] == numbers["points"]


def test_the_told_page_shows_the_first_character_and_the_other_a_new_line(small, play):
    assert torch.equal(small.told[:, 0], small.x_0[:, 0])
    assert [play.alphabet[i] for i in small.blank[:, 0]] == ["\n"] * 3
    assert (small.told[:, 1:] == play.mask_id).all() and (small.blank[:, 1:] == play.mask_id).all()
    text = play.text(40, seed=1)
    assert small.decode(torch.tensor([play.alphabet.index(c) for c in text])) == text


def test_each_way_has_its_point(exact, small):
    points, curve, truth = points_of(small.numbers), small.numbers["curve"], small.numbers["exact"]["nats_per_char"]
    assert [*points] == [*exact.WAYS] and all(0 < point["passes"] <= 14 for point in points.values())
    told = {name for name, (*_, can_be_told) in exact.WAYS.items() if can_be_told}
    assert {name for name, point in points.items() if "nats_lost" in point} == told
    one, step, best = (points[name] for name in ("one at a time", "ancestral", "random, optimal pace"))
    assert one["nats_lost"] == pytest.approx(0, abs=1e-12) and one["passes_told"] == 6
    assert one["predicted"] == pytest.approx(sum(curve) / 6 - truth) and len(curve) == 6
    # Of one step the price is the last point of the curve, for it was measured on the same texts.
    assert (step["nats_lost"], step["predicted"]) == (
        pytest.approx(curve[-1] - truth),
        pytest.approx(curve[-1] - truth),
    )
    assert step["nats_lost_stderr"] > 0 and step["num_steps"] == 1 and step["passes_told"] == 1
    assert best["nats_lost"] == pytest.approx(step["nats_lost"])


def test_the_table_leaves_empty_what_is_not_known(exact, small):
    way, setting, passes, lost, predicted, valid = ([*column.cells] for column in exact.table(small.numbers).columns)
    at, points = {name: i for i, name in enumerate(way)}, points_of(small.numbers)
    step = points["ancestral"]
    assert lost[at["ancestral"]] == f"{step['nats_lost']:.3f} ± {step['nats_lost_stderr']:.3f}"
    assert predicted[at["ancestral"]] == f"{step['predicted']:.3f}" and setting[at["ancestral"]] == "num_steps 1"
    assert (lost[at["remask"]], predicted[at["remask"]], predicted[at["margin"]]) == ("", "", "")
    assert [float(cell) for cell in passes] == [pytest.approx(p["passes"], abs=0.051) for p in points.values()]
    assert valid[at["ancestral"]] == f"{step['lines_valid']:.0%} of {step['lines']}"
    assert (setting[at["threshold"]], setting[at["one at a time"]]) == ("tau 0.99", "")


def test_every_way_is_a_sampler_s(exact, chain, rng):
    """At each of its settings it writes whole texts, and those of which nothing is taken back can be told."""
    x_0 = chain.sample(60, 5, rng)
    curve = exact_curve(chain, 5)
    for name, (sampler, fixed, sweep, can_be_told) in exact.WAYS.items():
        for changed in sweep:
            write = partial(SAMPLERS[sampler], rng=rng, **exact.options(fixed | changed, curve))
            *_, x = write(chain, blank(x_0), MASK)
            assert not (x == MASK).any(), name
            assert can_be_told == (SAMPLERS[sampler].__module__ != "microdlm.revising"), name
            if can_be_told:
                assert exact.nats_lost(write, chain, blank(x_0), x_0)[0].isfinite().all(), name


# What README says of the numbers that were measured


def test_ancestral_and_random_order_follow_their_prediction_and_the_surest_cost_more():
    points = read_json(ROOT / "results" / "sampling_exact.json")["points"]
    at = {(point["way"], point.get("num_steps")): point for point in points}
    for (way, _), point in at.items():
        if way in ("ancestral", "random, linear pace", "random, cosine pace"):
            assert abs(point["nats_lost"] - point["predicted"]) < 4 * point["nats_lost_stderr"], point
    for n in (2, 4, 8, 16, 32):
        sure, random = at["confidence", n], at["random, linear pace", n]
        assert sure["nats_lost"] - random["nats_lost"] > 4 * sure["nats_lost_stderr"], n


def test_what_the_readme_says_of_opening_the_surest_is_what_was_measured():
    """As many in each pass: worse than blindly. As many as are nearly certain: better than all with 32 passes."""
    points = json.loads((ROOT / "results" / "sampling_exact.json").read_text(encoding="utf-8"))["points"]
    told = {(p["way"], p.get("num_steps", p.get("gamma"))): p for p in points if "nats_lost" in p}
    for steps in (2, 4, 8, 16, 32):
        blind = told["random, linear pace", steps]
        for order in ("confidence", "margin", "entropy"):
            error = (told[order, steps]["nats_lost_stderr"] ** 2 + blind["nats_lost_stderr"] ** 2) ** 0.5
            assert told[order, steps]["nats_lost"] - blind["nats_lost"] > 4 * error
    bounded = told["entropy-bounded", 0.3]
    assert all(bounded["nats_lost"] < p["nats_lost"] for (_, steps), p in told.items() if steps == 32)
    said = f"{bounded['nats_lost']:.3f} ± {bounded['nats_lost_stderr']:.3f} nats in {bounded['passes_told']:.0f} passes"
    readme, wide = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()), told["entropy-bounded", 3.0]
    assert f"loses {said} (gamma 0.3), less than any of the others in 32" in readme
    assert f"at gamma 3, in {wide['passes_told']:.0f}, it too loses more than blind choice in 16" in readme
    assert wide["nats_lost"] > told["random, linear pace", 16]["nats_lost"] + 4 * wide["nats_lost_stderr"]
