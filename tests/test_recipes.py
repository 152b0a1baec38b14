"""The search for recipes: its objectives against the exact bound, its arithmetic by hand, each command once, small."""

import json
import math
import statistics
from types import SimpleNamespace

import pytest
import torch

from microdlm import attention, search
from microdlm.corpus import Corpus
from microdlm.errors import UserError
from microdlm.likelihood import exact_curve
from microdlm.runs import ROOT, read_json
from microdlm.tokenizers import CharTokenizer
from microdlm.transformer import Transformer, TransformerConfig

L = 5


@pytest.fixture(scope="module")
def recipes(command):
    return command("recipes")


@pytest.fixture(scope="module")
def quality(command):
    return command("time_to_quality")


def with_size(denoiser):
    """An exact denoiser that says what the objectives ask a network: how many ids there are."""
    denoiser.cfg = SimpleNamespace(vocab_size=denoiser.mask_id + 1)
    return denoiser


def average(objective, chain) -> tuple[float, float]:
    """Mean and standard error of an objective over many batches of the chain's own texts."""
    rng = torch.Generator().manual_seed(3)
    values = torch.stack([objective(with_size(chain), chain.sample(64, L, rng), rng) for _ in range(150)])
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


# Objectives


def test_each_objective_is_the_mean_of_the_exact_curve_that_it_should_be(recipes, chain):
    """c_k: the cost of a hidden character when k are hidden. The bound is the mean of c_1 .. c_L."""
    c = exact_curve(chain, L).tolist()
    bound = sum(c) / L
    expected = dict.fromkeys(("count, stratified", "count", "few", "many", "in time"), bound)
    expected["complementary"] = bound - c[-1] / (2 * L)  # nothing hidden instead of everything, half of the time
    expected["middle"] = 0.1 * (c[0] + c[4]) + 0.2 * sum(c[1:4])  # shares from 10 to 90 %
    for name, value in expected.items():
        mean, error = average(recipes.OBJECTIVES[name], chain)
        assert mean == pytest.approx(value, abs=4 * error), name
    mean, error = average(recipes.OBJECTIVES["batch ratio"], chain)
    assert mean > bound + 8 * error  # many hidden, hard to name: counted too often
    assert max(c) > min(c) + 0.3  # or all of the above would be the same number


def test_both_recipes_of_the_other_command_take_the_mean_over_what_is_hidden(quality):
    """A model that finds each position as hard as it is far: the mean over all hidden positions, whoever hid them."""
    for objective in (search.ratio_in_time, search.ratio_in_counts):
        seen = []

        def model(x, seen=seen):
            seen.append(x == 4)
            logits = torch.zeros(*x.shape, 5)
            logits[..., 0] = -torch.arange(x.size(1)) / 3.0  # x_0 is all 0
            return logits

        model.cfg, x_0 = SimpleNamespace(vocab_size=5), torch.zeros(16, 20, dtype=torch.long)
        value = objective(model, x_0, torch.Generator().manual_seed(1)).item()
        nll = (3 + (-torch.arange(20) / 3.0).exp()).log() + torch.arange(20) / 3.0  # over the ids that are not MASK
        assert value == pytest.approx(nll.expand(16, 20)[seen[0]].mean().item(), rel=1e-5)
        assert 0.3 < seen[0].float().mean() < 0.7 and seen[0].sum(1).unique().numel() > 8


def test_sharper_attention_is_attention_with_another_scale(recipes, network):
    net, x = network(), torch.arange(16)[None] % 4
    plain = net(x)
    with recipes.sharpened(2.0):
        sharp = net(x)
    q = torch.randn(1, 2, 16, 8)
    with recipes.sharpened(2.0):
        torch.testing.assert_close(attention.attend(q, q, q, None, False), (2 * q @ q.mT / 8**0.5).softmax(-1) @ q)
    assert not torch.allclose(plain, sharp) and torch.equal(net(x), plain)  # and afterwards it is as before


# Arithmetic


def some(variant: str, *values: float) -> list[dict]:
    return [{"variant": variant, "seed": s, "nelbo": v} for s, v in enumerate(values)]


