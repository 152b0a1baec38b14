"""Epochs against likelihood, and how fast we train: what chooses never counts, and each command once, small."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.likelihood import Estimate, left_to_right_nll
from microdlm.objectives import next_token_nll
from microdlm.transformer import Transformer, TransformerConfig


@pytest.fixture(scope="module")
def epochs(command):
    return command("epochs")


@pytest.fixture(scope="module")
def speed(command):
    return command("training_speed")


def value(nats: float) -> Estimate:
    return Estimate(nats, 0.1, torch.zeros(1))


def test_the_best_moment_is_chosen_by_one_half_and_scored_by_the_other(epochs):
    best = epochs.Best()
    for step, chooses, counts in ((1, 3.0, 2.0), (2, 2.0, 2.5), (3, 2.5, 1.0)):
        best.see(step, value(chooses), value(counts))
    assert (best.step, best.chosen_by, best.score.mean) == (2, 2.0, 2.5)  # not 1.0, which nothing chose
    assert best.curve == [(1, 3.0, 2.0), (2, 2.0, 2.5), (3, 2.5, 1.0)]


def test_a_run_out_of_patience_ends_unless_nothing_regularises_it(epochs, monkeypatch):
    """The third chance is the best, and the two after it are not; the plain run is seen to its end all the same."""
    nats = {chance: value(3.0 + abs(chance - 3)) for chance in range(1, 9)}
    corpus = load_corpus("playlets", min_length=256)
    corpus = replace(corpus, train=corpus.train[: 4 * 16 * 256])  # four steps an epoch
    cfg = epochs.Config(smoke=True, evals=8, windows=2)
    for name, patience, last in (("dropout 0.1", 2, 5), ("dropout 0.1", 0, 8), ("none", 2, 8)):
        seen = iter(chance for n in nats for chance in (n, n))  # both halves at every chance
        monkeypatch.setattr(epochs, "score", lambda *_, seen=seen: nats[next(seen)])
        found = epochs.run("gpt", 2, name, 0, replace(cfg, patience=patience), corpus, "cpu")
        assert (found["best_step"], found["curve"][-1][0], found["steps"]) == (3, last, 8)


def some(epochs, kind: str, name: str, seed: int, chooses: float, counts: float) -> dict:
    run = {"kind": kind, "epochs": 10, "regulariser": name, "seed": seed, "chosen_by": chooses, "stderr": 0.25}
    return run | {"nats_per_char": counts}


def test_the_regulariser_is_chosen_by_the_half_that_chooses_among_those_that_were_tried(epochs):
    names = list(epochs.TRIED["gpt"])
    runs = [some(epochs, "gpt", name, 0, 2.0 + i, 3.0 - i) for i, name in enumerate(names)]
    assert epochs.chosen(runs, "gpt", 10, 0) == (names[0], [])  # whose score is the worst
    assert epochs.chosen(runs[2:], "gpt", 10, 0) == (names[2], names[:2])
    assert epochs.chosen(runs, "diffusion", 10, 0) == (None, list(epochs.TRIED["diffusion"]))


def test_the_error_is_over_seeds_where_there_are_some(epochs):
    cfg = epochs.Config(epochs=(10,))
    runs = [some(epochs, "gpt", name, 0, 2.0 + i, 1.0) for i, name in enumerate(epochs.TRIED["gpt"])]
    (row,) = epochs.summary(runs, cfg)
    assert (row["stderr"], row["stderr_over"], row["runs"]) == (0.25, "windows", 1)
    runs += [some(epochs, "gpt", "none", seed, 9.0, 1.0 + seed) for seed in (1, 2)]
    (row,) = epochs.summary(runs, cfg)
    assert row["nats_per_char"] == pytest.approx(2.0) and row["stderr"] == pytest.approx(1 / math.sqrt(3))
    assert (row["stderr_over"], row["runs"]) == ("seeds", 3)


def test_what_is_left_is_every_pair_that_lacks_a_seed_or_a_regulariser(epochs):
    cfg = epochs.Config(epochs=(10, 30))
    rows = [{"kind": kind, "epochs": 10, "runs": runs, "untried": []} for kind, runs in (("diffusion", 3), ("gpt", 2))]
    assert epochs.left(rows, cfg) == ["gpt, 10 epochs", "diffusion, 30 epochs", "gpt, 30 epochs"]
    rows[0]["untried"] = ["none"]
    assert epochs.left(rows, cfg)[0] == "diffusion, 10 epochs"


def test_a_gpt_with_mask_in_its_vocabulary_is_still_scored_exactly(epochs, network):
    """Its probabilities of the other ids add up to one: those of a GPT that never heard of MASK."""
    net, x_0 = network(causal=True), torch.randint(4, (3, 16), generator=torch.Generator().manual_seed(1))
    found = epochs.score(net, "gpt", x_0, 1).per_sequence
    bare = Transformer(TransformerConfig(4, 16, 2, 2, 16, causal=True))
    weights = {name: p[:4] if p.size(0) == 5 else p for name, p in net.state_dict().items()}
    bare.load_state_dict(weights)
    torch.testing.assert_close(found, left_to_right_nll(bare, x_0), rtol=1e-5, atol=1e-5)


def test_masked_inputs_hide_as_much_as_they_say_and_no_answer(epochs):
    seen = []

    def model(x):
        seen.append(x)
        return torch.zeros(*x.shape, 8)

    model.cfg, x_0, rng = SimpleNamespace(vocab_size=8), torch.randint(7, (400, 32)), torch.Generator().manual_seed(0)
    loss = epochs.loss_of("gpt", epochs.Regulariser(masked_inputs=0.3))(model, x_0, rng)
    assert (seen[0] == 7).double().mean().item() == pytest.approx(0.15, abs=0.01)  # a share between 0 and 0.3
    assert (seen[0] == 7).double().mean(1).max() < 0.3 + 4 * math.sqrt(0.3 * 0.7 / 32)
    assert ((seen[0] == x_0) | (seen[0] == 7)).all()
    assert loss.item() == pytest.approx(math.log(7))  # uniform over the ids that are not MASK, whatever is hidden
    epochs.loss_of("gpt", epochs.Regulariser())(model, x_0, rng)
    assert torch.equal(seen[1], x_0)


def test_epochs_runs_whole_and_goes_on_where_it_was(epochs, tmp_path):
    out = tmp_path / "epochs.json"
    epochs.main(epochs.Config(smoke=True, out=out))
    numbers = json.loads(out.read_text())
    assert {(r["kind"], r["epochs"]): r["runs"] for r in numbers["summary"]} == {
        (kind, n): 2 for kind in ("diffusion", "gpt") for n in (1, 2)
    }
    assert numbers["not_run"] == []
    assert len(numbers["runs"]) == 2 * sum(len(tried) + 1 for tried in epochs.TRIED.values())
    out.write_text(json.dumps(numbers | {"runs": numbers["runs"][:-1]}))
    epochs.main(epochs.Config(smoke=True, out=out))
    again = json.loads(out.read_text())["runs"]
    changing = {"seconds": 0, "made_by": 0}
    assert [r | changing for r in again] == [r | changing for r in numbers["runs"]]


def test_two_processes_share_one_file(epochs, tmp_path, monkeypatch):
    """Each trains one model, and writes what the other has added while it trained, too."""
    out, cfg = tmp_path / "epochs.json", epochs.Config(smoke=True, out=tmp_path / "epochs.json")

    def run(kind, n, name, seed, *_):
        if (kind, n, name, seed) == ("diffusion", 1, "dropout 0.1", 0):  # in the middle of one the other runs whole
            epochs.main(replace(cfg, only="gpt"))
        return some(epochs, kind, name, seed, 2.0, 2.0) | {"epochs": n}

    monkeypatch.setattr(epochs, "run", run)
    epochs.main(replace(cfg, only="diffusion"))
    numbers = json.loads(out.read_text())
    assert numbers["not_run"] == [] and len(numbers["runs"]) == 2 * sum(len(t) + 1 for t in epochs.TRIED.values())
    with pytest.raises(UserError, match="gtp"):
        epochs.main(replace(cfg, only="gtp"))


def test_a_process_may_take_some_regularisers_over(epochs, tmp_path, monkeypatch):
    """Each with every seed that it is given; whoever comes after does what is left, and counts all."""
    out, asked = tmp_path / "epochs.json", []

    def run(kind, n, name, seed, *_):
        asked.append((kind, n, name, seed))
        return some(epochs, kind, name, seed, 2.0 - (name == "both"), 2.0) | {"epochs": n}

    monkeypatch.setattr(epochs, "run", run)
    cfg = epochs.Config(smoke=True, out=out, only="gpt")
    epochs.main(replace(cfg, tries=("both", "none")))
    assert asked == [("gpt", n, name, seed) for n in (1, 2) for seed in (0, 1) for name in ("both", "none")]
    epochs.main(cfg)
    assert len(asked) == len(set(asked)) == 2 * (len(epochs.TRIED["gpt"]) + 2)  # "both" is best, and has run
    rows = json.loads(out.read_text())["summary"]
    assert [(r["regulariser"], r["runs"]) for r in rows] == [("both", 2)] * 2
    with pytest.raises(UserError, match="regulariser"):
        epochs.main(replace(cfg, tries=("bot",)))


# How fast we train


def test_what_a_character_needs_is_counted_by_torch_too(speed):
    """Products with weights: torch's own counter sees as many in a step. Attention, of which it does not see all, adds
    two products of L by D in each layer, over half of the pairs in a GPT; three passes' worth."""
    L, *_, sizes = speed.SHAPES["nano"]
    net, x_0 = Transformer(TransformerConfig(speed.V, L, **sizes, causal=True)), torch.randint(65, (2, L))
    with FlopCounterMode(display=False) as counter:
        next_token_nll(net(x_0), x_0).mean().backward()
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "mm" in str(op)) / x_0.numel()
    attention = 3 * sizes["n_layer"] * 2 * (2 * L * sizes["d_model"]) / 2
    assert speed.needed("gpt", "nano") == pytest.approx(products + attention)
    head = 3 * 2 * sizes["d_model"] * speed.V
    assert speed.needed("diffusion", "nano") == pytest.approx(products - head / 2 + 2 * attention)


