"""A run's folder: what is in it is whole, what was in it stays, and kill -9 costs time but no bit."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from microdlm import runs
from microdlm.errors import UserError
from microdlm.files import atomic, read_json, read_tensors, write_json, write_tensors
from microdlm.runs import ROOT, Run, changes, git, provenance

CONFIG = {"kind": "gpt", "model": {"seq_len": 8, "causal": True}, "training": {"steps": 3, "lr": 0.1}}


def one_line(error) -> str:
    """What was said, if it is one line."""
    assert str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# Files are whole


@pytest.mark.parametrize("crash", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_crash_while_writing_leaves_the_old_file_and_no_litter(tmp_path, crash):
    path = tmp_path / "a.json"
    write_json(path, "old")
    with pytest.raises(crash), atomic(path) as beside:
        beside.write_text("half of it")
        raise crash
    assert listing(tmp_path) == {"a.json": b'"old"\n'}


def test_nobody_ever_sees_half_a_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")
    with atomic(path) as beside:
        beside.write_text("new")
        assert path.read_text() == '"old"\n' and beside.parent == path.parent  # a rename needs one file system
    assert listing(tmp_path) == {"a.json": b"new"}


def test_a_disk_that_is_full_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(3)})
    old = listing(tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="a.safetensors cannot be written .No space left on device") as refused:
        write_tensors(path, {"x": torch.arange(4)})
    one_line(refused)
    assert listing(tmp_path) == old


def test_tensors_and_json_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor(7), "c": torch.zeros(2, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "x", tensors | {"view": torch.arange(6).view(2, 3).T})
    back = read_tensors(tmp_path / "x")
    assert all(torch.equal(back[name], x) and back[name].dtype == x.dtype for name, x in tensors.items())
    assert back["view"].tolist() == [[0, 3], [1, 4], [2, 5]]
    write_json(tmp_path / "y", {"é": [1, None]})
    assert read_json(tmp_path / "y") == {"é": [1, None]}


def test_what_cannot_be_read_is_one_clear_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "noise").write_bytes(b"\x80\x02}q\x00.\n\n" * 9)
    (tmp_path / "cut.json").write_text('{"a": [1,\n2')
    write_tensors(tmp_path / "whole", {"x": torch.arange(99)})
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-1])
    (tmp_path / "empty").write_bytes(b"")
    for name in ("missing", "noise", "cut.json", "empty", "folder"):
        with pytest.raises(UserError, match=name) as refused:
            read_json(tmp_path / name)
        one_line(refused)
    for name in ("missing", "noise", "cut", "empty", "folder"):
        with pytest.raises(UserError, match=name) as refused:
            read_tensors(tmp_path / name)
        one_line(refused)


def test_not_one_bit_may_change_unseen(tmp_path):
    """Each bit of a file turned over, one at a time: refused in one line, or nothing that counts has changed."""
    kept = {"step": torch.tensor(7), "w": torch.tensor([[0.5, -2.0]]), "z": torch.zeros(0)}
    write_tensors(tmp_path / "x", kept)
    sound, refused = (tmp_path / "x").read_bytes(), 0
    for bit in range(8 * len(sound)):
        (tmp_path / "x").write_bytes(
            sound[: bit // 8] + bytes([sound[bit // 8] ^ 1 << bit % 8]) + sound[bit // 8 + 1 :]
        )
        try:
            back = read_tensors(tmp_path / "x")
        except UserError as e:
            assert "\n" not in str(e) and str(tmp_path / "x") in str(e)
            refused += 1
        else:
            assert back.keys() == kept.keys() and all(torch.equal(back[name], x) for name, x in kept.items())
    numbers = sum(x.nbytes for x in kept.values())
    assert refused >= 8 * numbers + 8 * 64  # whatever lies in the numbers or in the checksum itself


# A folder is one run


def test_a_run_says_what_made_it(tmp_path):
    run = Run.open(tmp_path / "deep" / "run", CONFIG)
    assert {key: run.config[key] for key in CONFIG} == CONFIG
    made = run.config["made_by"]
    assert made["commit"] == (git("rev-parse", "HEAD") or None)
    assert made["torch"] == torch.__version__ and made["command"].startswith("python ")
    assert {"date", "python", "device", "instructions", "threads", "uncommitted_changes"} <= set(made)


def test_what_commands_write_is_no_change_of_the_code(monkeypatch, tmp_path):
    """make artifacts writes one thing after the other: none may make the next look as if its code were in no commit."""
    paths = ["code.py", "results/a.json", "results/figures/a.png", "web/frames.json", "web/og.png", "notebooks/0.ipynb"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        assert subprocess.run(["git", "-C", tmp_path, *words]).returncode == 0
    for path in reversed(paths):
        assert not provenance()["uncommitted_changes"]
        (tmp_path / path).write_text("2")
    assert provenance()["uncommitted_changes"]


def test_without_git_a_run_says_that_it_does_not_know(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no such program
    assert git("status") == ""
    made = provenance()
    assert made["commit"] is None and made["uncommitted_changes"] is None
    monkeypatch.undo()
    monkeypatch.setattr(runs, "ROOT", tmp_path)  # no repository
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git("rev-parse", "HEAD") == ""


@pytest.mark.parametrize("what", ["a run", "somebody's notes", "a file"])
def test_what_is_there_is_never_touched(tmp_path, what):
    out = tmp_path / "run"
    if what == "a run":
        Run.open(out, CONFIG)
    elif what == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(UserError, match="--resume") as refused:
        Run.open(out, CONFIG)
    assert str(out) in one_line(refused)
    assert listing(tmp_path) == before


def test_an_empty_folder_is_free(tmp_path):
    assert Run.open(tmp_path, CONFIG).config["kind"] == "gpt"


def test_resume_needs_a_run_and_makes_none(tmp_path):
    for out in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match="no run to resume") as refused:
            Run.open(out, CONFIG, resume=True)
        one_line(refused)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "part, key, value, says",
    [
        ("model", "seq_len", 16, "model.seq_len = 8, not 16"),
        ("training", "lr", 0.2, "training.lr = 0.1, not 0.2"),
        ("training", "ema", 0.9, "training.ema = None, not 0.9"),
        ("model", "causal", False, "model.causal = True, not False"),
    ],
)
def test_resume_with_other_options_names_the_difference(tmp_path, part, key, value, says):
    Run.open(tmp_path / "run", CONFIG)
    before = listing(tmp_path)
    with pytest.raises(UserError) as refused:
        Run.open(tmp_path / "run", CONFIG | {part: CONFIG[part] | {key: value}}, resume=True)
    assert says in one_line(refused)
    assert listing(tmp_path) == before


def test_a_difference_in_the_alphabet_is_told_in_one_line(tmp_path):
    Run.open(tmp_path / "run", {"tokenizer": {"alphabet": "\nabc"}})
    with pytest.raises(UserError, match="tokenizer.alphabet") as refused:
        Run.open(tmp_path / "run", {"tokenizer": {"alphabet": "\nabd"}}, resume=True)
    one_line(refused)


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="file") as refused:
        Run.open(tmp_path / "file" / "run", CONFIG)
    one_line(refused)


def test_resume_with_the_same_options_changes_nothing(tmp_path):
    Run.open(tmp_path / "run", CONFIG)
    before = listing(tmp_path)
    Run.open(tmp_path / "run", CONFIG, resume=True)
    assert listing(tmp_path) == before


leaves = st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3)
configs = st.fixed_dictionaries({part: st.dictionaries(st.sampled_from("xyz"), leaves) for part in "abc"})


@given(configs, st.sampled_from("abc"), st.sampled_from("xyz"), leaves)
def test_no_difference_goes_unnoticed(old, part, key, value):
    new = old | {part: old[part] | {key: value}}
    found = changes(old, new)
    assert changes(new, new) == [] and len(found) == (old[part].get(key) != value)
    assert all(key in phrase and part in phrase for phrase in found)


# Metrics


def test_metrics_come_back_and_rewind(tmp_path):
    run = Run.open(tmp_path, CONFIG)
    assert run.metrics() == []
    records = [{"step": step, "loss": 1 / step, "val": None} for step in range(1, 6)]
    for record in records:
        run.log(record)
    assert run.metrics() == records
    run.rewind(3)
    assert run.metrics() == records[:3]
    run.log(records[3])
    assert run.metrics() == records[:4]
    run.rewind(0)
    assert run.metrics() == []


def test_a_line_torn_by_a_crash_costs_only_itself(tmp_path):
    run = Run.open(tmp_path, CONFIG)
    run.log({"step": 1})
    run.log({"step": 2})
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    for cut in range(1, len(b'{"step": 2}\n') + 1):
        (tmp_path / "metrics.jsonl").write_bytes(whole[:-cut])
        assert run.metrics() == [{"step": 1}]
        run.rewind(2)
        run.log({"step": 2})
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_metrics_that_somebody_broke_are_one_clear_line(tmp_path):
    run = Run.open(tmp_path, CONFIG)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nwhat is this\n{"step": 2}\n')
    with pytest.raises(UserError, match="metrics.jsonl") as refused:
        run.metrics()
    one_line(refused)


def test_done_is_what_every_json_reader_can_read(tmp_path):
    run = Run.open(tmp_path, CONFIG)
    run.finish({"steps": 3, "best": 1.5})
    assert read_json(tmp_path / "done.json")["best"] == 1.5
    assert "made_by" in read_json(tmp_path / "done.json")


# Killed for real

TRAIN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import diffusion
from microdlm import cli
from microdlm.state import TrainConfig

diffusion.PRESETS["nano"] = (
    12, dict(n_layer=1, n_head=2, d_model=16), TrainConfig(steps=30, batch_size=4, ema=0.9, checkpoints=3, evals=5)
)
plain, calls, hang = diffusion.loss, [], int(sys.argv.pop(1))

def loss(model, x_0, rng):  # waits in the middle of a step until somebody has done something to us
    calls.append(1)
    if len(calls) == hang:
        Path("here").touch()
        while not Path("go on").exists():
            time.sleep(0.01)
    return plain(model, x_0, rng)

diffusion.loss = loss
cli.run(diffusion.main, diffusion.Config, diffusion.__doc__)
"""


