"""The bug museum: every bug shows its symptom, every repair passes, every frame is empty, usual mistakes are named."""

import importlib
import inspect
import math
import re
import sys

import pytest
import torch

from microdlm.oracle import MarkovDenoiser
from microdlm.runs import ROOT
from microdlm.samplers import ancestral
from microdlm.schedules import SCHEDULES
from microdlm.transformer import Transformer, TransformerConfig

HERE = ROOT / "notebooks"
sys.path.insert(0, str(HERE))  # as it is for whoever opens the notebook

import build  # noqa: E402
from check import museum as checks  # noqa: E402
from check.exercise import EMPTY  # noqa: E402

repairs = importlib.import_module("solutions.museum")
CELLS = build.assemble(HERE / "source" / "8_bug_museum.py").cells
NAMES = [name for name, check in vars(checks).items() if getattr(check, "is_exercise", False)]
CALL = re.compile(r"check\.museum\.(\w+)\((my_\w+)\)")


def rooms() -> list[list]:
    """The notebook's cells: the entrance, then one list for each exhibit. Headings divide them."""
    parts = [[]]
    for cell in CELLS:
        before, *after = re.split(r"^(?=## )", cell.source, flags=re.M) if cell.cell_type == "markdown" else [None]
        parts[-1].append((cell.cell_type, cell.source if before is None else before))
        parts += [[("markdown", part)] for part in after]
    return [part for i, part in enumerate(parts) if i == 0 or part[0][1].startswith("## Exhibit")]


ENTRANCE, *EXHIBITS = rooms()
MADE = {CALL.search(text)[1]: part for part in EXHIBITS for kind, text in part if kind == "code" and CALL.search(text)}


def code(part: list) -> list[str]:
    return [text for kind, text in part if kind == "code"]


def story(name: str) -> str:
    return "\n".join(text for kind, text in MADE[name] if kind == "markdown")


@pytest.fixture(scope="module")
def entrance():
    """What the first cells leave behind. Pictures are drawn and not shown."""
    pytest.importorskip("matplotlib").use("agg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICRODLM_SMOKE", "1")
        patch.setenv("MICRODLM_STILL", "1")
        hall = {"__name__": "museum"}
        for text in code(ENTRANCE):
            exec(text, hall)
        patch.setattr(hall["plt"], "show", lambda: hall["plt"].close("all"))
        yield hall


@pytest.fixture(scope="module")
def visit(entrance):
    """visit(name) -> what an exhibit defines, run on its own after the entrance, with its repair hung in the frame:
    every assertion in it holds, and what it shows to those who found the bug runs too."""
    seen = {}

    def go(name: str) -> dict:
        if name not in seen:
            seen[name] = dict(entrance)
            for text in code(MADE[name]):
                if call := CALL.search(text):
                    seen[name][call[2]] = getattr(repairs, name)
                exec(text, seen[name])
        return seen[name]

    return go


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- twelve exhibits, each with all its parts ----


def test_there_are_a_dozen_and_each_has_a_repair():
    assert len(EXHIBITS) == len(MADE) == len(NAMES) == 12
    assert list(MADE) == NAMES, "in the order of the checks"
    assert [part[0][1].split(".")[0] for part in EXHIBITS] == [f"## Exhibit {i}" for i in range(1, 13)]
    assert all(callable(getattr(repairs, name)) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_plate_is_complete(name):
    text = story(name)
    assert text.count("*Found ") == text.count("**Question.**") == text.count("**Moral.**") == 1
    assert text.count("<details><summary>Hint</summary>\n\n") == text.count("</details>") == 1
    assert text.index("*Found") < text.index("**Question.**") < text.index("<details>") < text.index("**Moral.**")
    moral = text.split("**Moral.**")[1].split("\n\n")[0]
    assert len(moral) < 250


@pytest.mark.parametrize("name", NAMES)
def test_the_frame_is_empty_and_as_large_as_the_bug(name):
    cells = code(MADE[name])
    at = next(i for i, text in enumerate(cells) if CALL.search(text))
    space: dict = {}
    exec(cells[at - 1], space)
    bug = next(text for text in cells if re.search(r"^def bug_", text, re.M))
    mine, his = CALL.search(cells[at])[2], re.search(r"def (bug_\w+)(\(.*?\)):", bug)
    assert re.search(r"def my_\w+(\(.*?\)):", cells[at - 1])[1] == his[2]
    assert mine.removeprefix("my_") == his[1].removeprefix("bug_")
    assert list(inspect.signature(getattr(repairs, name)).parameters) == list(inspect.signature(space[mine]).parameters)
    assert space[mine](*[None] * his[2].count(",") + [None]) is None


def test_the_way_out_names_every_exhibit():
    table = CELLS[-1].source
    assert {int(n) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.M) for n in row.split(",")} == set(range(1, 13))
    files = set(re.findall(r"`(test_\w+\.py)`", table))
    assert len(files) == 7 and all((ROOT / "tests" / name).exists() for name in files)