def test_a_difference_is_taken_seed_by_seed():
    """The seeds differ by far more than the recipes; the differences are -0.1, -0.2 and -0.3."""
    base, mine = some("base", 1.0, 2.0, 3.0), some("batch 8", 0.9, 1.8, 2.7)
    found = search.paired(mine[::-1], base)
    assert found["difference"] == pytest.approx(-0.2)
    assert found["stderr"] == pytest.approx(0.1 / math.sqrt(3))
    assert not found["clear"]  # 3.46 standard errors, and with three seeds it takes 4.30
    assert search.paired(some("batch 8", 0.9, 1.89, 2.9), base)["clear"]
    assert search.paired(mine[:2], base)["difference"] == pytest.approx(-0.15)  # over the seeds that both have
    assert search.paired(mine[:1], base) == {}  # one seed has no error


def test_the_critical_values_are_students():
    stats = pytest.importorskip("scipy.stats")
    for n, value in search.T_95.items():
        assert value == pytest.approx(stats.t.ppf(0.975, n - 1), abs=0.01)


def test_a_row_for_every_variant_that_ran_in_the_order_of_the_plan(recipes):
    rows = search.summary(some("batch 8", 0.9, 1.9) + some("base", 1.0, 2.1), recipes.FACTORS)
    assert [(r["variant"], r["nelbo"], "difference" in r) for r in rows] == [
        ("base", pytest.approx(1.55), False),
        ("batch 8", pytest.approx(1.4), True),
    ]


def curve(*points: tuple[float, float]) -> list[dict]:
    return [{"chars": x, "flops": 10 * x, "nelbo": y} for x, y in points]


def test_a_mark_is_reached_on_a_line_in_the_logarithm(quality):
    falling = curve((100, 3.0), (400, 2.0), (1600, 1.9))
    assert quality.reached(falling[::-1], 2.5) == pytest.approx(200)
    assert quality.reached(falling, 2.5, "flops") == pytest.approx(2000)
    assert quality.reached(falling, 2.0) == pytest.approx(400)
    assert quality.reached(falling, 1.8) is None and quality.reached(falling, 3.1) is None


def test_how_many_times_less_is_found_for_each_seed_and_then_averaged(quality):
    runs = [
        {"recipe": "plain", "seed": 0, "points": curve((400, 3.0), (1600, 2.5))},
        {"recipe": "plain", "seed": 1, "points": curve((400, 3.0), (1600, 2.0))},
        *({"recipe": "ours", "seed": s, "points": curve((100, 3.0))} for s in (0, 1)),
        *({"recipe": "ours", "seed": s, "points": curve((400, 2.0))} for s in (0, 1)),
        *({"recipe": quality.TUNED, "seed": s, "points": curve((200, 3.0), (3200, 2.0 - s))} for s in (0, 1)),
    ]
    found = quality.compare(runs, (0, 1), [2.5, 1.5])
    tuned = [200 * 16**0.5, 200 * 16**0.5]  # half of the way down to 2.0, half of the way down to 1.0
    assert found["times_less_tuned"]["chars"]["value"] == pytest.approx((1600 / tuned[0] + 1600 / tuned[1]) / 2)
    assert found["times_less_than_tuned"]["chars"]["value"] == pytest.approx((tuned[0] / 200 + tuned[1] / 400) / 2)
    assert found["times_less_than_tuned"]["flops"] == pytest.approx(found["times_less_than_tuned"]["chars"])
    assert found["plain_end"]["value"] == pytest.approx(2.25)
    assert found["times_less"]["chars"]["value"] == pytest.approx((1600 / 200 + 1600 / 400) / 2)
    assert found["times_less"]["chars"]["stderr"] == pytest.approx(2.0)
    assert found["marks"][0]["ours"]["value"] == pytest.approx(200) and found["marks"][1]["ours"] == {}


def test_who_knows_only_frequencies_has_one_more_of_each():
    ids = {"train": torch.tensor([0, 0, 1]), "val": torch.tensor([0, 1, 2, 2])}
    corpus = Corpus("abc", CharTokenizer("abc"), **ids, sha256="", chars_per_token=1.0)
    assert search.unigram(corpus) == pytest.approx(-(math.log(3 / 6) + math.log(2 / 6) + 2 * math.log(1 / 6)) / 4)


