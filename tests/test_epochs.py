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


def test_the_weights_that_count_are_those_of_the_best_moment(epochs):
    best, model = epochs.Best(), torch.nn.Linear(1, 1)
    for step, nats in ((1, 3.0), (2, 2.0), (3, 2.5)):
        torch.nn.init.constant_(model.weight, step)  # in place, as training does
        best.see(step, nats, model)
    assert (best.step, best.chosen_by, best.weights["weight"].item()) == (2, 2.0, 2.0)
    assert best.curve == [(1, 3.0), (2, 2.0), (3, 2.5)] and best.missed() == 1


def test_what_counts_has_chosen_nothing(epochs):
    """Every held-out window either chooses or counts, none does both."""
    corpus = load_corpus("playlets", min_length=256)
    corpus = replace(corpus, val=corpus.val[: 9 * 256 + 7])
    chooses, counts = epochs.split(corpus, 4)
    assert len(chooses) == 4 and len(counts) == 5
    assert sorted((*chooses.tolist(), *counts.tolist())) == sorted(corpus.windows(256).tolist())


def test_a_run_is_measured_at_its_best_moment_on_the_windows_that_count(epochs, monkeypatch):
    """Killed: the last weights, or the windows that choose."""
    corpus = load_corpus("playlets", min_length=256)
    corpus = replace(corpus, train=corpus.train[: 8 * 16 * 256], val=corpus.val[: 8 * 256])
    seen, real = [], epochs.score

    def score(model, kind, x_0, samples):
        found = real(model, kind, x_0, samples)
        seen.append((tuple(map(tuple, x_0.tolist())), {k: w.clone() for k, w in model.state_dict().items()}))
        return value([9.0, 1.0, 8.0, 7.0][len(seen) - 1]) if len(seen) <= 4 else found

    monkeypatch.setattr(epochs, "score", score)
    found = epochs.run("gpt", 1, "none", 0, epochs.Config(smoke=True, evals=4, windows=3), corpus, "cpu")
    moments, (counts, last) = seen[:4], seen[4]
    assert len(seen) == 5 and len(counts) == 5 and not set(counts) & set(moments[0][0])
    assert all(torch.equal(last[k], moments[1][1][k]) for k in last)
    assert not all(torch.equal(last[k], moments[3][1][k]) for k in last)
    assert (found["best_step"], found["chosen_by"], len(found["windows"])) == (4, 1.0, 5)
    assert found["nats_per_char"] == pytest.approx(sum(found["windows"]) / 5, abs=1e-4)


def test_a_run_out_of_patience_ends_unless_nothing_regularises_it(epochs, monkeypatch):
    """The third chance is the best, and the two after it are not; the plain run is seen to its end all the same."""
    nats = {chance: value(3.0 + abs(chance - 3)) for chance in range(1, 10)}  # the ninth is on the windows that count
    corpus = load_corpus("playlets", min_length=256)
    corpus = replace(corpus, train=corpus.train[: 4 * 16 * 256])  # four steps an epoch
    corpus, cfg = replace(corpus, val=corpus.val[: 3 * 256]), epochs.Config(smoke=True, evals=8, windows=2)
    for name, patience, last in (("dropout 0.1", 2, 5), ("dropout 0.1", 0, 8), ("none", 2, 8)):
        seen = iter(nats)
        monkeypatch.setattr(epochs, "score", lambda *_, seen=seen: nats[next(seen)])
        found = epochs.run("gpt", 2, name, 0, replace(cfg, patience=patience), corpus, "cpu")
        assert (found["best_step"], found["curve"][-1][0], found["steps"]) == (3, last, 8)


def some(epochs, kind: str, name: str, seed: int, chooses: float, counts: float | None) -> dict:
    run = {"kind": kind, "epochs": 10, "regulariser": name, "seed": seed, "curve": [[1, 9.0], [2, chooses], [3, 5.0]]}
    run |= {"best_step": 2, "steps": 3}
    return run | ({} if counts is None else {"nats_per_char": counts, "stderr": 0.25, "windows": [counts] * 2})