# ---- checks ----


@pytest.mark.parametrize("name", NAMES)
def test_the_repair_is_right(name, capsys):
    assert getattr(checks, name)(getattr(repairs, name)) is True
    assert capsys.readouterr().out.startswith("Right. ")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_frame_is_told_where_to_begin(name, capsys):
    assert getattr(checks, name)(lambda *args: None) is False
    assert capsys.readouterr().out == f"Not yet. {EMPTY}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_check_never_raises(name, capsys):
    for answer in (lambda *args: 1 / 0, "no", [], torch.zeros(2, 3), lambda *args: torch.zeros(7, 7, 7), {}, object):
        assert getattr(checks, name)(answer) is False
        assert capsys.readouterr().out.startswith("Not yet. ")


BUG = {  # what the check says of the exhibit itself
    "counted_twice": "1/t, capped or not, does it again",
    "batch_ratio": "still one ratio for the batch",
    "wrong_axis": "`:` stands for one axis",
    "overwrite": "is drawn again, and so is the prompt",
    "backwards": "t still rises",
    "came_back": "a hidden token comes back",
    "first_loss": "standard deviation of sqrt(D)",
    "gumbel": "nothing above 16.64",
    "spaces": "lacks ' '",
    "resume": "none fits",
    "frames": "These are frames",
    "ranking": "still its own exam",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_bug_itself_is_recognised(name, visit, capsys):
    bug = next(value for key, value in visit(name).items() if key.startswith("bug_"))
    capsys.readouterr()
    assert getattr(checks, name)(bug) is False
    assert BUG[name] in capsys.readouterr().out


# ---- wrong repairs, each with a part of the hint that must be given ----


def states(sampler, denoiser, x):
    n = len(list(sampler(denoiser, x)))
    return n, n * x.numel()


def reading(tokens):
    """A my_cost that counts passes rightly, and `tokens`(passes, x) in its own way."""
    return lambda sampler, denoiser, x: (n := repairs.frames(sampler, denoiser, x)[0], tokens(n, x))


def piled(x_0, shares, mask_id, rng):
    """Every page hides a share of the one before it."""
    pages, x = [], x_0
    for u in shares:
        x = torch.where(torch.rand(len(x_0), generator=rng) < u, mask_id, x)
        pages.append(x)
    return torch.stack(pages)


def anew(x_0, shares, mask_id, rng):
    return torch.stack([repairs.came_back(x_0, u[None], mask_id, rng)[0] for u in shares])


def scored(value):
    """A my_rank that draws times by the run's schedule, and reduces (nll, is_masked, weight) in its own way."""

    def mine(denoiser, schedule, x_0, mask_id, rng):
        t = (torch.rand(len(x_0), generator=rng).double()).clamp(min=1e-4)
        rate = torch.rand(x_0.shape, generator=rng) >= schedule.alpha(t)[:, None]
        log_p = denoiser(x_0.masked_fill(rate, mask_id)).gather(-1, x_0[..., None])[..., 0]
        return value(-log_p.masked_fill(~rate, 0), rate, schedule.weight(t)).item()

    return mine


def load(rename, strict=True):
    def mine(model, saved):
        model.load_state_dict({rename(name): p for name, p in saved.items()}, strict=strict)
        return model

    return mine


WRONG = [
    ("counted_twice", lambda nll, m, t: nll.sum(1) / m.sum(1).clamp(min=1) / t, "Take one of them away"),
    ("counted_twice", lambda nll, m, t: nll.sum(1) / 8, "needs the weight"),
    ("counted_twice", lambda nll, m, t: nll.sum(1) / t, "the sum over a text"),
    ("counted_twice", lambda nll, m, t: nll.sum(1) * (1 / t).clamp(max=10) / 8, "what is left is no bound"),
    ("counted_twice", lambda nll, m, t: nll.sum(1) * t / 8, "upside down"),
    ("counted_twice", lambda nll, m, t: (nll.sum(1) / t / 8).mean(), "one number for the whole batch"),
    ("counted_twice", lambda nll, m, t: nll.sum(1) / m.sum(1), "holds nan"),
    ("batch_ratio", lambda nll, m: nll.mean(), "Visible tokens cost nothing"),
    ("batch_ratio", lambda nll, m: nll.sum(1).mean(), "the sum over the hidden tokens of a text"),
    ("batch_ratio", lambda nll, m: (nll.sum(1) / m.sum(1) ** 2).mean(), "1/k twice"),
    ("batch_ratio", lambda nll, m: (nll.sum(1) / m.sum(1)).sum(), "the sum over the texts"),
    ("batch_ratio", lambda nll, m: nll.sum(1) / m.sum(1), "a single number"),
    ("wrong_axis", lambda z, m: z.index_fill(1, torch.tensor(m), -math.inf), "`...` for as many as there are"),
    ("wrong_axis", lambda z, m: z.index_fill(2, torch.tensor(m), 0.0), "0 is a logit like any other"),
    ("wrong_axis", lambda z, m: z.index_fill(2, torch.tensor(z.size(-1) - 1), -math.inf), "forbid mask_id"),
    ("wrong_axis", lambda z, m: z.index_fill_(2, torch.tensor(m), -math.inf), "changes what it is given"),
    ("wrong_axis", lambda z, m: z, "MASK keeps probability"),
    ("wrong_axis", lambda z, m: z.softmax(-1).index_fill(2, torch.tensor(m), -math.inf), "something else has changed"),
    ("overwrite", lambda x, d, o, m: torch.where(o, d, x), "is_open says what is visible afterwards"),
    ("overwrite", lambda x, d, o, m: torch.where(x == m, d, x), "Every MASK opens at once"),
    ("overwrite", lambda x, d, o, m: torch.where(x != m, d, x), "only the visible tokens"),
    ("backwards", lambda n: torch.linspace(1, 0, n), "told t = 0"),
    ("backwards", lambda n: 1 - (torch.arange(n) + 1) / n, "the page that comes out"),
    ("backwards", lambda n: (torch.arange(n) + 1) / n, "begin at 1"),
    ("backwards", lambda n: n - torch.arange(n), "divide by num_steps"),
    ("came_back", anew, "comes back"),
    ("came_back", piled, "the shares pile up"),
    ("came_back", lambda x, u, m, g: repairs.came_back(x, u, m, g.manual_seed(42)), "you seed inside"),
    ("came_back", lambda x, u, m, g: repairs.came_back(x, 1 - u.flip(0) ** 2, m, g), "you hide the shares"),
    ("came_back", lambda x, u, m, g: repairs.came_back((x + 1) % 4, u, m, g), "has become another one"),
    ("first_loss", lambda V, D, g: torch.zeros(V, D), "the same row"),
    ("first_loss", lambda V, D, g: torch.randn(V, D, generator=g) / D**0.5, "half a nat above"),
    ("first_loss", lambda V, D, g: torch.randn(V, D, generator=g) / 5, "too large"),
    ("gumbel", lambda shape, g: -torch.log(-torch.log(torch.rand(shape, generator=g).double())), "float32, then made"),
    ("gumbel", lambda shape, g: -repairs.gumbel(shape, g), "Upside down"),
    ("gumbel", lambda shape, g: (-repairs.gumbel(shape, g)).exp(), "exponential noise"),
    ("gumbel", lambda shape, g: repairs.gumbel(shape, seeded()), "generator=rng"),
    ("gumbel", lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64), "mean 0.577"),
    ("spaces", lambda text, a: [a.index(c) for c in text if c in a], "'Enter Zo.' without a word"),
    ("spaces", lambda text, a: [max(a.find(c), 0) for c in text], "without a word"),
    ("spaces", lambda text, a: [a.index(c) for c in text], "says 'substring not found'"),
    ("spaces", lambda text, a: [a.index(c) for c in text.strip()], "lacks '\\n'"),
    ("spaces", lambda text, a: [max(a.find(c), 0) for c in text.replace(" ", "Ġ")], "some have become others"),
    ("spaces", lambda text, a: text, "Return a list of ids"),
    ("resume", load(lambda name: name[len("_orig_mod.") :], strict=False), "a model that was not compiled are lost"),
    ("resume", load(lambda name: name.removeprefix("_orig_mod."), strict=False), "does not get its weights"),
    (
        "resume",
        lambda model, saved: load(lambda name: name.removeprefix("_orig_mod."), strict=False)(
            getattr(model, "_orig_mod", model), saved
        ),
        "without the embedding",
    ),
    ("resume", load(str), "stopped with RuntimeError"),
    ("frames", states, "A frame is a picture"),
    ("frames", reading(lambda n, x: n * x.numel()), "read the whole page"),
    ("frames", reading(lambda n, x: n), "These are the passes again"),
    ("frames", lambda s, d, x: (0, 0), "You count 0 passes"),
    ("frames", lambda s, d, x: 38, "Return 2 things"),
    ("ranking", scored(lambda nll, m, w: nll.mean()), "The weight is missing"),
    ("ranking", scored(lambda nll, m, w: (nll.sum(1) / m.sum(1).clamp(min=1)).mean()), "draw k uniformly"),
    ("ranking", scored(lambda nll, m, w: (w * nll.sum(1) / m.sum(1).clamp(min=1)).mean()), "exhibit 1"),
    ("ranking", scored(lambda nll, m, w: nll.sum() / 1000), "and the bound is"),
]