def test_the_textbook_sees_what_its_kind_may_see(speed):
    L, *_, sizes = speed.SHAPES["nano"]
    for causal in (True, False):
        torch.manual_seed(0)
        net = speed.Textbook(L, **sizes, causal=causal).eval()
        x = torch.randint(65, (1, L), generator=torch.Generator().manual_seed(1))
        y = x.clone()
        y[0, -1] = (y[0, -1] + 1) % 65
        moved = (net(x) - net(y)).abs().amax(-1)[0] > 1e-6
        assert moved[-1] and bool(moved[0]) != causal


def test_both_are_of_one_size(speed):
    """Within 4 %: the textbook has biases, gains and positions besides."""
    L, *_, sizes = speed.SHAPES["full"]
    ours = Transformer(TransformerConfig(speed.V, L, **sizes)).num_parameters()
    theirs = sum(p.numel() for p in speed.Textbook(L, **sizes, causal=False).parameters())
    assert ours < theirs < 1.04 * ours


def test_training_speed_runs_whole(speed, tmp_path):
    out = tmp_path / "speed.json"
    speed.main(speed.Config(smoke=True, out=out))
    rows = json.loads(out.read_text())["rows"]
    assert {(r["kind"], r["way"]) for r in rows} == {(k, w) for k in ("diffusion", "gpt") for w in ("textbook", "ours")}
    for textbook, ours in zip(rows[::2], rows[1::2], strict=True):  # the same work and the same peak, whoever does it
        assert textbook["share_of_peak"] > 0
        faster = ours["chars_per_second"] / textbook["chars_per_second"]
        assert ours["share_of_peak"] / textbook["share_of_peak"] == pytest.approx(faster)
    assert all(r["ratio"] == r["lowest"] == r["highest"] == 1.0 for r in rows if r["way"] == "textbook")
    assert all(r["lowest"] <= r["ratio"] <= r["highest"] for r in rows)
