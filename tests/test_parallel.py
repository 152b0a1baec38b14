"""A batch in parts: in one process or in several, what is learnt is what the whole batch teaches."""

import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slurm import free_ports, wait_for
from small_study import small

from microdlm.errors import UserError
from microdlm.parallel import add_up, agreed, rank, ranks, together
from microdlm.runs import ROOT, Run
from microdlm.transformer import Transformer, TransformerConfig
from steps.step7_schedule_study import GRID, LOSSES, PUBLISHED
from study import parts, runner
from study.grid import PRESETS, jobs

B, L, MASK = 16, 12, 7
JOB = jobs("smoke")[0]
ARMS = [GRID[1], GRID[9], PUBLISHED[0], PUBLISHED[7]]  # exact and plain, uniform and by type


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def step(arm, accumulate: int, dtype=torch.float64, low: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss and gradients of one batch in so many parts; none: as step 7 has it."""
    net = TransformerConfig(MASK + 1, L, n_layer=2, n_head=2, d_model=16, tied=True)
    model, x_0, rng = Transformer(net), torch.randint(MASK, (B, L), generator=seeded(1)), seeded(2)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=rng)
    model.to(dtype)  # after they are drawn: in float64 other numbers would be
    args = arm, torch.linspace(0.5, 1.5, MASK).double(), MASK
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        loss = parts.loss(*args, accumulate, model, x_0, seeded(3)) if accumulate else None
        loss = LOSSES[arm.weight](*args, model, x_0, seeded(3)) if loss is None else loss
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()]


# ---- one process ----


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_in_one_part_it_is_the_loss_of_step_7(arm):
    """Bit for bit: what was measured before there were parts still stands."""
    (loss, grads), (its_loss, its_grads) = step(arm, 1, torch.float32), step(arm, 0, torch.float32)
    assert torch.equal(loss, its_loss)
    assert all(map(torch.equal, grads, its_grads))


@pytest.mark.parametrize("accumulate", [2, 3, B], ids="in {} parts".format)
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_in_several_parts_loss_and_gradients_are_those_of_the_whole(arm, accumulate):
    """In float64 nothing is left but the last digits: what float32 shows is the order of its sums, and no mistake."""
    (loss, grads), (whole, its_grads) = step(arm, accumulate), step(arm, 1)
    torch.testing.assert_close(loss, whole, rtol=1e-13, atol=0)
    torch.testing.assert_close(grads, its_grads, rtol=1e-9, atol=1e-13)


def test_parts_in_bfloat16_are_as_far_from_the_truth_as_the_whole_is():
    """Gradients are taken inside of autocast, between the parts: it must neither touch them nor miss a part."""
    (_, whole), (_, low), (_, cut) = (
        step(GRID[0], 1),
        step(GRID[0], 1, torch.float32, True),
        step(GRID[0], 4, torch.float32, True),
    )
    off = [sum((g.double() - w).square().sum() for g, w in zip(grads, whole, strict=True)) for grads in (low, cut)]
    assert off[1] < 2 * off[0] < 1e-2 * sum(w.square().sum() for w in whole)


@pytest.mark.parametrize("accumulate", [0, -1, 5])
def test_more_parts_than_rows_are_one_clear_line(tmp_path, accumulate):
    with pytest.raises(UserError, match="a batch of 4 rows") as refused:
        list(runner.work(JOB, tmp_path, accumulate=accumulate))
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_alone_nothing_is_added_and_the_flag_is_ones_own():
    with together():
        x = torch.ones(3)
        add_up(x)
        assert (rank(), ranks(), agreed(10), x.tolist()) == (0, 1, 10, [1, 1, 1])


# ---- two processes ----


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run in one process and two parts a batch: two processes have to leave what it leaves, bit for bit. Until the
    tests of this file are over, the smoke preset is a smaller one, here and in all that is started from here."""
    out = tmp_path_factory.mktemp("alone")
    (out / "text.txt").write_text("The cat sat on the mat. The dog sat on the log.\n" * 200)
    runner.text.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMALL_TEXT", str(out / "text.txt"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setitem(PRESETS, "smoke", small())
        list(runner.work(JOB, out, accumulate=2))
        yield JOB.folder(out)
    runner.text.cache_clear()


def records(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) | {"seconds": 0} for line in whole if line.endswith("\n")]


def remains(folder: Path) -> dict:
    done = json.loads((folder / "done.json").read_text())
    done = {key: value for key, value in done.items() if key not in ("made_by", "processes", "accumulate")}
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "checkpoint")}
    bits = {f"{file} {name}": x.tolist() for file, tensors in files.items() for name, x in tensors.items()}
    return {"done": done, "records": records(folder), **bits}