@pytest.mark.parametrize("name, answer, hint", WRONG, ids=[f"{n}-{h[:20]}" for n, _, h in WRONG])
def test_a_wrong_repair_gets_the_hint_that_is_meant_for_it(name, answer, hint, capsys):
    assert getattr(checks, name)(answer) is False
    assert hint in capsys.readouterr().out


def test_every_exhibit_knows_three_wrong_repairs():
    assert min(sum(name == n for n, *_ in WRONG) for name in NAMES) >= 3


# ---- other right answers ----


def weighted(denoiser, schedule, x_0, mask_id, rng):
    return scored(lambda nll, m, w: (w * nll.sum(1) / 8).mean())(denoiser, schedule, x_0, mask_id, rng)


RIGHT = [
    ("counted_twice", lambda nll, m, t: nll.sum(1) / m.sum(1).clamp(min=1), "L / (L + 1)"),
    ("wrong_axis", lambda z, m: z.index_fill(2, torch.tensor(m), -math.inf).log_softmax(-1), "The last axis"),
    ("wrong_axis", lambda z, m: z.index_fill(2, torch.tensor(m), -1e9), "The last axis"),
    ("backwards", lambda n: [1 - i / n for i in range(n)], "From 1 down"),
    ("first_loss", lambda V, D, g: 0.02 * torch.randn(V, D, generator=g), "know"),
    ("gumbel", lambda s, g: -torch.empty(s, dtype=torch.float64).exponential_(generator=g).log(), "53 bits"),
    ("spaces", lambda text, a: torch.tensor([{c: i for i, c in enumerate(a)}[c] for c in text]), "by name"),
    ("ranking", weighted, "One ruler"),
]


