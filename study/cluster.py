"""The grid on a SLURM cluster, by submitit: an array of jobs that save at SIGUSR1, requeue themselves and go on.

Nothing is kept but files: the folders of the runs, and beside them `jobs/NAME.json` with the number of the job that has
a run. So `submit` can be called at any time, and submits what is neither done nor waiting nor running.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from microdlm.errors import UserError
from microdlm.runs import read_json, write_json
from study.grid import Job

os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")  # its default, USR2, is not what clusters send by custom


@dataclass(frozen=True)
class Place:
    """Where jobs run: names and limits that differ from one cluster to the next."""

    partition: str | None = None  # name of the partition; none: the cluster's default
    account: str | None = None  # whom to charge, where that is asked for
    minutes: int = 450  # wall time of one link of the chain
    warning: int = 300  # seconds before its end at which a job is told to save
    parallel: int = 4  # jobs at once
    gpus: int = 1  # for each run; each takes its part of every batch; 0: none
    accumulate: int = 1  # micro-batches that a GPU cuts its part into, where that does not fit its memory
    cpus: int = 4  # for each run
    memory: int = 32  # GB for each run
    setup: tuple[str, ...] = ()  # shell lines before the run, such as "module load cuda"

    def parameters(self) -> dict:
        """As submitit takes them."""
        processes = max(1, self.gpus)
        asked = {
            "timeout_min": self.minutes,
            "tasks_per_node": processes,
            "cpus_per_task": max(1, self.cpus // processes),
            "mem_gb": self.memory,
            "slurm_signal_delay_s": self.warning,
            "slurm_array_parallelism": self.parallel,
            "slurm_additional_parameters": {"requeue": True},
            "slurm_setup": list(self.setup),
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "gpus_per_node": self.gpus or None,
        }
        return {name: value for name, value in asked.items() if value not in (None, [])}


@dataclass(frozen=True)
class Task:
    """What a job of the cluster does. It is pickled, so it names things and holds none."""

    job: Job
    out: Path
    accumulate: int = 1

    def __call__(self) -> None:
        from submitit.helpers import TorchDistributedEnvironment

        from microdlm.parallel import rank, together

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        with together():
            self.work(is_first=rank() == 0)

    def work(self, is_first: bool) -> None:
        from microdlm.training import Stopped, pick_device
        from study.runner import work

        try:
            for _ in work(self.job, self.out, pick_device(), self.accumulate):
                pass
        except Stopped as stopped:
            if is_first:
                print(stopped, flush=True)
                if stopped.by == signal.SIGUSR1:  # time is nearly up; SIGTERM is somebody who means it
                    requeue()
            sys.exit(0)

    def checkpoint(self):
        """The signal came while nothing was trained, as while data is read: there is nothing to save."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def requeue() -> None:
    """Hand this very job back to the queue. Of an array it names the element: the number means them all."""
    env = os.environ
    array, element = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{element}" if array and element else env.get("SLURM_JOB_ID")
    if name:
        subprocess.run(["scontrol", "requeue", name], check=True, timeout=60)


def queued() -> dict[str, str]:
    """State of every job of ours that waits or runs, and why it waits. UserError: there is no SLURM here."""
    try:
        asked = ["squeue", "-h", "-r", "--me", "-o", "%i|%T|%r"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as e:
        raise UserError(f"squeue does not answer ({type(e).__name__}): run this where SLURM is") from None
    jobs = (line.split("|", 2) for line in found.stdout.splitlines())
    return {number: now.lower() + f" {why}" * (now == "PENDING") for number, now, why in jobs}


def note(job: Job, out: Path) -> Path:
    return out / job.preset / "jobs" / f"{job.folder(out).name}.json"


def ticket(job: Job, out: Path) -> dict:
    """The last job that was submitted for this run: its number `id` and how many `gpus` it has; or nothing."""
    return read_json(note(job, out)) if note(job, out).exists() else {}


def last_words(job: Job, out: Path) -> str:
    """Why the run's last job ended: the last error in its log, or its last line, and where there is more."""
    log = out / job.preset / "jobs" / "logs" / f"{ticket(job, out).get('id')}_0_log.err"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    lines = [line.strip() for line in lines if line.strip()] or ["it left no word"]
    errors = [line for line in lines if "error" in line.lower() and "exit code" not in line]  # srun's words on a death
    return f"{(errors or lines)[-1]} ({log})"


def state(job: Job, out: Path, queue: dict[str, str]) -> str:
    """done, failed; pending, running and what else SLURM says; stalled: begun, and nobody is at it; or new."""
    folder = job.folder(out)
    if (folder / "done.json").exists():
        return "failed" if "failed" in read_json(folder / "done.json") else "done"
    if now := queue.get(ticket(job, out).get("id")):
        return now
    return "stalled" if note(job, out).exists() or (folder / "config.json").exists() else "new"


def submit(todo: list[Job], out: Path, place: Place, states: tuple[str, ...] = ("new", "stalled")) -> dict[str, str]:
    """Submit those of `todo` that are in one of `states`, as one array. Returns {name of the run: number of its job}.
    UserError: SLURM is not here, or refuses."""
    import submitit

    queue = queued()
    mine = [job for job in todo if state(job, out, queue) in states]
    if not mine:
        return {}
    logs = out / mine[0].preset / "jobs" / "logs"
    executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=1000)  # as many links as it takes
    executor.update_parameters(**place.parameters())
    try:
        with executor.batch():
            sent = [executor.submit(Task(job, out.resolve(), place.accumulate)) for job in mine]
    except submitit.core.utils.FailedJobError as e:
        raise UserError(f"SLURM refuses the jobs: {' '.join(str(e).split())[-300:]}") from None
    for job, sent_job in zip(mine, sent, strict=True):
        write_json(note(job, out), {"id": sent_job.job_id, "gpus": place.gpus})
    return {job.folder(out).name: sent_job.job_id for job, sent_job in zip(mine, sent, strict=True)}
