"""The frontier of samplers: every measure against a slow and obvious one, then all of it, small, from end to end."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

import microdlm
from microdlm import diversity
from microdlm.errors import UserError
from microdlm.likelihood import left_to_right_nll
from microdlm.runs import ROOT


@pytest.fixture(scope="module")
def frontier(script):
    module = script("results/sampling_frontier")
    load, threads = module.load_corpus, torch.get_num_threads()
    # The training text is a million characters, which take a second to sort; a few are as good here.
    module.load_corpus = lambda *how: module.replace(corpus := load(*how), train=corpus.train[:20_000])
    yield module
    torch.set_num_threads(threads)  # main sets it


@pytest.fixture(scope="module")
def drawing(script):
    return script("results/figures")


def some_texts(n: int, length: int, seed: int = 0, letters: str = "ab c'") -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(letters, k=length)) for _ in range(n)]


def known(frontier, text: str = "to be or not to be"):
    return diversity.Verbatim(text, 50)


# Errors


def test_of_a_mean_it_is_the_usual_standard_error(frontier):
    x = np.random.default_rng(0).normal(3, 2, 50)
    found = diversity.interval(*diversity.average(x))
    assert found["value"] == pytest.approx(x.mean())
    assert found["stderr"] == pytest.approx(x.std(ddof=1) / math.sqrt(50))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * found["stderr"])


def test_the_interval_holds_the_truth_as_often_as_it_says(frontier):
    """Of a mean and of a ratio of two dependent numbers, where the truth is known: 95 % of 1,000, within 4 sigma."""
    rng, held = np.random.default_rng(1), np.zeros(2)
    for _ in range(1000):
        size = rng.uniform(1, 3, 100)
        part = size * rng.normal(0.5, 0.1, 100)
        mean = diversity.interval(*diversity.average(part))
        share = diversity.interval(*diversity.leave_one_out(diversity.ratio, np.stack([part, size], 1)))
        held += mean["low"] < 1.0 < mean["high"], share["low"] < 0.5 < share["high"]
    assert (np.abs(held - 950) < 4 * math.sqrt(1000 * 0.95 * 0.05)).all(), held


@pytest.mark.parametrize("measure", ["entropy", "distinct"])
def test_the_error_of_a_pooled_measure_is_its_scatter_over_samples(frontier, measure):
    """100 samples of 40 texts: what the jackknife says is what they scatter by, and not less."""
    f = diversity.entropy if measure == "entropy" else lambda c: diversity.kinds(c) / c.sum(-1)
    words, zipf = np.arange(300), 1 / np.arange(1, 301)
    rng, found = np.random.default_rng(2), []
    for _ in range(100):
        texts = rng.choice(words, (40, 20), p=zipf / zipf.sum())
        counts = np.stack([np.bincount(t, minlength=300) for t in texts])
        found.append(diversity.interval(*diversity.leave_one_out(f, counts)))
    scatter = np.std([e["value"] for e in found], ddof=1)
    assert 0.85 * scatter < np.mean([e["stderr"] for e in found]) < 1.6 * scatter


# Diversity


def test_entropy_and_distinct_4grams_count_as_one_counts_by_hand(frontier):
    texts = some_texts(6, 30)
    found = diversity.measures(texts, 2, known(frontier))
    fours = Counter(t[i : i + 4] for t in texts for i in range(2, 27))
    n = sum(fours.values())
    assert n == 6 * 25
    assert found["distinct_4grams"][0] == pytest.approx(len(fours) / n)
    assert found["entropy"][0] == pytest.approx(-sum(c / n * math.log(c / n) for c in fours.values()))
    within = [[c / 28 for c in Counter(t[2:]).values()] for t in texts]
    assert found["text_entropy"][0] == pytest.approx(-sum(p * math.log(p) for ps in within for p in ps) / 6)


def test_without_a_text_is_the_measure_of_the_others(frontier):
    texts, training = some_texts(5, 30), known(frontier)
    found = diversity.measures(texts, 2, training)
    for i in range(5):
        others = diversity.measures(texts[:i] + texts[i + 1 :], 2, training)
        for name, (_, without) in found.items():
            assert without[i] == pytest.approx(others[name][0]), name


def test_one_letter_has_no_entropy_and_all_letters_alike_have_the_most(frontier):
    same = diversity.measures(["a" * 30] * 3, 0, known(frontier))
    assert same["entropy"][0] == same["text_entropy"][0] == 0
    assert same["distinct_4grams"][0] == pytest.approx(1 / 81)
    alike = diversity.measures(["abcdefgh"] * 2, 0, known(frontier))
    assert alike["text_entropy"][0] == pytest.approx(math.log(8))


# Words


@pytest.mark.parametrize(
    "text, start, words",
    [
        ("one two three", 0, ["two"]),  # both ends may cut
        (" one two ", 0, ["one", "two"]),
        ("ab cd ef ", 1, ["cd", "ef"]),  # half of ab was given
        ("ab cd ef ", 3, ["cd", "ef"]),  # all of cd was written
        ("ab cd ef ", 4, ["ef"]),
        (" 'tis o'er-done\n", 0, ["'tis", "o'er", "done"]),
        ("", 0, []),
        ("word", 0, []),
    ],
)
def test_words_that_an_end_cuts_are_not_counted(frontier, text, start, words):
    assert diversity.whole_words(text, start) == words


def test_known_words_are_those_of_the_training_text(frontier):
    found = diversity.measures([" to b nor be ", " not tobe to x"], 0, known(frontier))
    assert found["known_words"][0] == pytest.approx(4 / 7)  # not b, nor, tobe; x is cut
    assert found["distinct_words"][0] == 6


# Memory


def slow_run(text: str, training: str) -> int:
    pieces = (text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1))
    return max((len(p) for p in pieces if p in training), default=0)


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_run_is_the_longest_of_all_pieces(frontier, seed):
    training = some_texts(1, 400, seed, "abc")[0]
    text = some_texts(1, 30, seed + 100, "abcd")[0]
    assert diversity.Verbatim(training, 30).longest_run(text) == slow_run(text, training) > 0


def test_a_copy_is_found_whole_wherever_it_stands(frontier):
    training = some_texts(1, 300, 5)[0]
    look = diversity.Verbatim(training, 60)
    for start in (0, 117, 240):
        assert look.longest_run(training[start : start + 60]) == 60
        assert look.longest_run("#" + training[start : start + 58] + "#") == 58
    assert look.longest_run("###") == 0 and look.longest_run("") == 0
    assert training[-5:] in look and training[-5:] + "#" not in look


# Matched


def test_curves_meet_where_a_straight_line_says(frontier):
    def point(entropy, nats):
        return {"entropy": (entropy, np.full(3, entropy)), "nats": (nats, np.array([nats, nats + 1, nats - 1]))}

    found = diversity.matched([point(1, 2), point(2, 4), point(6, 8)], "entropy", (3.0, np.array([3.0, 3.0, 2.0])))
    assert found["entropy"][0] == 3 and found["entropy"][1].tolist() == [3, 3, 2]
    assert found["nats"][0] == pytest.approx(5)
    assert found["nats"][1].tolist() == pytest.approx([5, 6, 3])  # the third: real text without it is at 2
    assert diversity.matched([point(1, 2), point(2, 4)], "entropy", (3.0, np.full(3, 3.0))) is None
    assert diversity.matched([point(3, 2)], "entropy", (3.0, np.full(3, 3.0))) is None


# The whole


@pytest.fixture(scope="module")
def bench(frontier, shakespeare):
    return frontier.Bench(frontier.Config(texts=3, length=40, prompt=5, batch=2, judge="shakespeare-gpt"))


def test_the_judge_reads_what_was_written_and_nothing_else(bench):
    """Exact: log p of the whole text minus log p of the prompt."""
    x, gpt = bench.x_0, microdlm.load("shakespeare-gpt").model
    whole, prompt = 39 * left_to_right_nll(gpt, x), 4 * left_to_right_nll(gpt, x[:, :5])
    found = bench.judged(x)
    assert found["judge_nats"][0] == pytest.approx(((whole - prompt) / 35).mean().item(), rel=1e-5)
    assert bench.judged(x.flip(0))["judge_nats"][1].tolist() == pytest.approx(found["judge_nats"][1][::-1].tolist())


def test_cost_is_what_each_text_needs_alone(bench, frontier):
    one = bench.measure("left to right", sampler="left_to_right", how={}, temperature=1)
    assert (one["passes"][0], one["tokens_read"][0]) == (35, 35 * 40)
    gpt = bench.measure("GPT", sampler="left_to_right", how={}, temperature=1)
    assert (gpt["passes"][0], gpt["tokens_read"][0]) == (35, 39)  # its cache: all but the last, once
    half = bench.measure("draft", sampler="refine", how={"draft": 4, "num_steps": 3, "share": 0.1}, temperature=1)
    assert half["passes"][0] <= 7 and half["cpu_seconds"][0] > 0
    x = bench.x_0[:2].clone()
    x[0, 10:], x[1, 39:] = bench.lms["diffusion"].mask_id, bench.lms["diffusion"].mask_id
    counted = frontier.CountForwards(bench.lms["diffusion"].model)
    *_, _ = frontier.replace(bench.lms["diffusion"], model=counted).write(x, "threshold", tau=1.0)
    assert (counted.passes, counted.token_forwards) == (30, 31 * 40)  # the second is at rest after one


def test_given_characters_stay_through_draft_and_refinement(bench):
    lm, x = bench.lms["diffusion"], bench.x_0.clone()
    x[:, 5:] = lm.mask_id
    y = bench.write(lm, x, "refine", {"draft": 2, "num_steps": 5, "share": 0.9}, 1.0, 0)
    assert torch.equal(y[:, :5], x[:, :5]) and not (y == lm.mask_id).any()


def test_every_way_of_the_plan_writes_whole_texts_after_the_prompt(bench, frontier, monkeypatch):
    pages = []
    monkeypatch.setattr(bench, "judged", lambda x: pages.append(x) or {})
    for way, sampler, options, knob, values in frontier.PLAN:
        how = options | ({knob: min(values)} if knob else {})
        cost = bench.measure(way, sampler=sampler, how=how, temperature=0.7)
        assert 0 < cost["passes"][0] <= 35 and cost["tokens_read"][0] >= 39, way
        assert torch.equal(pages[-1][:, :5], bench.x_0[:, :5]) and pages[-1].max() < 65, way
    assert len({tuple(page.flatten().tolist()) for page in pages}) == len(frontier.PLAN)


def test_small_from_end_to_end_and_again_from_what_was_kept(
    frontier, drawing, shakespeare, tmp_path, monkeypatch, capsys
):
    few = ("ancestral", "ancestral", {}, "num_steps", {4: (0.5, 1)})
    monkeypatch.setattr(frontier, "PLAN", [few, frontier.PLAN[-1]])
    how = dict(judge="shakespeare-gpt", out=tmp_path / "frontier.json", points=tmp_path / "runs" / "points.json")
    cfg = frontier.Config(smoke=True, **how)
    frontier.main(cfg)
    text = cfg.out.read_text()
    numbers, kept = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON")), cfg.points.read_text()
    assert numbers["judge_wrote_nothing"] is False and numbers["made_by"]["threads"] == 1
    assert isinstance(numbers["seed"], int) and numbers["corpus"]["sha256"].startswith("86c4")
    assert len(numbers["points"]) == sum(len(temps) for *_, values in frontier.PLAN for temps in values.values())
    assert all(p["judge_nats"]["low"] <= p["judge_nats"]["value"] <= p["judge_nats"]["high"] for p in numbers["points"])
    drawing.frontier(numbers, tmp_path / "figures")
    assert len(list((tmp_path / "figures").glob("*.png"))) == 3

    lost = json.loads(kept)
    del lost[list(lost)[2]]  # a crash before the last write: one point is lost, and only it is measured again
    cfg.points.write_text(json.dumps(lost))
    measured, measure = [], frontier.Bench.measure
    monkeypatch.setattr(frontier.Bench, "measure", lambda *a, **how: measured.append(how) or measure(*a, **how))
    frontier.main(cfg)
    again = json.loads(cfg.out.read_text())
    assert len(measured) == 1
    for p, q in zip(numbers["points"], again["points"], strict=True):
        assert {k: v for k, v in p.items() if k != "cpu_seconds"} == {k: v for k, v in q.items() if k != "cpu_seconds"}
    monkeypatch.setattr(frontier, "PLAN", frontier.PLAN[-1:])
    frontier.main(frontier.replace(cfg, seed=1))
    assert len(measured) == 5  # another seed is another experiment


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"judge": "shakespeare-diffusion"}, "cannot judge"),
        ({"judge": "nobody"}, "unknown model"),
        ({"length": 257}, "length"),
        ({"prompt": 0}, "prompt"),
        ({"prompt": 128}, "prompt"),
        ({"texts": 5000}, "texts"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(frontier, shakespeare, wrong, says):
    with pytest.raises(UserError, match=says):
        frontier.main(frontier.Config(**{"judge": "shakespeare-gpt"} | wrong))


def test_what_the_readme_says_in_words_is_what_was_measured():
    """The order of samplers and the copied stretches, from the JSON: in the README only tables are written by code."""
    found = json.loads((ROOT / "results" / "sampling_frontier.json").read_text(encoding="utf-8"))
    rows, readme = found["points"], " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    gpt = next(r for r in rows if (r["way"], r["temperature"]) == ("GPT", 1))
    copied, real = (
        f"{r['longest_run']['value']:.2f} ± {r['longest_run']['stderr']:.2f}" for r in (gpt, found["real_text"])
    )
    assert f"has {copied} characters on average if the GPT wrote it, {real} in held-out text" in readme

    equal = {r["name"]: r["judge_nats"] for r in found["at_the_entropy_of_real_text"]}
    sixty_four = [r for r in rows if r["temperature"] == 1 and r["name"].endswith("64 steps")]
    assert "At temperature 1 surest-first looks far ahead; at equal diversity it is near the end" in readme
    assert min(sixty_four, key=lambda r: r["judge_nats"]["value"])["way"] == "surest first"
    ranks = sorted(equal, key=lambda name: equal[name]["value"])
    assert all(ranks.index(name) >= len(ranks) * 3 // 4 for name in equal if name.startswith("surest first"))

    assert "at equal diversity, `remask` with 64 steps is the better of the two" in readme
    ours, plain = equal["remask, 64 steps"], equal["ancestral, 64 steps"]
    assert plain["value"] - ours["value"] > 2 * (ours["stderr"] ** 2 + plain["stderr"] ** 2) ** 0.5


def test_who_cannot_be_compared_is_named(command, drawing):
    """Each way that was measured is in the table or in the sentence below it, and then in no figure either."""
    tables, found = command("tables"), json.loads((ROOT / "results" / "sampling_frontier.json").read_text("utf-8"))
    here = {p["name"] for p in found["at_the_entropy_of_real_text"]}
    missing = {p["name"]: p["way"] for p in found["points"] if p["name"] not in here}
    said, readme = tables.unmatched(found), (ROOT / "README.md").read_text(encoding="utf-8")
    assert said in readme and missing and not drawing.LOOK.keys() & set(missing.values())
    for name, way in missing.items():
        mine = [p for p in found["points"] if p["name"] == name]
        entropies = [p["entropy"]["value"] for p in mine]
        assert f"{name} ({entropies[0]:.2f} at {mine[0]['temperature']:g}" in said, way
        assert not min(entropies) <= found["real_text"]["entropy"]["value"] <= max(entropies)
    assert all(f"{name} (" not in said for name in here)
    assert "All measured are here." in tables.unmatched(found | {"points": []})