@pytest.mark.parametrize("name, answer, praise", RIGHT, ids=[f"{n}-{p}" for n, _, p in RIGHT])
def test_another_right_answer_is_right_too(name, answer, praise, capsys):
    assert getattr(checks, name)(answer) is True
    assert praise in capsys.readouterr().out


# ---- every bug shows its symptom: a number that is known without the notebook ----


def test_counted_twice_inflates_the_loss_of_a_perfect_model_as_predicted(visit):
    hall = visit("counted_twice")
    t = (torch.arange(100_000).double() + 0.5) / 100_000
    predicted = ((1 / t).clamp(max=10) * (1 - (1 - t) ** 16)).mean() * math.log(4)  # a text without MASK counts 0
    found = hall["bug_loss"](*hall["dice"](20_000))
    assert abs(found.mean() - predicted) < 4 * found.std() / 20_000**0.5
    assert predicted > 2.7 * math.log(4)


def test_the_batch_ratio_is_the_curve_weighed_by_k(visit):
    hall = visit("batch_ratio")
    curve, k = hall["curve"], torch.arange(1, 9)
    nll, is_masked = (curve[:, None] * (torch.arange(8) < k[:, None])).double(), torch.arange(8) < k[:, None]
    assert hall["bug_score"](nll, is_masked) == pytest.approx(((k * curve).sum() / 36).item())
    assert repairs.batch_ratio(nll, is_masked) == pytest.approx(curve.mean().item())


