"""How fast, by results/sampling_speed.py: the plain loops write what ours write, and the arithmetic is right.

No time is measured here. Where a clock matters it is one that the test turns itself.
"""

import json
import math
from itertools import accumulate, cycle
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from microdlm import load
from microdlm.cost import CountForwards
from microdlm.pretrained import LanguageModel
from microdlm.samplers import SAMPLERS
from microdlm.tokenizers import CharTokenizer
from microdlm.transformer import Transformer, TransformerConfig

MASK, L = 4, 16


@pytest.fixture(scope="module")
def speed(script):
    return script("results/sampling_speed")


@pytest.fixture
def of_all(speed, monkeypatch):
    """The loops, drawing from all 4 tokens of a tiny network."""
    monkeypatch.setattr(speed, "TOP_K", 4)
    return speed


@pytest.fixture
def greedy(of_all, monkeypatch):
    """The loops without chance, at temperature 1: the first of top-k is the most probable."""
    monkeypatch.setattr(of_all, "TEMPERATURE", 1.0)
    monkeypatch.setattr(torch, "multinomial", lambda p, n: p.argmax(-1, keepdim=True))
    return of_all


def page(B: int = 3, *given: int) -> torch.Tensor:
    x = torch.full((B, L), MASK)
    x[:, : len(given)] = torch.tensor(given, dtype=torch.long)
    return x


# The loops


@pytest.mark.parametrize("num_steps", [1, 5, 40])
def test_a_loop_fills_every_mask_and_keeps_what_is_given(of_all, network, num_steps):
    torch.manual_seed(0)
    for loop in (of_all.surest_loop, of_all.ancestral_loop):
        start = page(3, 2, 0, 1)
        start[:, 9] = torch.tensor([3, 1, 0])
        x = loop(network(), start, MASK, num_steps)
        assert torch.equal(x[start != MASK], start[start != MASK]) and (start == MASK).any()
        assert (0 <= x).all() and (x < MASK).all() and x.shape == start.shape
    start = page(3, 2)
    x = of_all.gpt_loop(network(vocab_size=MASK + 1, causal=True), start, MASK, 0)
    assert (x[:, 0] == 2).all() and (x < MASK).all() and (start[:, 1:] == MASK).all()


def test_a_loop_makes_its_passes_whatever_opens(of_all, network):
    """As one would write it first: the whole page at every step, and to a GPT all that stands before."""
    net, gpt = CountForwards(network()), CountForwards(network(causal=True))
    for loop, num_steps, passes in (
        (of_all.surest_loop, 5, 5),
        (of_all.surest_loop, 40, 15),
        (of_all.ancestral_loop, 40, 40),
    ):
        net.passes = net.token_forwards = 0
        loop(net, page(2, 1), MASK, num_steps)
        assert (net.passes, net.token_forwards) == (passes, passes * 2 * L)
    of_all.gpt_loop(gpt, page(2, 1), MASK, 0)
    assert (gpt.passes, gpt.token_forwards) == (L - 1, 2 * sum(range(1, L)))


def test_a_position_is_drawn_from_its_top_k_at_its_temperature(speed, monkeypatch):
    """20,000 draws against exp(logit / temperature) over the two most probable; the third and MASK are never drawn."""
    monkeypatch.setattr(speed, "TOP_K", 2), monkeypatch.setattr(speed, "TEMPERATURE", 0.5)
    torch.manual_seed(1)
    logits = torch.tensor([1.0, 0.2, 1.3, 9.0])
    token, p = speed.everywhere(lambda x: logits.expand(*x.shape, 4), torch.full((100, 200), 3), mask_id=3)
    share = (logits[[0, 2]] / 0.5).softmax(-1)
    assert set(token.unique().tolist()) == {0, 2}
    assert chisquare([(token == i).sum().item() for i in (0, 2)], 20_000 * share.double().numpy()).pvalue > 1e-4
    torch.testing.assert_close(p, torch.where(token == 0, share[0], share[1]))


def test_a_gpt_has_no_mask_to_rule_out(speed, monkeypatch):
    monkeypatch.setattr(speed, "TOP_K", 1)
    token, p = speed.everywhere(lambda x: torch.eye(4)[x], torch.tensor([[0, 3]]), mask_id=4)
    assert token.tolist() == [[0, 3]] and p.tolist() == [[1, 1]]


def test_ancestral_opens_each_blank_at_a_uniformly_random_step(speed, monkeypatch):
    monkeypatch.setattr(speed, "TOP_K", 2)
    torch.manual_seed(2)
    left = []

    def denoiser(x):
        left.append((x == 2).sum().item())
        return torch.zeros(*x.shape, 3)

    speed.ancestral_loop(denoiser, torch.full((1, 30_000), 2), 2, 6)
    opened = [a - b for a, b in zip(left, [*left[1:], 0], strict=True)]
    assert len(opened) == 6 and chisquare(opened).pvalue > 1e-4


