"""The schedule study: 6 proposals x 2 maskings, with seeds, at any size. Run it from the project's folder.

python -m study plan --preset nano         what would be run, and what is done
python -m study run --preset nano          run it, here, one after the other; again: go on where it stopped
python -m study analyse --preset nano      judge it as study/PLAN.md says, into results/
python -m study evaluate --preset nano     have its runs write, and a judge read that; then analyse shows it too
python -m study prepare                    FineWeb-Edu, or a file of yours, to shards of ids
python -m study entropy --preset nano      let GPT-2, or a GPT of yours, say which tokens are hard, before any run
python -m study submit, status, requeue    the same on a SLURM cluster: docs/cluster.md
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Union

import tyro
from rich.markdown import Markdown

from microdlm import cli
from microdlm.parallel import rank, together
from microdlm.runs import ROOT, write_json
from microdlm.terminal import console
from microdlm.training import pick_device
from study import board
from study.cluster import Place, last_words, queued, state, submit
from study.costs import progress
from study.grid import jobs
from study.hardness import Entropy
from study.judges import Evaluate


@dataclass(frozen=True)
class Options:
    preset: str = "nano"  # smoke, nano, shakespeare-10m or fineweb-124m
    grid: str = "exact"  # exact: the grid of 12; published: the 12 as the published study trained them
    seeds: tuple[int, ...] = ()  # which of the preset's; none: all
    out: Path = Path("runs/study")  # folder of the runs


@dataclass(frozen=True)
class Plan(Options):
    """What would be run, how far it is, and what it costs at a speed that was measured."""

    tokens_per_second: float | None = None  # of one device; none: what the runs here have reached

    def run(self) -> None:
        todo = jobs(self.preset, self.grid, self.seeds)
        cost = board.bill(todo, self.out, self.tokens_per_second)
        console.print(board.plan(todo, self.out), cost, sep="\n")


@dataclass(frozen=True)
class Work(Options):
    """Run what is not done, one after the other. Ctrl-C saves; the same command goes on."""

    device: str = "auto"  # auto (a GPU of CUDA if there is one), cpu, cuda
    only: int | None = None  # just this one of the runs, counted from 0
    accumulate: int = 1  # micro-batches that a batch is cut into, where it does not fit the device's memory

    def run(self) -> None:
        with together():  # with the others that torchrun has started, if it has
            console.quiet = rank() > 0
            self.work()

    def work(self) -> None:
        from study.runner import work

        todo, device = jobs(self.preset, self.grid, self.seeds), pick_device(self.device)
        for job in todo if self.only is None else todo[self.only : self.only + 1]:
            folder = job.folder(self.out)
            if (folder / "done.json").exists():
                continue
            with console.status(folder.name) as status:
                for record in work(job, self.out, device, self.accumulate):
                    status.update(f"{folder.name}  {record.step} of {job.how.steps}  loss {record.loss:.3f}")
            console.print(folder.name, *progress(job, self.out))


@dataclass(frozen=True)
class Analyse(Options):
    """Judge the finished runs: JSON, a page with its table, two figures."""

    results: Path = ROOT / "results"  # folder for them

    def run(self) -> None:
        from study.analyse import analysis
        from study.report import write

        page = write(analysis(self.preset, self.grid, self.seeds, self.out), self.results)
        console.print(Markdown(page.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Prepare:
    """Turn text into shards of token ids. Stopped, it goes on where it was."""

    source: str = "fineweb-edu"  # streamed from the Hub; or the path of a .txt, .jsonl or .parquet file
    out: Path = ROOT / "data" / "fineweb-edu"  # folder of the shards
    tokens: int = 1_100_000_000  # how many, held-out ones included; whole shards
    shard_tokens: int = 100_000_000  # in a shard; the first shard is held out
    processes: int = 1  # that tokenise

    def run(self) -> None:
        from study.prepare import prepare

        with console.status("reading") as status:
            for have in prepare(self.source, self.out, self.tokens, self.shard_tokens, self.processes):
                status.update(f"{have:,} tokens")
                console.print(f"{self.out}: {have:,} tokens")


@dataclass(frozen=True)
class Speed:
    """Measure how fast text becomes shards and shards become batches, here."""

    source: str = "data/fineweb-edu.jsonl"  # the path of a .txt, .jsonl or .parquet file
    out: Path = ROOT / "results" / "data_speed.json"

    def run(self) -> None:
        from study.speed import measure

        found = measure(self.source)
        write_json(self.out, found)
        for what, rate in found["tokens_per_second"].items():
            console.print(f"{what}: {rate['median']:,.0f} tokens/s, median of three")


@dataclass(frozen=True)
class Submit(Options):
    """Submit what is neither done nor queued to SLURM, as one array. Call it again whenever you like."""

    place: Place = Place()
    states: tuple[str, ...] = ("new", "stalled")  # runs in these states

    def run(self) -> None:
        sent = submit(jobs(self.preset, self.grid, self.seeds), self.out, self.place, self.states)
        for name, number in sent.items():
            console.print(f"{name}: job {number}")
        console.print(f"{len(sent)} submitted")


@dataclass(frozen=True)
class Requeue(Submit):
    """Submit only runs that were begun and that no job is at any more."""

    states: tuple[str, ...] = ("stalled",)  # runs in these states


@dataclass(frozen=True)
class Status(Options):
    """Every run: its state, how far, how fast, how long still."""

    peak: float = 312e12  # operations a second of the device, for MFU; 312e12: an A100 in bfloat16

    def run(self) -> None:
        queue, todo = queued(), jobs(self.preset, self.grid, self.seeds)
        states = {job: state(job, self.out, queue) for job in todo}
        console.print(board.status(todo, states, self.out, self.peak))
        for job in (job for job in todo if states[job] == "stalled"):
            console.print(f"{job.folder(self.out).name}: {last_words(job, self.out)}", soft_wrap=True)
        if "stalled" in states.values():
            console.print("Stalled runs go on with: python -m study requeue")


COMMANDS = Union[  # noqa: UP007
    Annotated[Plan, tyro.conf.subcommand("plan")],
    Annotated[Work, tyro.conf.subcommand("run")],
    Annotated[Submit, tyro.conf.subcommand("submit")],
    Annotated[Requeue, tyro.conf.subcommand("requeue")],
    Annotated[Status, tyro.conf.subcommand("status")],
    Annotated[Prepare, tyro.conf.subcommand("prepare")],
    Annotated[Entropy, tyro.conf.subcommand("entropy")],
    Annotated[Speed, tyro.conf.subcommand("speed")],
    Annotated[Analyse, tyro.conf.subcommand("analyse")],
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")],
]


def main(command) -> None:
    command.run()


if __name__ == "__main__":
    cli.run(main, COMMANDS, __doc__)