def command(out: Path, *launcher: str) -> list[str]:
    study = [str(ROOT / "tests" / "small_study.py"), "run", "--preset", "smoke", "--only", "0", "--out", str(out)]
    return [sys.executable, *launcher, *study]


def two(*outs: Path) -> list[subprocess.Popen]:
    """Two processes that train together, as srun would start them; each is told a folder of its own."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    how = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return [
        subprocess.Popen(command(out), env=os.environ | where | {"RANK": str(i), "LOCAL_RANK": str(i)}, **how)
        for i, out in enumerate(outs)
    ]


def test_two_processes_stop_at_one_step_and_one_process_ends_their_run(alone, tmp_path):
    """The signal comes to the second only. It writes nothing, here or elsewhere; the first saves for both."""
    both, folder = two(tmp_path / "first", tmp_path / "second"), JOB.folder(tmp_path / "first")
    try:
        wait_for(lambda: len(records(folder)) > 20, "20 steps", tmp_path, 240)
        both[1].send_signal(signal.SIGUSR1)
        said = [process.communicate(timeout=240)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    step = len(records(folder))
    assert [process.returncode for process in both] == [2, 2], said
    assert 20 < step < 200
    assert all(f"stopped after step {step}," in words for words in said)
    assert int(load_file(folder / "checkpoint.safetensors")["step"]) == step
    assert not (tmp_path / "second").exists()
    list(runner.work(JOB, tmp_path / "first", accumulate=2))
    assert remains(folder) == remains(alone)


def test_what_the_first_process_is_refused_ends_the_other_in_one_line_too(alone, tmp_path):
    """It is refused because the folder has another run; the second does not wait for it, and does not break."""
    folder = JOB.folder(tmp_path)
    folder.mkdir(parents=True)
    shutil.copy(alone / "config.json", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"preset": "another"}))
    both = two(tmp_path, tmp_path)
    try:
        said = [process.communicate(timeout=240)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [2, 2]
    assert "was started with preset" in said[0] and "the first process could not start" in said[1]
    assert "Traceback" not in "".join(said)


def of_rank(agent: int, which: int) -> int:
    """The process that torchrun has started as this rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == agent and f"RANK={which}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
        except (OSError, ValueError):
            continue
    raise AssertionError(f"torchrun has no process of rank {which}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="whose rank a process is, is looked up in /proc")
def test_torchrun_with_a_rank_killed_9_goes_on_from_the_checkpoint_and_ends_equal(alone, tmp_path):
    folder = JOB.folder(tmp_path)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    # Without this, the first restart of gloo's fails: it meets addresses of the processes that are gone.
    env = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    agent = subprocess.Popen(
        command(tmp_path, *torchrun), cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_for(lambda: len(records(folder)) > 110, "110 steps", tmp_path, 240)  # the checkpoint is at 100
        os.kill(of_rank(agent.pid, 1), signal.SIGKILL)
        said, _ = agent.communicate(timeout=240)
    finally:
        agent.kill()
    assert agent.returncode == 0, said
    assert "exitcode: -9) local_rank: 1" in said and [r["step"] for r in records(folder)] == list(range(1, 201))
    assert remains(folder) == remains(alone)
    assert json.loads((folder / "done.json").read_text())["processes"] == 2


def test_the_losses_of_two_processes_are_those_of_one(alone, tmp_path):
    """To the last digits of float32 at first. Then that grows, for AdamW divides a gradient by its size: of one that is
    all but zero, the last digits decide. In 100 steps it grows to a thousandth."""
    whole = list(islice(runner.work(JOB, tmp_path), 100))
    one, cut = [r.loss for r in whole], [r["loss"] for r in records(alone)[:100]]
    assert one[:2] == pytest.approx(cut[:2], rel=1e-6)
    assert one == pytest.approx(cut, rel=5e-3)
    assert one != cut  # or else they were not rounded otherwise, and this shows nothing


def test_an_onlooker_reads_and_writes_nothing(tmp_path):
    Run.open(tmp_path / "run", {"a": 1}).log({"step": 1})
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    other = parts.Onlooker(tmp_path / "run")
    other.log({"step": 2})
    other.rewind(0)
    other.save_checkpoint({"x": torch.zeros(1)})
    other.save_model({"x": torch.zeros(1)})
    other.finish({})
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert other.metrics() == [{"step": 1}] and other.config["a"] == 1
