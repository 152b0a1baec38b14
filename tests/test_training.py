"""The loop: a step is whole or not taken, and a run that was stopped, however, ends as if it had not been."""

import json
import math
import signal
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from microdlm import masking, objectives, state, training
from microdlm.errors import UserError
from microdlm.likelihood import Estimate, estimate_nelbo
from microdlm.runs import Run
from microdlm.state import MOMENTS, State, TrainConfig
from microdlm.training import due, learning_rate, train, update
from microdlm.transformer import Transformer, TransformerConfig

NET = TransformerConfig(vocab_size=8, seq_len=12, n_layer=1, n_head=2, d_model=16)
MASK = 7
TEXT = torch.arange(700) % 7  # easy to learn by heart


def loss(model, x_0, rng):
    k = masking.to_count(masking.stratified(len(x_0), rng=rng), x_0.size(1))
    x_t, is_masked = masking.mask_count(x_0, k, MASK, rng)
    return objectives.count_nelbo(objectives.masked_nll(model, x_0, x_t, is_masked, MASK), is_masked).mean()


def batch(B, L, rng):
    return TEXT.unfold(0, L, 1)[torch.randint(len(TEXT) - L, (B,), generator=rng)]


def validate(model):
    return estimate_nelbo(model, TEXT[:96].view(8, 12), MASK, samples=4, rng=torch.Generator().manual_seed(5))


def begin(folder, resume=False, net=NET, **how):
    """A run in `folder`, new or resumed: everything that train() wants, by name."""
    cfg = TrainConfig(**{"steps": 20, "batch_size": 4, "lr": 1e-2, "evals": 4, "checkpoints": 2} | how)
    run = Run.open(folder, {"model": asdict(net), "training": asdict(cfg)}, resume)
    state = State(Transformer(net, torch.Generator().manual_seed(cfg.seed)), cfg)
    state.restore(run)
    return {"state": state, "cfg": cfg, "loss": loss, "batch": batch, "validate": validate, "run": run}


def whole(folder, **how) -> list:
    return list(train(**begin(folder, **how)))