def test_operations_are_six_a_weight_and_character_and_attention(quality):
    net = Transformer(TransformerConfig(66, *quality.SIZES["small"]))
    D, N = 128, 4 * 12 * 128**2 + 128 * 33
    plain = quality.flops(net, 2, quality.PLAIN)
    assert plain == 2 * 16 * 256 * (6 * N + 12 * 4 * 256 * D)
    shapes = [(D, 3 * D), (D, D), (D, 4 * D), (D, 4 * D)] * 4
    extra = sum(5 * (2 * m * m * n + 2 * m**3 + 2 * m * m * n) for m, n in shapes)  # X X', its square, times X
    assert quality.flops(net, 2, quality.replace(quality.OURS, batch_size=16)) - plain == 2 * extra


# Whole commands


def test_the_search_runs_whole_and_goes_on_where_it_was(recipes, tmp_path):
    out = tmp_path / "recipes.json"
    recipes.main(recipes.Config(smoke=True, out=out))
    numbers = json.loads(out.read_text())
    assert {r["variant"] for r in numbers["runs"]} == set(recipes.VARIANTS)
    assert all(0 < r["nelbo"] < 5 and r["steps"] >= 1 for r in numbers["runs"])
    kept = [r for r in numbers["runs"] if (r["variant"], r["seed"]) != ("batch 8", 1)]
    out.write_text(json.dumps(numbers | {"runs": kept}))
    recipes.main(recipes.Config(smoke=True, out=out))
    again = json.loads(out.read_text())["runs"]
    assert again[:-1] == kept  # only what was missing has run, and gives the very number it gave
    assert [r["nelbo"] for r in numbers["runs"] if r not in kept] == [again[-1]["nelbo"]]


def test_two_processes_share_a_search(tmp_path):
    """The other one writes while this one trains. Killed: what was read at the start is written at the end; a named
    variant is passed over, or another runs."""
    out, factors = tmp_path / "shared.json", {"base": {"base": {}}, "of": {"one": {}, "two": {}, "three": {}}}

    def other(name, seed):
        return {"nelbo": 2.0 + seed / 8, "seconds": 1.0}

    def ours(name, seed):
        search.search(out, {"chars": 7}, factors, (0, 1), other, {"base", "two"})
        return {"nelbo": 1.5 + seed / 8, "seconds": 1.0}

    search.search(out, {"chars": 7}, factors, (0, 1), ours, {"one"})
    numbers = read_json(out)
    ran = {(r["variant"], r["seed"]): r["nelbo"] for r in numbers["runs"]}
    assert ran == {(n, s): (1.5 if n == "one" else 2.0) + s / 8 for n in ("base", "one", "two") for s in (0, 1)}
    assert len(numbers["runs"]) == 6 and numbers["not_run"] == ["three"]
    assert [(r["variant"], r.get("difference")) for r in numbers["summary"]] == [
        ("base", None),
        ("one", -0.5),
        ("two", 0),
    ]
    with pytest.raises(UserError, match="another --out"):
        search.search(out, {"chars": 8}, factors, (0, 1), other)


def test_every_variant_is_another_training_than_the_base(recipes, tmp_path):
    """An option that is not passed on would give the base's number again, bit for bit."""
    numbers = json.loads((ROOT / "results" / "recipes.json").read_text(encoding="utf-8"))["runs"]
    for seed in {r["seed"] for r in numbers}:
        values = [r["nelbo"] for r in numbers if r["seed"] == seed]
        assert len(set(values)) == len(values)


def test_time_to_quality_runs_whole(quality, tmp_path):
    out = tmp_path / "time.json"
    quality.main(quality.Config(smoke=True, out=out))
    numbers = json.loads(out.read_text())
    assert [(r["recipe"], r["seed"]) for r in numbers["runs"]] == [
        *((recipe, seed) for seed in (0, 1) for recipe in ("plain", "ours", "ours", quality.TUNED)),
        *[(quality.LARGE, 0)] * 2,
    ]
    assert [p["chars"] for p in numbers["runs"][0]["points"]] == [4 * 1024, 8 * 1024]
    assert {"marks", "times_less", "times_less_tuned", "times_less_than_tuned", "plain_end"} <= numbers.keys()
    quality.main(quality.Config(smoke=True, out=out))
    assert json.loads(out.read_text())["runs"] == numbers["runs"]  # nothing was left to run
    quality.main(quality.Config(smoke=True, out=out, pilot=True))
    quality.main(quality.Config(smoke=True, out=out))
    tried = json.loads(out.read_text())
    assert tried["runs"] == numbers["runs"] and tried["marks"] == numbers["marks"]
    pairs = [(r["batch"], r["lr"]) for r in tried["pilot"]["runs"]]
    assert sorted(pairs) == quality.PAIRS and {r["seed"] for r in tried["pilot"]["runs"]} == {2}
    values = [r["nelbo"] for r in tried["pilot"]["runs"]]
    assert values == sorted(values) and len(set(values)) == 9