def test_the_regulariser_is_chosen_by_the_windows_that_choose_among_those_that_were_tried(epochs):
    names = list(epochs.TRIED["gpt"])
    runs = [some(epochs, "gpt", name, 0, 2.0 + i, 3.0 - i) for i, name in enumerate(names)]
    assert epochs.chosen(runs, "gpt", 10, 0) == (names[0], [])  # whose score is the worst
    assert epochs.chosen(runs[2:], "gpt", 10, 0) == (names[2], names[:2])
    assert epochs.chosen(runs, "diffusion", 10, 0) == (None, list(epochs.TRIED["diffusion"]))
    rate = some(epochs, "gpt", next(name for name in epochs.RATES if name.startswith("masked")), 0, 0.5, 1.0)
    assert epochs.chosen([*runs, rate], "gpt", 10, 0) == (names[0], [])  # the other plans had no such choice
    halves = some(epochs, "gpt", names[3], 0, 0.0, 1.0) | {"curve": [[1, 1.0, 4.0], [2, 2.2, 1.4], [3, 1.0, 2.9]]}
    assert epochs.nats_of(halves) == pytest.approx(1.8)  # not 1.0, nor 1.4: both halves choose
    assert epochs.chosen([*runs, halves], "gpt", 10, 0)[0] == names[3]


def test_a_row_counts_what_was_measured_on_the_windows_that_count(epochs):
    """A run that was only searched decides which is chosen, and is no part of the mean."""
    cfg = epochs.Config(epochs=(10,))
    runs = [some(epochs, "gpt", name, 0, 2.0 + i, None) for i, name in enumerate(epochs.TRIED["gpt"])]
    assert epochs.summary(runs, cfg) == []
    runs[0] = some(epochs, "gpt", "none", 0, 2.0, 1.0)
    (row,) = epochs.summary(runs, cfg)
    assert (row["stderr"], row["stderr_over"], row["runs"]) == (0.25, "windows", 1)
    runs += [some(epochs, "gpt", "none", seed, 9.0, 1.0 + seed) for seed in (1, 2)]
    (row,) = epochs.summary(runs, cfg)
    assert row["nats_per_char"] == pytest.approx(2.0) and row["stderr"] == pytest.approx(1 / math.sqrt(3))
    assert (row["stderr_over"], row["runs"], row["best_epoch"]) == ("seeds", 3, pytest.approx(20 / 3))


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


def test_another_rate_is_another_rate_and_nothing_else(epochs, monkeypatch):
    corpus = load_corpus("playlets", min_length=256)
    corpus = replace(corpus, train=corpus.train[: 2 * 16 * 256], val=corpus.val[: 3 * 256])
    asked, real = [], epochs.TrainConfig
    monkeypatch.setattr(epochs, "TrainConfig", lambda *args, **how: asked.append(how) or real(*args, **how))
    for name in (epochs.BEST["gpt"], *(f"{epochs.BEST['gpt']}, rate {word}" for word in ("halved", "doubled"))):
        epochs.run("gpt", 1, name, 0, epochs.Config(smoke=True, evals=1, windows=2, lr=(7.0, 0.004)), corpus, "cpu")
    assert [how.pop("lr") for how in asked] == [0.004, 0.002, 0.008]
    assert asked[0] == asked[1] == asked[2]


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
    searched = [{k: v for k, v in r.items() if k not in ("windows", "nats_per_char")} for r in again]
    out.write_text(json.dumps(numbers | {"runs": searched}))  # as if all had run before the other windows counted
    epochs.main(epochs.Config(smoke=True, out=out))
    counted = json.loads(out.read_text())
    assert sum("windows" in r for r in counted["runs"]) == 2 * 2 * 2  # the chosen ones, with both seeds
    assert counted["summary"] == numbers["summary"] and len(counted["runs"]) == len(again)


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
    asked.clear()
    epochs.main(replace(cfg, tries=("masked inputs, weight decay 1, rate halved",)))
    assert len(asked) == 4 and {name for *_, name, _ in asked} == {"masked inputs, weight decay 1, rate halved"}
    assert not any("gpt" in name for name in json.loads(out.read_text())["not_run"])  # nobody lacks it
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
