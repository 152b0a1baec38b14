"""On a real SLURM of one node: what is signalled is saved, requeued and finished, as if nothing had happened."""

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from slurm import Slurm, missing, wait_for

from microdlm.errors import UserError
from microdlm.runs import ROOT
from microdlm.terminal import console
from study import cluster, costs, runner
from study.__main__ import Plan, Requeue, Status
from study.grid import Job, jobs

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


def test_two_processes_of_one_run_stop_together_are_requeued_once_and_end_as_one_process_would(slurm, tmp_path):
    """A run that asks for two GPUs gets two processes, started by srun. (There are no GPUs here; they are counted.)
    The same run in one process and two parts a batch leaves the same, bit for bit."""
    job = jobs("smoke")[1]
    (number,) = cluster.submit([job], tmp_path, replace(PLACE, gpus=2, cpus=2)).values()
    folder = job.folder(tmp_path)
    wait_for(lambda: len(steps(folder)) > 20, "20 steps", slurm.folder, 120)
    subprocess.run(["scancel", "--signal=USR1", number], env=slurm.env, check=True, timeout=30)
    wait_for(lambda: (folder / "done.json").exists(), "the end of the run", slurm.folder, 240)
    assert "Restarts=1" in slurm.ask("scontrol", "show", "job", number)
    logs = [p.read_text() for p in sorted((tmp_path / "smoke" / "jobs" / "logs").glob("*.out"))]
    assert [log.count("stopped after step") for log in logs] == [1, 0]
    list(runner.work(job, tmp_path / "alone", accumulate=2))
    (two, records), (one, its_records) = remains(folder), remains(job.folder(tmp_path / "alone"))
    assert records == its_records
    assert two == one | {"processes": 2, "accumulate": 1}


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """said(Status) -> what that command prints, of the smoke runs in tmp_path."""
    monkeypatch.setattr(console, "width", 200)

    def run(command, **options) -> str:
        command(preset="smoke", out=tmp_path, **options).run()
        return capsys.readouterr().out

    return run


def test_runs_whose_jobs_are_gone_are_stalled_and_requeue_takes_them_up_again(slurm, tmp_path, said):
    """One is cancelled by hand, saves, and does not come back by itself; one dies and saves nothing. `status` says what
    became of them, and `requeue` finds them and nothing else. They go on where they were."""
    todo = [jobs("smoke")[3], jobs("smoke")[4]]
    sent, folders = cluster.submit(todo, tmp_path, PLACE), [job.folder(tmp_path) for job in todo]
    for folder, (how, number) in zip(folders, zip(("TERM", "USR2"), sent.values(), strict=True), strict=True):
        wait_for(lambda folder=folder: len(steps(folder)) > 20, "20 steps", slurm.folder, 120)
        subprocess.run(["scancel", f"--signal={how}", number], env=slurm.env, check=True, timeout=30)
    stalled = lambda: {cluster.state(job, tmp_path, cluster.queued()) for job in todo} == {"stalled"}  # noqa: E731
    wait_for(stalled, "the end of the jobs", slurm.folder)
    for folder in folders:
        assert not (folder / "done.json").exists() and steps(folder) == list(range(1, len(steps(folder)) + 1))
    status = said(Status)
    assert status.count("stalled") == 2 and "study requeue" in status
    assert "CANCELLED" in status and "task 0: User defined signal 2" in status
    assert "2 submitted" in said(Requeue, place=PLACE)
    assert "0 submitted" in said(Requeue, place=PLACE)
    for folder in folders:
        wait_for(lambda folder=folder: (folder / "done.json").exists(), "the end of the run", slurm.folder, 240)
        assert steps(folder) == list(range(1, 401))


def test_status_says_why_a_job_waits(slurm, tmp_path, said):
    """A time above the partition's limit is accepted, and then waits for ever."""
    job = jobs("smoke")[5]
    cluster.submit([job], tmp_path, replace(PLACE, partition="short"))
    waits = lambda: cluster.state(job, tmp_path, cluster.queued()) == "pending PartitionTimeLimit"  # noqa: E731
    wait_for(waits, "the scheduler's word", slurm.folder)
    assert "PartitionTimeLimit" in said(Status)


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


def test_a_job_with_several_gpus_has_a_process_for_each_and_shares_its_cores():
    for gpus, processes, cores in ((0, 1, 8), (1, 1, 8), (2, 2, 4), (16, 16, 1)):
        asked = cluster.Place(gpus=gpus, cpus=8).parameters()
        assert (asked["tasks_per_node"], asked["cpus_per_task"], asked.get("gpus_per_node", 0)) == (
            processes,
            cores,
            gpus,
        )