def test_with_top_k_1_the_gpt_s_loop_writes_what_our_cached_one_writes(speed, network, monkeypatch):
    monkeypatch.setattr(speed, "TOP_K", 1)
    for given in range(MASK):
        gpt = network(vocab_size=MASK, causal=True)
        *_, ours = SAMPLERS["left_to_right"](gpt, page(3, given), MASK, temperature=0.0)
        assert torch.equal(speed.gpt_loop(gpt, page(3, given), MASK, 0), ours)


@pytest.mark.parametrize("num_steps", [1, 4, 7, 40])
def test_without_chance_the_surest_loop_writes_what_ours_writes(greedy, network, num_steps):
    """No two of its guesses are equally sure: of the same steps, the same positions and the same tokens."""
    net, start = network(), page(4)
    start[:, 0] = torch.arange(4)
    *_, ours = SAMPLERS["confidence"](net, start, MASK, num_steps, pace="linear", temperature=0.0)
    assert torch.equal(greedy.surest_loop(net, start, MASK, num_steps), ours)
    assert len(ours.unique(dim=0)) > 1


def test_with_top_k_1_all_are_equally_sure_and_one_step_is_the_same(speed, network, monkeypatch):
    """Of one token left the probability is 1: only where all open at once does it not matter who is surest."""
    monkeypatch.setattr(speed, "TOP_K", 1)
    assert (speed.everywhere(network(), page(4), MASK)[1] == 1).all()
    *_, ours = SAMPLERS["confidence"](network(), page(4, 2), MASK, 1, temperature=0.0)
    assert torch.equal(speed.surest_loop(network(), page(4, 2), MASK, 1), ours)


# Ours


@pytest.fixture
def twins(network):
    tokenizer = CharTokenizer("\nabc")
    return {
        kind: LanguageModel(network(causal=kind == "gpt", vocab_size=4 + (kind == "diffusion")), tokenizer)
        for kind in ("gpt", "diffusion")
    }


@pytest.mark.parametrize("writer", ["diffusion, surest first, 32 steps", "diffusion, ancestral, 1,000 steps", "GPT"])
def test_ours_writes_in_the_same_steps_at_the_same_temperature(of_all, twins, writer):
    kind, _, sampler, num_steps = of_all.WRITERS[writer]
    lm, options = twins[kind], {"num_steps": num_steps} if kind == "diffusion" else {}
    options |= {"pace": "linear"} if sampler == "confidence" else {}
    *_, expected = lm.write(lm.canvas("a", n=2), sampler, seed=7, temperature=0.8, top_k=4, **options)
    assert torch.equal(of_all.ours(lm, sampler, lm.canvas("a", n=2), of_all.Config(seed=7), num_steps), expected)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("writer", ["diffusion, surest first, 32 steps", "diffusion, ancestral, 1,000 steps", "GPT"])
def test_the_contestants_write_the_same_page_each_with_its_own_network(
    speed, twins, monkeypatch, writer, fast, compile
):
    loaded, written = [], []
    kind, loop, sampler, num_steps = speed.WRITERS[writer]

    def load(name, **how):
        loaded.append((name, how))
        return SimpleNamespace(model=len(loaded) - 1, mask_id=MASK, canvas=twins[kind].canvas)

    def note(model, x, *of):
        assert x.tolist() == [[0, *[MASK] * 8]] * 3
        return written.append((model, *of))

    monkeypatch.setattr(speed, "load", load), monkeypatch.setattr(speed, "has_bfloat16", lambda device: fast)
    monkeypatch.setitem(speed.WRITERS, writer, (kind, note, sampler, num_steps))
    monkeypatch.setattr(speed, "ours", lambda m, sampler, x, cfg, n: note(m.model, x, sampler, cfg, n))
    cfg = speed.Config(length=9, compile=compile)
    found = speed.variants(cfg, writer, 3)
    names, hows = ["loop", "ours"], [{}]
    if fast:
        names, hows = [*names, "ours, bfloat16"], [*hows, {"precision": "bfloat16"}]
    if compile and kind == "diffusion":
        names.append("ours, fastest, compiled")
        hows.append({"precision": "auto" if fast else "float32", "compile": True})
    assert [*found] == names and loaded == [(f"shakespeare-{kind}", how) for how in hows]
    for write in found.values():
        write()
    assert written == [(0, MASK, num_steps), *((i, sampler, cfg, num_steps) for i in range(len(hows)))]


# The arithmetic