def test_tuned_adamw_has_the_batch_and_rate_that_its_pilot_found_best(quality):
    """And they are no end of what was tried: a smaller and a larger rate lose."""
    best = read_json(ROOT / "results" / "time_to_quality.json")["pilot"]["runs"][0]
    how, loss = quality.RECIPES[quality.TUNED]
    assert (how.batch_size, how.lr, how.optimizer) == (best["batch"], best["lr"], "adamw")
    assert min(lr for _, lr in quality.PAIRS) < best["lr"] < max(lr for _, lr in quality.PAIRS)
    ours, same = quality.RECIPES["ours"]
    assert same is loss and quality.replace(ours, optimizer="adamw", lr=how.lr, batch_size=how.batch_size) == how


def test_what_the_readme_says_of_the_recipe_is_what_was_measured():
    """At small AdamW, tuned, has more of the factor than Muon adds; at nano what Muon adds costs more operations."""
    small, nano = (read_json(ROOT / "results" / f"time_to_quality{at}.json") for at in ("_small", ""))
    assert {r["seed"] for r in small["runs"] if r["recipe"] in ("ours", "AdamW, tuned")} == {0, 1, 2}

    def said(numbers: dict, than: str = "", what: str = "chars", digits: int = 2) -> str:
        found = numbers[f"times_less{than}"][what]
        return f"{found['value']:.{digits}f} ± {found['stderr']:.{digits}f} times fewer"

    readme, than = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()), "_than_tuned"
    assert f"reads {said(small, digits=1)} characters" in readme
    assert f"reads {said(small, '_tuned', digits=1)}. Ours takes {said(small, than)} characters" in readme
    assert f"and {said(small, than, 'flops')} operations; at `nano` {said(nano, than)} characters, and more" in readme
    assert nano["times_less_than_tuned"]["flops"]["value"] < 1
    times = small["times_less"]["chars"]["value"]
    assert small["times_less_tuned"]["chars"]["value"] > times / 2 > small["times_less_than_tuned"]["chars"]["value"]


# The page


@pytest.fixture(scope="module")
def page(command):
    return command("page")


def row(variant: str, difference: float, clear: bool, seeds: int = 3) -> dict:
    found = {"difference": difference, "stderr": 0.0123, "clear": clear} if seeds > 1 else {}
    return {"factor": "a factor", "variant": variant, "nelbo": 2.0, "seeds": list(range(seeds)), **found}


def test_the_page_says_of_each_recipe_whether_it_helped(page, recipes):
    rows = [
        row("better", -0.2, True),
        row("worse", 0.3, True),
        row("noise", -0.4, False),
        row("one run", -0.9, True, 1),
        row("two", 0.1, False, 2),
    ]
    base = {"factor": "base", "variant": "base", "nelbo": 2.3456, "seeds": [0, 1, 2]}
    run = {"variant": "base", "recipe": vars(recipes.Recipe()), "steps": 500}
    runs = [run, run | {"variant": "two", "steps": 250}, run | {"variant": "better"}]
    numbers = {"summary": [base, *rows], "runs": runs, "not_run": ["never"], "made_by": {"command": "python x"}}
    text = page.recipes(numbers | {"sizes": recipes.SIZES["nano"], "chars": 1_024_000, "windows": 64})
    assert "| better | -0.2000 ± 0.0123 | helped |" in text and "| worse | +0.3000 ± 0.0123 | hurt |" in text
    assert "| noise | -0.4000 ± 0.0123 | not settled |" in text
    assert "| two | +0.1000 ± 0.0123 | 2 of 3 seeds |" in text and "| one run |" not in text
    assert "≤ 2.3456" in text and "Not yet run with all seeds: one run; two; never." in text
    assert "The base takes 500 steps; two takes 250, at the same learning rate." in text