def start(folder: Path, out: str, *options: str, hang: int = 0) -> subprocess.Popen:
    for leftover in ("here", "go on"):
        (folder / leftover).unlink(missing_ok=True)
    script = folder / "train.py"
    script.write_text(TRAIN.format(root=str(ROOT)))
    argv = [script, str(hang), "--train", "--data", "text.txt", "--dropout", "0.1", "--device", "cpu", "--out", out]
    return subprocess.Popen(
        [sys.executable, *map(str, argv), *options],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def in_the_middle(process: subprocess.Popen, folder: Path) -> None:
    """Wait until the process is inside the step in which it hangs."""
    deadline = time.monotonic() + 240
    while not (folder / "here").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def bits(folder: Path) -> dict:
    records = [json.loads(line) | {"seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "checkpoint")}
    return {"records": records} | {
        f"{f} {name}": x.tolist() for f, tensors in files.items() for name, x in tensors.items()
    }


def test_ctrl_c_and_kill_9_cost_no_bit(tmp_path):
    """Ctrl-C in step 7, kill -9 in step 14, the end: the same records and bits as never stopped."""
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question:\n" * 40)
    never = start(tmp_path, "never")
    out, err = never.communicate(timeout=300)
    assert never.returncode == 0, err
    run, resume = tmp_path / "a run", ("--resume",)

    stopped = start(tmp_path, "a run", hang=7)
    in_the_middle(stopped, tmp_path)
    stopped.send_signal(signal.SIGINT)
    (tmp_path / "go on").touch()
    out, err = stopped.communicate(timeout=300)
    assert stopped.returncode == 2
    assert err.count("\n") == 1 and "step 7" in err and "--resume" in err and "a run" in err
    assert int(load_file(run / "checkpoint.safetensors")["step"]) == 7  # its regular turn is step 10
    assert not (run / "done.json").exists()

    killed = start(tmp_path, "a run", *resume, hang=7)  # its seventh loss is that of step 14
    in_the_middle(killed, tmp_path)
    killed.kill()
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert Run(run).metrics()[-1]["step"] == 13
    assert int(load_file(run / "checkpoint.safetensors")["step"]) == 10

    last = start(tmp_path, "a run", *resume)
    out, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert bits(run) == bits(tmp_path / "never")
    done = [read_json(tmp_path / name / "done.json") for name in ("a run", "never")]
    assert done[0]["best"] == done[1]["best"] < math.inf and done[0]["steps"] == done[1]["steps"] == 30
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in (tmp_path / "never").iterdir())  # no litter


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no modes")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_tensors_may_be_read_by_whom_other_files_may_be_read(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", 1)
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~mask}