@pytest.mark.parametrize("B, length, n_layer", [(1, 16, 2), (3, 8, 1)])
def test_products_are_those_that_torch_counts(speed, B, length, n_layer):
    """Of a whole pass, without the head."""
    cfg = TransformerConfig(vocab_size=7, seq_len=16, n_layer=n_layer, n_head=2, d_model=24)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        Transformer(cfg)(torch.zeros(B, length, dtype=torch.long))
    head = 2 * B * length * cfg.d_model * cfg.vocab_size
    layer = sum(2 * math.prod(left) * right[-1] for left, right in speed.products(cfg, B, length))
    assert n_layer * layer == counter.get_total_flops() - head > 0


def test_the_most_is_the_loop_against_nothing_but_products(speed, monkeypatch):
    """Of the writer that cannot leave out a pass; of the others no ceiling is known."""
    surest, *others = speed.WRITERS
    cfg, net = speed.Config(length=100), load("shakespeare-diffusion").model.cfg
    monkeypatch.setattr(speed, "seconds_of", lambda left, right, precision: 1e-3)
    found = speed.most(surest, 16, cfg, [5.0, 1.0, 3.0], torch.bfloat16)
    assert found == {"most": pytest.approx(3.0 / (32 * net.n_layer * 6e-3))}
    assert all(speed.most(writer, 16, cfg, [5.0, 1.0, 3.0], torch.bfloat16) == {} for writer in others)


def test_a_product_takes_its_median(speed, monkeypatch):
    """Five times, on a clock that shows these seconds, and 1,000 between one and the next."""
    looks = accumulate(cycle([0.0, 9.0, 1000, 2.0, 1000, 2.0, 1000, 0.1, 1000, 7.0, 1000]))
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(looks)))
    assert speed.seconds_of((8, 8), (8, 8), torch.bfloat16, times=5) == pytest.approx(2.0)


def test_turn_by_turn_and_the_first_turn_does_not_count(speed, monkeypatch):
    now, order, drawn = [0.0], [], []
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def contestant(name, *seconds):
        def write():
            now[0] += seconds[len(order) // 2]
            order.append(name)
            drawn.append(torch.rand(()).item())
            return torch.zeros(1)

        return write

    found = speed.clock({"a": contestant("a", 100.0, 1.0, 3.0), "b": contestant("b", 200.0, 2.0, 4.0)}, turns=2)
    assert found == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert order == [*"ababab"] and drawn[::2] == drawn[1::2] and len({*drawn}) == 3  # each turn its own chance


def test_what_was_not_written_is_not_timed(speed):
    with pytest.raises(AssertionError):
        speed.clock({"a": lambda: torch.tensor([3, -1])}, turns=1)


def test_a_row_says_how_many_times_faster_turn_by_turn(speed, tmp_path, monkeypatch, capsys):
    """Ratios are taken within a turn, for what slows one of its contestants slows the others too."""
    seconds = {"loop": [4.0, 60.0, 6.0], "ours": [2.0, 10.0, 1.0]}
    monkeypatch.setattr(speed, "variants", lambda cfg, writer, batch: (writer, batch))
    monkeypatch.setattr(speed, "clock", lambda contestants, turns: seconds)
    monkeypatch.setattr(speed, "seconds_of", lambda left, right, precision: 1e-3)
    cfg = speed.Config(length=11, seed=3, out=tmp_path / "speed.json")
    speed.main(cfg)
    numbers = json.loads(cfg.out.read_text())
    assert (numbers["length"], numbers["turns"], numbers["seed"], numbers["top_k"]) == (11, 3, 3, speed.TOP_K)
    assert numbers["temperature"] == speed.TEMPERATURE and {"commit", "command", "threads"} <= set(numbers["made_by"])
    rows = numbers["rows"]
    assert [(r["writer"], r["batch"]) for r in rows[::2]] == [(w, batch) for w in speed.WRITERS for batch in (1, 16)]
    for loop, ours in zip(rows[::2], rows[1::2], strict=True):
        assert (loop["way"], loop["ratio"], loop["lowest"], loop["highest"]) == ("loop", 1, 1, 1)
        assert (ours["way"], ours["ratio"], ours["lowest"], ours["highest"]) == ("ours", 6, 2, 6)
        assert loop["chars_per_second"] == pytest.approx(loop["batch"] * 10 / 6)
        assert ours["chars_per_second"] == pytest.approx(ours["batch"] * 10 / 2)
        ceiling = speed.most(ours["writer"], ours["batch"], cfg, seconds["loop"], 1e10)
        assert {k: r[k] for r in (loop, ours) for k in ("most",) if k in r} == ceiling
    shown = speed.table(numbers)
    assert shown.row_count == len(rows)
    columns = [[*column.cells] for column in shown.columns]
    assert columns[4][1] == "6.0 (2.0 to 6.0)" and columns[5][-1] == "" and columns[5][0] == f"{rows[0]['most']:.1f}"