def test_what_a_verdict_takes_is_what_a_search_calls_clear(command):
    """The number of standard errors in words is the one by which a difference is called clear."""
    sections, base = command("sections_of_recipes"), [{"seed": s, "nelbo": 2.0} for s in range(3)]
    assert "with 3 seeds the difference must be 4.3 standard errors" in sections.needed(3)
    for errors, said in ((4.2, "not settled"), (4.4, "hurt")):
        off = [errors * 0.01 + step * 0.01 * math.sqrt(3) for step in (-1, 0, 1)]  # its standard error: 0.01
        found = search.paired([{"seed": s, "nelbo": 2.0 + d} for s, d in enumerate(off)], base)
        assert found["stderr"] == pytest.approx(0.01) and sections.verdict(found) == said


def test_the_page_says_what_the_names_of_variants_mean(command, page, recipes):
    """No explanation of what no search has; each of those that need one, in each table that has it."""
    sections, ablations = command("sections_of_recipes"), command("ablations")
    assert sections.MEANS.keys() <= recipes.VARIANTS.keys() | ablations.VARIANTS.keys()
    for factor in ("objective", "attention", "masks", "embedding"):
        assert recipes.FACTORS[factor].keys() <= sections.MEANS.keys()
    text = page.recipes(read_json(ROOT / "results" / "recipes.json"))
    for name in sections.MEANS.keys() & recipes.VARIANTS.keys():
        assert f"*{name}*, {sections.MEANS[name]}" in text
    assert "*t by adaLN-Zero*" not in text and "batch 8 takes 1,000, batch 32 takes 250" in text


def test_bounds_are_called_bounds_and_exact_values_are_not(page):
    """The same value, once of a GPT, which is exact, and once of a diffusion model."""
    rows = [
        {"epochs": 10, "kind": kind, "nats_per_char": 1.5, "stderr": 0.01, "regulariser": "none", "runs": 1}
        | {"best_epoch": 7.2}
        | {"untried": ["dropout 7"] if kind == "gpt" else []}
        for kind in ("gpt", "diffusion")
    ]
    runs = [r | {"seed": 0, "steps": 9, "curve": [[9, 1.4, 1.8]]} for r in rows]
    numbers = {"characters": 50_000, "size": "nano", "choose": 64, "count": 371, "length": 256}
    text = page.epochs(numbers | {"summary": rows, "runs": runs})
    assert "≤ 1.600 for diffusion and at 1.600 for the GPT (seed 0, the windows that choose)" in text
    assert "Not tried yet: `dropout 7` (gpt, 10 epochs)." in text and "64 held-out windows" in text
    assert "| 10 | gpt | 1.500 ± 0.010 | 7 epochs |" in text
    assert "| 10 | diffusion | ≤ 1.500 ± 0.010 | 7 epochs |" in text
    run = {"recipe": "published", "parameters": 371_010, "steps": 5000, "bound": 3.4, "bound_stderr": 0.01}
    run |= {"exam": 3.35, "exam_stderr": 0.001, "exam_training": 3.29, "exam_training_stderr": 0.002}
    known, floors = {"training": 3.31, "held_out": 3.32}, {"unigram": 3.3, "unigram_training": 3.2}
    ungraded = {name: value for name, value in run.items() if "training" not in name}
    models = {"mlp": {"runs": [run, ungraded | {"recipe": "ours"}], "published": known, **floors}}
    text = page.budgets({"batch": 64, "length": 256, "models": models})
    assert "| ≤ 3.4000 ± 0.0100 | 3.3500 ± 0.0010 (3.32) | 3.2900 ± 0.0020 (3.31) |" in text
    assert text.count("(3.3") == 2  # what was published stands beside its own recipe only
    assert "stands at 3.3000 on held-out text and at 3.2000 on training text" in text
    assert "| ours | 5,000 | ≤ 3.4000 ± 0.0100 | 3.3500 ± 0.0010 | not measured |" in text
    assert "but not that of: mlp." in text
    for r in models["mlp"]["runs"]:
        r["given"] = 1
    assert "first character is given to the bound." in page.budgets({"batch": 64, "length": 256, "models": models})