@pytest.mark.parametrize("mask_id", [0, 3])
def test_the_wrong_axis_loses_a_position_and_keeps_mask(visit, mask_id):
    p = visit("wrong_axis")["bug_forbid"](torch.randn(2, 6, 5), mask_id).softmax(-1)
    assert p[:, mask_id].isnan().all()
    assert (torch.cat([p[:, :mask_id], p[:, mask_id + 1 :]], 1)[..., mask_id] > 0).all()


def test_the_overwriting_sampler_changes_its_prompt_and_the_repaired_one_nothing(visit):
    hall = visit("overwrite")
    mask_id, prompt = hall["mask_id"], len("Enter Mira.\nMIRA: ")
    for pages, stays in ((hall["spoilt"], False), (hall["write"](repairs.overwrite), True)):
        assert torch.equal(pages[-1, :prompt], pages[0, :prompt]) is stays
        visible = pages[:-1] != mask_id
        assert torch.equal(pages[1:][visible], pages[:-1][visible]) is stays
        assert (pages[-1] != mask_id).all()


def test_the_backward_clock_costs_what_the_table_says(visit):
    """At every noise the table of that hour is better than the one of the reversed hour."""
    hall = visit("backwards")
    assert hall["bug_times"](10)[0] == 0 and hall["bug_times"](10)[-1] == 0.9
    assert hall["nats"](lambda u: 1 - u) > hall["nats"](lambda u: u) + 0.2 > hall["untold"] + 0.2


def test_as_many_letters_come_back_as_chance_says(visit):
    u, L = torch.linspace(0, 1, 11), 20_000
    pages = visit("came_back")["bug_pages"](torch.zeros(L).long(), u, 1, seeded())
    back = ((pages[:-1] == 1) & (pages[1:] == 0)).sum().item()
    p = u[:-1] * (1 - u[1:])  # hidden in one row, visible in the next: two independent coins
    assert abs(back - L * p.sum()) < 4 * (L * (p * (1 - p)).sum()) ** 0.5


def test_the_loud_start_is_the_expected_maximum(visit):
    """logits ~ N(0, D): their log-sum-exp is near their largest, and a target's is 0 on average."""
    hall = visit("first_loss")
    loss, spread = hall["loss"], hall["spread"]
    assert spread == pytest.approx(512**0.5, rel=0.02)
    assert loss == pytest.approx(spread * (2 * math.log(26_000)) ** 0.5, rel=0.2)
    quiet, _ = hall["first_loss"](repairs.first_loss)
    assert quiet == pytest.approx(math.log(26_000), abs=0.02)