def remains(folder) -> dict:
    """All that a run leaves behind but the clock: records, and every bit of every tensor."""
    records = [json.loads(line) | {"seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "checkpoint")}
    bits = {f"{file} {name}": x.tolist() for file, tensors in files.items() for name, x in tensors.items()}
    return {"records": records, **bits}


def files(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The loop


def test_one_record_a_step_counted_from_one(tmp_path):
    records = whole(tmp_path / "run", steps=7, evals=2)
    assert [r.step for r in records] == [1, 2, 3, 4, 5, 6, 7]
    assert [r.tokens for r in records] == [4 * 12 * step for step in range(1, 8)]
    assert [r.step for r in records if r.val is not None] == [4, 7]
    assert all((r.val is None) == (r.val_stderr is None) and r.seconds > 0 for r in records)
    assert Run(tmp_path / "run").metrics() == [vars(r) for r in records]


def test_the_loss_of_a_text_learnt_by_heart_goes_to_its_floor(tmp_path):
    net = replace(NET, d_model=32)
    records = whole(tmp_path / "run", net=net, steps=300, batch_size=32, lr=2e-2, evals=1, checkpoints=1)
    assert records[0].loss == pytest.approx(math.log(7), abs=0.05)  # it starts knowing nothing
    floor = math.log(7) / 12  # where in the pattern a window starts: nobody can know that
    assert floor - 0.1 < sum(r.loss for r in records[-20:]) / 20 < floor + 0.2
    assert records[-1].val < floor + 0.2  # and not only in its own eyes


def test_the_learning_rate_climbs_a_line_and_descends_half_a_cosine():
    cfg = TrainConfig(steps=200, batch_size=1, lr=2.0, warmup=0.1, final_lr=0.25)
    rates = [learning_rate(step, cfg) for step in range(201)]
    assert rates[:20] == pytest.approx([0.1 * (step + 1) for step in range(20)])
    assert max(rates) == rates[20] == 2.0
    assert rates[110] == pytest.approx((2.0 + 0.5) / 2)  # half way down at half the time
    assert rates[200] == pytest.approx(0.5)
    assert all(a > b for a, b in zip(rates[20:], rates[21:], strict=False))
    assert 0 < learning_rate(0, TrainConfig(steps=1, batch_size=1))  # the shortest of runs learns something


def test_the_rate_that_is_recorded_is_the_rate_that_is_used(tmp_path):
    a = begin(tmp_path / "run")
    for record in train(**a):
        assert a["state"].optimizers[0].param_groups[0]["lr"] == record.lr == learning_rate(record.step - 1, a["cfg"])


def test_a_long_gradient_is_shortened_and_a_short_one_left_alone(tmp_path):
    for clip, cut in ((1e-3, True), (1e3, False)):
        a = begin(tmp_path / f"{clip}", grad_clip=clip)
        *_, norm = update(a["state"], a["cfg"], loss, batch(4, 12, a["state"].rng))
        used = torch.cat([p.grad.flatten() for p in a["state"].model.parameters()]).norm().item()
        assert (norm > clip) == cut
        assert used == pytest.approx(min(norm, clip), rel=1e-3)


def test_the_average_is_the_closed_form(tmp_path):
    a = begin(tmp_path / "run", ema=0.9)
    seen = []
    for _ in range(3):
        update(a["state"], a["cfg"], loss, batch(4, 12, a["state"].rng))
        seen.append([p.detach().clone() for p in a["state"].model.parameters()])
    for p, w1, w2, w3 in zip(a["state"].weights.parameters(), *seen, strict=True):
        torch.testing.assert_close(p.detach(), 0.81 * w1 + 0.09 * w2 + 0.1 * w3)  # the first step is taken over whole
    assert any((w1 - w3).abs().max() > 1e-3 for w1, _, w3 in zip(*seen, strict=True))


def test_muon_in_float32_is_torchs_muon_but_for_the_rounding(monkeypatch):
    """Ten steps on the same gradients, tall, wide and square: torch's rounds to eight bits on the way."""
    rng, ways = torch.Generator().manual_seed(0), {}
    shapes, how = [(24, 8), (8, 24), (16, 16)], {"lr": 0.01, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    start, pushes = ([torch.randn(shape, generator=rng) for shape in shapes] for _ in range(2))
    for fast in (True, False):
        monkeypatch.setattr(state, "has_bfloat16", lambda device, fast=fast: fast)
        weights = [torch.nn.Parameter(x.clone()) for x in start]
        optimizer = state.Muon(weights, **how)
        for k in range(10):
            for w, push in zip(weights, pushes, strict=True):
                w.grad = push * math.cos(k) + push.roll(k, 0)
            optimizer.step()
        ways[fast] = [w.detach() for w in weights], {k for w in weights for k in optimizer.state[w]}
    assert ways[True][1] == ways[False][1] == {"momentum_buffer"}
    for first, theirs, ours in zip(start, ways[True][0], ways[False][0], strict=True):
        moved = (theirs - first).norm()
        assert (ours - theirs).norm() < 0.02 * moved and 0 < (ours - theirs).norm()


def test_muon_turns_the_matrices_inside_the_blocks_and_leaves_the_others_to_adamw(tmp_path):
    """No direction of a matrix moves much farther than any other: by what makes a root mean square of 0.2 lr."""
    how = {"optimizer": "muon", "weight_decay": 0.0, "warmup": 0.0, "final_lr": 1.0, "grad_clip": 1e9}
    a = begin(tmp_path / "run", **how)
    for _ in range(5):
        old = {name: p.detach().clone() for name, p in a["state"].model.named_parameters()}
        update(a["state"], a["cfg"], loss, batch(64, 12, a["state"].rng))
    for name, p in a["state"].model.named_parameters():
        kept = {key for key in a["state"].tensors() if key.startswith("optimizer.") and key.endswith(f".{name}")}
        inside, turn = name.startswith("blocks."), torch.linalg.svdvals(p.detach() - old[name]) / a["cfg"].lr
        assert kept == {f"optimizer.{key}.{name}" for key in MOMENTS["Muon" if inside else "AdamW"]}
        assert not inside or 0.6 < turn.max() / (0.2 * math.sqrt(max(p.shape))) < 1.25, name


def test_validation_and_the_kept_weights_are_the_average(tmp_path):
    a, judged = begin(tmp_path / "run", ema=0.9), []

    def judge(model):
        judged.append(model)
        assert not model.training
        return Estimate(1.0 - len(judged), 0.0, torch.zeros(1))

    list(train(**a | {"validate": judge}))
    assert all(model is a["state"].average.module for model in judged) and len(judged) == 4
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(kept[name], p) for name, p in a["state"].average.module.named_parameters())
    assert any(not torch.equal(kept[name], p) for name, p in a["state"].model.named_parameters())


@given(st.integers(1, 500), st.integers(0, 60))
def test_due_comes_so_many_times_evenly_and_at_the_end(steps, times):
    hits = [step for step in range(1, steps + 1) if due(step, steps, times)]
    assert len(hits) == min(steps, times)
    assert not hits or hits[-1] == steps
    gaps = [b - a for a, b in zip([0, *hits], hits, strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_kept_weights_are_the_best_by_validation_not_the_last(tmp_path):
    a, verdicts, weights = begin(tmp_path / "run"), iter([3.0, 1.0, 1.0, 2.0]), []

    def judge(model):
        weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return Estimate(next(verdicts), 0.1, torch.zeros(1))

    list(train(**a | {"validate": judge}))
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(kept[name], p) for name, p in weights[1].items())
    assert all(any(not torch.equal(kept[name], w[name]) for name in kept) for w in (weights[0], weights[2], weights[3]))
    assert a["state"].best == 1.0


def test_bfloat16_is_used_where_it_is_fast_or_asked_for(tmp_path, monkeypatch):
    for precision, fast, expected in (
        ("auto", True, True),
        ("auto", False, False),
        ("float32", True, False),
        ("bfloat16", False, True),
    ):
        monkeypatch.setattr(training, "has_bfloat16", lambda device, fast=fast: fast)
        a, low = begin(tmp_path / f"{precision}-{fast}", precision=precision), []

        def spy(model, x_0, rng, low=low):
            low.append(model(x_0).dtype == torch.bfloat16)
            return loss(model, x_0, rng)

        update(a["state"], a["cfg"], spy, batch(4, 12, a["state"].rng))
        assert low == [expected], (precision, fast)
        assert all(p.dtype == torch.float32 for p in a["state"].model.parameters())


def test_a_machine_without_bfloat16_says_so(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert not training.has_bfloat16("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert training.has_bfloat16("cpu")
    assert not training.has_bfloat16("mps")


def test_the_same_seed_is_the_same_run_and_another_is_another(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        whole(tmp_path / name, seed=seed, net=replace(NET, dropout=0.2))
    a, b, c = (remains(tmp_path / name) for name in "abc")
    assert a == b
    assert a["records"] != c["records"]


def test_to_look_and_to_save_change_nothing(tmp_path):
    """However often a run is validated and saved, its losses are the same: neither draws on its chance."""
    net, losses = replace(NET, dropout=0.2), []
    for evals, checkpoints in ((1, 1), (7, 5)):
        records = whole(tmp_path / f"{evals}", net=net, evals=evals, checkpoints=checkpoints)
        losses.append([(r.loss, r.grad_norm) for r in records])
    assert losses[0] == losses[1]


# When it goes wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_changes_nothing(tmp_path, bad):
    a, calls, before = begin(tmp_path / "run", ema=0.9), [], {}

    def breaks(model, x_0, rng):
        calls.append(1)
        if len(calls) == 14:  # a checkpoint was written at step 10
            before.update({name: x.clone() for name, x in a["state"].tensors().items() if "rng" not in name})
            before["disk"] = files(tmp_path)
            return loss(model, x_0, rng) * bad
        return loss(model, x_0, rng)

    with pytest.raises(UserError, match="step 14") as stopped:
        list(train(**a | {"loss": breaks}))
    assert "\n" not in str(stopped.value) and "checkpoint" in str(stopped.value)
    assert files(tmp_path) == before.pop("disk")
    after = a["state"].tensors()
    assert all(torch.equal(after[name], x) for name, x in before.items())
    assert int(load_file(tmp_path / "run" / "checkpoint.safetensors")["step"]) == 10


def test_a_gradient_that_is_no_number_stops_the_run_too(tmp_path):
    a = begin(tmp_path / "run")

    def kink(model, x_0, rng):  # sqrt(0) is 0 and its slope is infinite
        return loss(model, x_0, rng) + (model.head.weight * 0).sum().sqrt()

    old = [p.detach().clone() for p in a["state"].model.parameters()]
    with pytest.raises(UserError, match="step 1 "):
        list(train(**a | {"loss": kink}))
    assert all(torch.equal(p, q) for p, q in zip(a["state"].model.parameters(), old, strict=True))


def test_weights_that_validation_finds_broken_replace_no_good_checkpoint(tmp_path):
    """The loss is that of the weights before the step: only validation sees what the step has done."""
    a, verdicts = begin(tmp_path / "run"), iter([2.0, 1.0, 1.5, math.nan])  # at steps 5, 10, 15, 20
    with pytest.raises(UserError, match="step 20") as stopped:
        list(train(**a | {"validate": lambda model: Estimate(next(verdicts), 0.1, torch.zeros(1))}))
    assert "\n" not in str(stopped.value)
    assert int(load_file(tmp_path / "run" / "checkpoint.safetensors")["step"]) == 10
    assert a["state"].best == 1.0


# Stopped and resumed


def resumed_equals_never_stopped(folder, never, **how):
    torch.manual_seed(99)  # whatever the machine did meanwhile
    list(train(**begin(folder, resume=True, **how)))
    assert remains(folder) == remains(never)


@pytest.mark.parametrize("how", [{}, {"ema": 0.9, "seed": 3}, {"optimizer": "muon"}], ids=["plain", "average", "muon"])
@pytest.mark.parametrize("last", [3, 10, 13, 19], ids=["before the first checkpoint", "at it", "after it", "late"])
def test_a_run_that_just_vanished_goes_on_bit_for_bit(tmp_path, how, last):
    how = {"net": replace(NET, dropout=0.2), **how}
    whole(tmp_path / "never", **how)
    lost = train(**begin(tmp_path / "lost", **how))
    next(record for record in lost if record.step == last)
    lost.close()
    resumed_equals_never_stopped(tmp_path / "lost", tmp_path / "never", **how)


def test_a_resumed_run_remembers_how_good_it_once_was(tmp_path):
    """The best validation came before the interruption; a later one that is worse must not take its place."""

    def judged(folder, resume=False):
        a = begin(folder, resume)
        verdict = {5: 1.0, 10: 3.0, 15: 2.0, 20: 2.5}
        return a | {"validate": lambda model: Estimate(verdict[a["state"].step], 0.1, torch.zeros(1))}

    list(train(**judged(tmp_path / "never")))
    lost = train(**judged(tmp_path / "lost"))
    next(record for record in lost if record.step == 13)
    lost.close()
    list(train(**judged(tmp_path / "lost", resume=True)))
    assert remains(tmp_path / "lost") == remains(tmp_path / "never")


def test_a_line_torn_by_the_crash_is_done_again(tmp_path):
    whole(tmp_path / "never")
    lost = train(**begin(tmp_path / "lost"))
    next(record for record in lost if record.step == 13)
    lost.close()
    with open(tmp_path / "lost" / "metrics.jsonl", "a") as f:
        f.write('{"step": 14, "tok')
    assert len(Run(tmp_path / "lost").metrics()) == 13
    resumed_equals_never_stopped(tmp_path / "lost", tmp_path / "never")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["loss", "validate", "caller"])
def test_ctrl_c_saves_at_once_whenever_it_comes(tmp_path, moment, sent):
    """Inside a step, inside a validation, or while the caller draws the record: the step it meets is saved."""
    whole(tmp_path / "never")
    a, handlers = begin(tmp_path / "cut"), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def pressed(here, call):
        def wrapped(*args):
            if a["state"].step == (4 if here == "loss" else 5):  # in the fifth step, or in the validation after it
                signal.raise_signal(sent)
            return call(*args)

        return wrapped if here == moment else call

    once = {"loss": pressed("loss", loss), "validate": pressed("validate", validate)}
    with pytest.raises(UserError, match="--resume") as stopped:
        for record in train(**a | once):
            if moment == "caller" and record.step == 5:
                signal.raise_signal(sent)
    assert "step 5" in str(stopped.value) and str(tmp_path / "cut") in str(stopped.value)
    assert int(load_file(tmp_path / "cut" / "checkpoint.safetensors")["step"]) == 5  # its regular turn is step 10
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed_equals_never_stopped(tmp_path / "cut", tmp_path / "never")


def test_ctrl_c_in_the_last_step_lets_the_run_end(tmp_path):
    for record in train(**begin(tmp_path / "run")):
        if record.step == 20:
            signal.raise_signal(signal.SIGINT)
    assert record.step == 20


def test_the_second_ctrl_c_is_meant(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits "ignore"
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in train(**begin(tmp_path / "run")):
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_loop_also_runs_outside_the_main_thread(tmp_path):
    done = []
    worker = threading.Thread(target=lambda: done.extend(whole(tmp_path / "run", steps=3)))
    worker.start()
    worker.join()
    assert [r.step for r in done] == [1, 2, 3]


def other(change: dict):
    """A checkpoint as another model would have left it."""
    return lambda flat: {name: x for name, x in {**flat, **change}.items() if x is not None}


@pytest.mark.parametrize(
    "damage",
    [
        other({"model.head.weight": torch.zeros(9, 16)}),
        other({"model.head.weight": None}),
        other({"optimizer.exp_avg.head.weight": None}),
        other({"rng": torch.zeros(3, dtype=torch.uint8)}),
        other({"torch_rng": torch.zeros(3)}),
        other({"step": None}),
    ],
    ids=["shape", "weights", "optimizer", "generator", "dtype", "position"],
)
def test_a_checkpoint_of_something_else_is_one_clear_line(tmp_path: Path, damage):
    whole(tmp_path / "run")
    Run(tmp_path / "run").save_checkpoint(damage(load_file(tmp_path / "run" / "checkpoint.safetensors")))
    with pytest.raises(UserError) as refused:
        begin(tmp_path / "run", resume=True)
    assert "\n" not in str(refused.value)