@pytest.fixture
def reading():
    """reading(*gaps): GPT at 2, diffusion off by each gap at 10, 30 and 90 epochs. Seeds leave an error of 0.05 and 3.7
    degrees of freedom, so 0.143 is clear; the text adds what it is given, spread over 400 windows."""

    def numbers(*gaps: float, runs: int = 3, text: float = 0.0, **error: float) -> dict:
        error, rows, each = {"diffusion": 0.03, "gpt": 0.04} | error, [], []
        for n, gap in zip((10, 30, 90), gaps, strict=False):
            for k in error:
                row = {"epochs": n, "kind": k, "nats_per_char": 2 + gap * (k == "diffusion"), "regulariser": "r"}
                rows.append(row | {"stderr": error[k], "runs": runs})
                far = text * 399**0.5 * (k == "gpt")  # on every other window so much more, on the others less
                values = [row["nats_per_char"] + sign * far for sign in (1, -1)] * 200
                each += [row | {"seed": s, "windows": [v + (s - 1) / 8 for v in values]} for s in range(3)]
                each.append(row | {"regulariser": "another", "seed": 0, "windows": [7.0] * 400})
        return {"summary": rows, "runs": each}

    return numbers


def test_the_crossing_is_stated_with_its_error_and_only_where_it_is_clear(command, reading):
    crossing = command("sections_of_epochs").crossing
    text = crossing(reading(0.5, 0.142, -0.2))
    assert "+0.500 ± 0.050 nats at 10, +0.142 ± 0.050 nats at 30, -0.200 ± 0.050 nats at 90 epochs planned" in text
    assert "clearly below the GPT's value at 90 epochs, and clearly above it at 10. Each" in text
    assert "≤ 1.800 with 90 epochs against 2.000 with 10, -0.200 ± 0.050, clearly apart" in text
    assert "clearly above it up to 10; at 30 the two cannot be told apart" in crossing(reading(0.5, -0.142))
    assert "clearly below the GPT's value at 30" in crossing(reading(0.5, -0.144))
    assert "no crossing is seen in up to 30 epochs" in crossing(reading(0.5, 0.3))
    assert "no crossing is seen in up to 10 epochs" in crossing(reading(0.1))
    assert "at 10 epochs, the fewest of which we are sure" in crossing(reading(-0.5, 0.1))
    assert "No number of epochs" in crossing(reading(0.5, runs=1)) and "No number" in crossing(reading())
    alone = {"diffusion": 0.05, "gpt": 0.0005}  # as good as one of them alone: two degrees of freedom, 4.3 errors
    assert "+0.210 ± 0.050, which is not clear" in crossing(reading(0.21, **alone))
    assert "+0.220 ± 0.050, clearly apart" in crossing(reading(0.22, **alone))


def test_a_difference_has_an_error_from_the_text_too(command, reading):
    """Clear by its seeds, a difference that comes from some windows only is not clear; its error adds in squares."""
    crossing = command("sections_of_epochs").crossing
    assert "-0.250 ± 0.050, clearly apart" in crossing(reading(-0.25))
    assert "-0.250 ± 0.130, which is not clear" in crossing(reading(-0.25, text=0.12))  # 0.05, 0.12, 0.13
    assert "-0.280 ± 0.130, clearly apart" in crossing(reading(-0.28, text=0.12))  # by now most of it is of the text


def test_the_readme_shows_what_has_run_with_three_seeds_and_which_is_a_bound(command):
    how = {"stderr": 0.01, "runs": 3, "untried": []}
    rows = [{"kind": k, "epochs": n, "nats_per_char": 2.5, **how} for n in (10, 30, 90) for k in ("gpt", "diffusion")]
    rows[3]["runs"], rows[4]["runs"] = 2, 1
    runs = [
        {"kind": k, "epochs": 9, "regulariser": "none", "seed": 0, "curve": [[9, 0, 3.0]]} for k in ("gpt", "diffusion")
    ]
    numbers = {"size": "nano", "characters": 50_000, "summary": rows, "runs": runs, "made_by": {"command": "python x"}}
    text = command("sections_of_epochs").scarce(numbers)
    assert text.count("| ≤ 2.500 ± 0.010 | 2.500 ± 0.010 |") == 1 and "| 10 | ≤" in text and "50,000" in text