def begun(out: Path, job: Job, seconds: float = 0.5, gpus: int | None = None) -> None:
    """What a run that has done 300 steps leaves; each took so long, but the first 100 much longer."""
    folder = job.folder(out)
    folder.mkdir(parents=True)
    lines = [{"step": i, "tokens": 64 * i, "seconds": 9.0 if i <= 100 else seconds} for i in range(1, 301)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if gpus is not None:
        cluster.note(job, out).parent.mkdir(exist_ok=True)
        cluster.note(job, out).write_text(json.dumps({"id": "7", "gpus": gpus}))


def test_tokens_a_second_and_hours_left_come_from_the_last_steps(tmp_path):
    job = jobs("smoke")[0]
    begun(tmp_path, job)
    assert costs.speed(job, tmp_path) == (300, pytest.approx(128), pytest.approx(100 * 0.5 / 3600))
    assert costs.utilisation(1e5, 124_000_000, 312e12) == pytest.approx(0.2385, abs=1e-3)


def test_the_speed_of_a_device_is_the_median_of_runs_each_divided_by_its_gpus(tmp_path):
    a, b, c, new = jobs("smoke")[:4]
    assert costs.device_speed([a, b, c, new], tmp_path) is None
    for job, seconds, gpus in ((a, 0.5, None), (b, 0.25, 4), (c, 0.5, 0)):  # 128; 256 on four; 128 without any
        begun(tmp_path, job, seconds, gpus)
    assert costs.device_speed([a, b, new], tmp_path) == pytest.approx((128 + 64) / 2)
    assert costs.device_speed([a, b, c, new], tmp_path) == pytest.approx(128)


def test_what_a_run_costs_is_its_tokens_at_that_speed(tmp_path):
    """3,276,800,000 tokens at 100,000 a second are 9.1 hours; what is done is not to be paid again."""
    every, left = costs.device_hours(jobs("fineweb-124m")[0], tmp_path, 1e5)
    assert every == left == pytest.approx(3_276_800_000 / 1e5 / 3600) == pytest.approx(9.102, abs=1e-3)
    job = jobs("smoke")[0]
    begun(tmp_path, job)
    assert costs.device_hours(job, tmp_path, 64 / 3600) == (pytest.approx(400), pytest.approx(100))
    (job.folder(tmp_path) / "done.json").write_text('{"failed": "the loss is nan", "steps": 300}')
    assert costs.device_hours(job, tmp_path, 64 / 3600) == (pytest.approx(400), 0)  # it stays failed


def test_plan_says_what_it_costs_or_what_is_missing_to_say_so(tmp_path, said):
    """At a speed that is given, or that runs have reached here; never at one that is made up."""
    assert "device hours" not in said(Plan) and "--tokens-per-second" in said(Plan)
    given = said(Plan, tokens_per_second=100.0)
    assert "100 tokens a second and device, as given: 0.07 device hours a run, 0.9 for all 12, 0.9 of them" in given
    begun(tmp_path, jobs("smoke")[0])
    assert "128 tokens a second and device, as measured here" in said(Plan)
    for wrong in (0.0, -5.0, float("nan")):
        with pytest.raises(UserError, match="above 0"):
            said(Plan, tokens_per_second=wrong)


def test_a_run_says_how_long_it_has_been_silent(tmp_path):
    job = jobs("smoke")[0]
    assert costs.silence(job, tmp_path) == ""
    begun(tmp_path, job)
    path = job.folder(tmp_path) / "metrics.jsonl"
    for ago, said in ((5, "5 s"), (119, "119 s"), (120, "2 min"), (3 * 3600, "3 h"), (50 * 3600, "2 d")):
        os.utime(path, (time.time() - ago, time.time() - ago))
        assert costs.silence(job, tmp_path) == said


def test_the_last_words_of_a_job_are_its_last_error(tmp_path):
    """Not what srun says of every job that fails."""
    job = jobs("smoke")[0]
    assert "left no word" in cluster.last_words(job, tmp_path)
    begun(tmp_path, job, gpus=1)
    logs = tmp_path / "smoke" / "jobs" / "logs"
    logs.mkdir()
    for left, why in (
        ("slurmstepd: error: *** STEP 5.0 CANCELLED ***\n", "slurmstepd: error: *** STEP 5.0 CANCELLED ***"),
        (
            "Traceback\nOutOfMemoryError: CUDA\nsrun: error: a: task 0: Exited with exit code 1\n",
            "OutOfMemoryError: CUDA",
        ),
        ("srun: error: a: task 0: Killed\nsrun: Force Terminated StepId=5.0\n\n", "srun: error: a: task 0: Killed"),
        ("starting\nreading\n", "reading"),
    ):
        (logs / "7_0_log.err").write_text(left)
        assert cluster.last_words(job, tmp_path) == f"{why} ({logs / '7_0_log.err'})"