def test_float32_noise_has_a_ceiling_and_the_formula_says_what_it_costs(visit):
    hall = visit("gumbel")
    u = (-(-hall["bug_noise"]((2**16,), seeded()).double()).exp()).exp()
    assert hall["bug_noise"]((8,), seeded()).dtype == torch.float32 and u.max() < 1
    top = torch.tensor(1 - 2.0**-24)  # the largest number below 1 that torch.rand can return
    assert -torch.log(-torch.log(top)) == pytest.approx(24 * math.log(2), abs=1e-3)
    for bits, q in ((6, 2.0**-6), (8, 2.0**-9)):  # every pair of a grid point with a fine one, not a draw
        grid = torch.arange(1, 2**bits).double() / 2**bits
        wins = torch.exp(-torch.exp(-(math.log(q) - (-grid.log()).log()))).sum() / 2**bits  # P(other noise < ours)
        exact = 2.0**-bits * sum((1 - j / 2**bits) ** (1 / q) for j in range(1, 2**bits))
        assert wins == pytest.approx(exact, rel=1e-9)
        assert wins / q == pytest.approx(float(hall["drawn_as_it_should"](q, bits)), rel=0.05)


def test_without_its_spaces_a_prompt_is_no_text_of_the_language(visit):
    hall = visit("spaces")
    decode, alphabet = hall["tokenizer"].decode, hall["tokenizer"].alphabet
    assert decode(hall["bug_encode"]("Enter Mira.", alphabet)) == "EnterMira."
    assert decode(repairs.spaces("Enter Mira.", alphabet)) == "Enter Mira."
    nll = [hall["play"].nll(torch.tensor([encode("Enter Mira.", alphabet)])) for encode in
           (hall["bug_encode"], repairs.spaces)]  # fmt: skip
    assert nll[0].isinf() and nll[1].isfinite()


def test_a_resume_that_is_not_strict_changes_nothing(visit):
    net = Transformer(TransformerConfig(5, 4, n_layer=1, n_head=1, d_model=4), seeded())
    before = {name: p.clone() for name, p in net.state_dict().items()}
    other = Transformer(TransformerConfig(5, 4, n_layer=1, n_head=1, d_model=4), seeded(1))
    visit("resume")["bug_load"](net, torch.compile(other).state_dict())
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    repairs.resume(net, torch.compile(other).state_dict())
    assert all(torch.equal(p, other.state_dict()[name]) for name, p in net.state_dict().items())


def test_frames_are_no_passes(visit):
    hall, x = visit("frames"), torch.full((1, 64), 8)

    def blank(x_t, **options):
        return torch.zeros(*x_t.shape, 9)

    def sampler(denoiser, x):
        return ancestral(denoiser, x, 8, num_steps=500, rng=seeded())

    assert hall["bug_cost"](sampler, blank, x) == (501, 501 * 64)
    passes, tokens = repairs.frames(sampler, blank, x)
    assert passes <= 64 and tokens == 64 * passes
    assert hall["cost"]["diffusion"] == (38, 9120) and hall["cost"]["GPT, without a cache"] == (224, 28_560)


def test_the_worst_run_wins_its_own_exam_and_loses_on_the_ruler(visit):
    hall = visit("ranking")
    language = MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    x_0 = language.sample(10_000, 8, seeded(5))
    runs = {name: (denoiser, SCHEDULES[name], x_0, 2) for name, denoiser in hall["runs"].items()}
    own = {name: hall["bug_rank"](*run, seeded(1)) for name, run in runs.items()}
    ruler = {name: repairs.ranking(*run, seeded(1)) for name, run in runs.items()}
    assert min(own, key=own.get) == max(ruler, key=ruler.get) == "cosine"
    assert own["maskgit_cosine"] - own["sqrt"] > 0.03 and ruler["maskgit_cosine"] == ruler["sqrt"]


# ---- the house ----


def test_functions_stay_short():
    for module in (checks, repairs):
        for name, f in inspect.getmembers(module, inspect.isfunction):
            if inspect.unwrap(f).__module__ == module.__name__:
                assert len(inspect.getsource(f).splitlines()) <= 50, name