def test_what_the_readme_says_of_scarce_text_is_what_was_measured(command):
    """Planned for 1,000 readings they cannot be told apart; at its best the GPT, given holes, is clearly ahead."""
    sections, numbers = command("sections_of_epochs"), read_json(ROOT / "results" / "epochs.json")
    rows, runs = numbers["summary"], numbers["runs"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    pairs, (ours, other) = sections.both(rows), sections.at_best(rows)
    assert (ours["epochs"], other["epochs"]) == (max(pairs), 100) == (1000, 100)
    assert other["regulariser"] == "masked inputs, weight decay 1" and ours["regulariser"] == "weight decay 1"
    assert f"loses least after {other['best_epoch']:.0f} of 100 planned" in readme
    gap, error, sure = sections.apart(ours, other, runs)
    assert f"bound is {gap:.3f} ± {error:.3f} nats above that" in readme and gap > 0 and sure
    assert f"comes within {100 * gap / other['nats_per_char']:.0f} % of the GPT's" in readme
    assert not sections.apart(*pairs[1000], runs)[2] and pairs[1000][0]["best_epoch"] > 980
    ends = [statistics.mean(sections.plain(runs)[kind, 1000]["curve"][-1][1:]) for kind in sections.KINDS]
    assert ends[1] > math.log(65) > 1.5 * ends[0]  # 65 characters: what a blind guess costs
    assert pairs[300][1]["nats_per_char"] < pairs[1000][1]["nats_per_char"]  # to plan for more gains the GPT nothing
    nats_of, found = command("epochs").nats_of, {"diffusion": [], "gpt": []}
    for r in (r for r in runs if r["seed"] == 0 and r["regulariser"] in command("epochs").TRIED[r["kind"]]):
        if r["regulariser"] != other["regulariser"]:
            found[r["kind"]].append(nats_of(r))
    assert min(found["diffusion"]) < min(found["gpt"])  # who seemed to win: on the windows that choose, as all have run


def test_the_regulariser_that_was_looked_at_more_often_is_chosen_without_that_too(command):
    """At ten moments of each run, which is how often the others were looked at."""
    epochs, runs = command("epochs"), read_json(ROOT / "results" / "epochs.json")["runs"]
    for n in (100, 300):
        tried = [r for r in runs if (r["kind"], r["epochs"], r["seed"]) == ("gpt", n, 0)]
        assert {len(r["curve"]) for r in tried if "rate" not in r["regulariser"]} > {10}
        for r in tried:
            r["curve"] = [point for point in r["curve"] if epochs.due(point[0], r["steps"], 10)]
        assert epochs.chosen(tried, "gpt", n, 0) == ("masked inputs, weight decay 1", [])


def test_what_reading_on_costs_is_the_end_of_the_longest_run_that_nothing_holds_back(command):
    runs = [
        {"kind": kind, "epochs": n, "regulariser": how, "seed": seed, "steps": n}
        | {"curve": [[1, 9.0], [n, value - 1, value + 1]]}
        for kind, n, how, seed, value in [
            ("gpt", 10, "none", 0, 2.5),
            ("gpt", 30, "none", 0, 4.5),
            ("gpt", 30, "none", 1, 4.7),
            ("gpt", 30, "both", 0, 2.1),
            ("diffusion", 10, "none", 0, 3.2),
            ("diffusion", 30, "none", 0, 2.6),
            ("diffusion", 100, "none", 0, 2.3),  # the GPT has not read on so long
        ]
    ]
    text = command("sections_of_epochs").unchecked(runs)
    assert "30 epochs end at ≤ 2.600 for diffusion and at 4.500 for the GPT" in text
    whole = runs[0] | {"epochs": 300, "curve": [[10, 0, 0]] * 7}
    early = [runs[3] | {"epochs": n, "curve": [[5, 0, 0]] * 5, "steps": 10} for n in (10, 300)]  # halfway, of ten
    looks = command("sections_of_epochs").looks([*runs, whole, *early])
    assert "2 times (diffusion: 10, 30, 100 epochs; gpt: 10, 30 epochs) or 7 times (gpt: 300 epochs), but" in looks
    assert looks.count("but") == 1 and "but 10 times with both (gpt: 10, 300 epochs); between" in looks


def test_another_rate_is_compared_with_the_same_regulariser_and_seed(command):
    """On the windows that count, where both have run."""

    def run(name, seed, nats, **counted):
        counted = counted or {"windows": [nats]}
        return {"kind": "gpt", "epochs": 10, "regulariser": name, "seed": seed, "nats_per_char": nats} | counted

    runs = [
        *(run("dropout", seed, nats) for seed, nats in enumerate((2.0, 2.5, 4.0))),
        *(run("dropout, rate doubled", seed, nats) for seed, nats in ((0, 1.75), (1, 2.25), (2, 3.9))),
        run("dropout, rate halved", 0, 2.125),
        run("dropout, rate halved", 1, 9.0, searched=True),  # on the windows that choose only
        run("dropout, rate halved", 3, 9.0),
    ]
    said = command("sections_of_epochs").rates(runs)
    assert "doubled -0.200 ± 0.050 (gpt, 10 epochs, dropout); halved +0.125, one seed (gpt" in said
    assert command("sections_of_epochs").rates(runs[:3]) == ""


def test_a_search_at_another_size_stands_beside_the_first(page):
    """By name, not by place: the other size has its own order and has not run everything."""
    base = {"factor": "base", "variant": "base", "nelbo": 1.7654, "seeds": [0, 1, 2]}
    first = [row("one", -0.2, True), row("two", 0.3, True), row("three", -0.1, False)]
    here = [row("two", -0.4, True), row("one", 0.1, False), row("three", 0.5, True, 2)]
    size = {"sizes": {"n_layer": 4, "n_head": 4, "d_model": 128, "seq_len": 256}, "chars": 400, "windows": 64}
    numbers = size | {"summary": [base, *here], "not_run": ["four"]}
    text = page.recipes_again(numbers, {"summary": [base, *first], "chars": 100})
    lines = [line for line in text.splitlines() if "±" in line]
    assert len(lines) == 2 and "three" not in "".join(lines)
    assert lines[0].endswith("two | -0.4000 ± 0.0123 | helped | +0.3000 ± 0.0123 | hurt |")
    assert lines[1].endswith("one | +0.1000 ± 0.0123 | not settled | -0.2000 ± 0.0123 | helped |")
    assert "400 characters, 4 times as many" in text and "≤ 1.7654" in text
    assert "Not yet run with all seeds: three; four." in text


def test_the_page_says_what_an_option_is_worth(page):
    rows = [row("good", -0.2, True), row("bad", 0.3, True), row("noise", -0.4, False), row("half", -0.9, True, 2)]
    base = {"factor": "base", "variant": "base", "nelbo": 2.3456, "seeds": [0, 1, 2]}
    run = {"training": {"lr": 0.006, "batch_size": 16}, "parameters": 344_448}
    numbers = {"summary": [base, *rows], "runs": [run], "not_run": ["never"], "made_by": {"command": "python x"}}
    text = page.ablations(numbers | {"chars": 1_024_000, "windows": 64})
    assert "| good | -0.2000 ± 0.0123 | helped |" in text and "| bad | +0.3000 ± 0.0123 | hurt |" in text
    assert "| noise | -0.4000 ± 0.0123 | not settled |" in text and "| half |" not in text
    assert "≤ 2.3456" in text and "Not yet run with all seeds: half; never." in text


def test_the_page_is_what_the_numbers_say(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.page()


def test_a_command_without_its_numbers_is_listed_as_not_yet_run(page, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "ROOT", tmp_path)
    assert page.page().count("not yet run |") == len(page.COMMANDS)
    monkeypatch.undo()
    named = {word for command in page.COMMANDS for word in command.split() if word.endswith(".py")}
    assert all((ROOT / name).exists() for name in named)
    pages = ("tables", "figures", "page", "sections")
    scripts = [path for path in (ROOT / "results").glob("*.py") if not path.stem.startswith(pages)]
    commands = {f"results/{path.name}" for path in scripts}
    here = {name for name in named if name.startswith("results/")}
    assert here == commands
