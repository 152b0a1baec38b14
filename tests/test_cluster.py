"""On a real SLURM of one node: what is signalled is saved, requeued and finished, as if nothing had happened."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from slurm import Slurm, missing, wait_for

from microdlm.errors import UserError
from microdlm.runs import ROOT
from study import cluster, runner
from study.grid import jobs

PLACE = cluster.Place(minutes=10, warning=60, parallel=2, gpus=0, cpus=1, memory=1)


@pytest.fixture(scope="module")
def slurm():
    pytest.importorskip("submitit")
    if missing():
        pytest.skip(f"no SLURM here ({', '.join(missing())}): apt-get install munge slurmctld slurmd slurm-client")
    with Slurm() as running:
        patch = pytest.MonkeyPatch()
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, running.env[name])
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(ROOT)
        yield running
        patch.undo()


def steps(folder: Path) -> list[int]:
    path = folder / "metrics.jsonl"
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in whole if line.endswith("\n")]


def remains(folder: Path) -> tuple:
    done = json.loads((folder / "done.json").read_text())
    records = [json.loads(line) | {"seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {k: v for k, v in done.items() if k != "made_by"}, records


def test_signalled_saved_requeued_and_finished_it_equals_a_run_that_was_left_alone(slurm, tmp_path):
    """An array of two; both are signalled in the middle, and the states they go through are what `status` says."""
    todo = [jobs("smoke")[0], jobs("smoke")[7]]
    folders = [job.folder(tmp_path) for job in todo]
    assert [cluster.state(job, tmp_path, cluster.queued()) for job in todo] == ["new", "new"]
    sent = cluster.submit(todo, tmp_path, PLACE)
    assert list(sent) == [folder.name for folder in folders]
    assert cluster.submit(todo, tmp_path, PLACE) == {}  # asked again, nothing is submitted twice
    for folder, number in zip(folders, sent.values(), strict=True):
        wait_for(lambda folder=folder: len(steps(folder)) > 20, f"20 steps of {folder.name}", slurm.folder, 120)
        subprocess.run(["scancel", "--signal=USR1", number], env=slurm.env, check=True, timeout=30)
    logs = tmp_path / "smoke" / "jobs" / "logs"
    for folder in folders:
        wait_for(lambda folder=folder: (folder / "done.json").exists(), f"the end of {folder.name}", slurm.folder, 240)
    said = "".join(p.read_text() for p in logs.glob("*.out"))
    assert said.count("stopped after step") == 2  # they were cut off indeed
    for number in sent.values():
        assert "Restarts=1" in slurm.ask("scontrol", "show", "job", number)
    assert [cluster.state(job, tmp_path, {}) for job in todo] == ["done", "done"]
    for job, folder in zip(todo, folders, strict=True):
        assert steps(folder) == list(range(1, 401))
        list(runner.work(job, tmp_path / "alone"))
        assert remains(folder) == remains(job.folder(tmp_path / "alone"))


def test_a_run_whose_job_is_gone_is_stalled_and_is_taken_up_again(slurm, tmp_path):
    """Cancelled by hand: it saves and does not come back by itself. `requeue` finds it, and it goes on where it was."""
    job = jobs("smoke")[3]
    (number,) = cluster.submit([job], tmp_path, PLACE).values()
    folder = job.folder(tmp_path)
    wait_for(lambda: len(steps(folder)) > 20, "20 steps", slurm.folder, 120)
    subprocess.run(["scancel", number], env=slurm.env, check=True, timeout=30)
    wait_for(lambda: cluster.state(job, tmp_path, cluster.queued()) == "stalled", "the end of the job", slurm.folder)
    assert not (folder / "done.json").exists() and steps(folder) == list(range(1, len(steps(folder)) + 1))
    assert list(cluster.submit([job], tmp_path, PLACE, states=("stalled",))) == [folder.name]
    wait_for(lambda: (folder / "done.json").exists(), "the end of the run", slurm.folder, 240)
    assert steps(folder) == list(range(1, 401))


def test_what_slurm_refuses_is_one_clear_line(slurm, tmp_path):
    with pytest.raises(UserError, match="SLURM refuses") as refused:
        cluster.submit([jobs("smoke")[0]], tmp_path, cluster.Place(partition="nowhere", gpus=0))
    assert "\n" not in str(refused.value)


# ---- without one ----


def test_where_there_is_no_slurm_one_line_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue"):
        cluster.queued()


@pytest.mark.parametrize(
    "env, name",
    [
        ({"SLURM_JOB_ID": "8"}, "8"),
        ({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "7_2"),
    ],
)
def test_of_an_array_only_the_element_is_requeued(monkeypatch, env, name):
    """The last element's job has the number of the whole array: by that number all would run again."""
    for key in [key for key in os.environ if key.startswith("SLURM_")]:
        monkeypatch.delenv(key)
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    asked = []
    monkeypatch.setattr(cluster.subprocess, "run", lambda argv, **_: asked.append(argv))
    cluster.requeue()
    assert asked == [["scontrol", "requeue", name]]


def test_tokens_a_second_and_hours_left_come_from_the_last_steps(tmp_path):
    job = jobs("smoke")[0]
    folder = job.folder(tmp_path)
    folder.mkdir(parents=True)
    lines = [{"step": i, "tokens": 64 * i, "seconds": 9.0 if i <= 100 else 0.5} for i in range(1, 301)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cluster.speed(job, tmp_path) == (300, pytest.approx(128), pytest.approx(100 * 0.5 / 3600))
    assert cluster.utilisation(1e5, 124_000_000, 312e12) == pytest.approx(0.2385, abs=1e-3)
