"""Watch a diffusion model and a GPT write, in a terminal.

    python visualize.py                                        the race: the same prompt, each on its own clock
    python visualize.py one --model shakespeare-diffusion      one of them
    python visualize.py infill "ROMEO: ____ love {9}."         _ is one blank, {9} is nine
    python visualize.py snapshots                              at 0, 10, 25, 50, 75, 90 and 100 % written
    python visualize.py compare --sampler confidence ancestral remask
    python visualize.py compare --steps 8 32 128               one sampler, in so many steps
    python visualize.py replay race.json                       what --save wrote

Keys: space pauses, arrows step, + and - change the speed, q leaves. All are recorded first and measured alone, one
after the other: what you see is what was measured, slowed down; --clock passes shows one forward pass a tick.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import Tensor

from microdlm import cli
from microdlm.canvas import canvas
from microdlm.errors import UserError
from microdlm.moments import CLOCKS, ends, moment
from microdlm.picture import save_gif, save_svg
from microdlm.player import Player, play, tidy_end
from microdlm.pretrained import LONGEST, LanguageModel, load
from microdlm.recording import Lane, Recording, Step, Token, judged, load_recording, record
from microdlm.score import table, verdict
from microdlm.screen import Stage, lines, shown

TWINS = ("shakespeare-diffusion", "shakespeare-gpt")
SHARES = (0, 10, 25, 50, 75, 90, 100)  # per cent written, for snapshots


@dataclass(frozen=True)
class Config:
    what: Annotated[Literal["race", "one", "infill", "snapshots", "compare", "replay"], tyro.conf.Positional] = "race"
    text: Annotated[str, tyro.conf.Positional] = ""  # infill: a text with blanks; replay: a recording
    model: tuple[str, ...] = ()  # names of shipped models or folders of runs; default: the twins
    prompt: str = "ROMEO:"  # what the text begins with; \n is a line break
    length: int = 240  # tokens of text, the prompt included; beyond the window it goes on window by window
    steps: tuple[int, ...] = (32,)  # diffusion: steps to write a window in (a GPT takes one for each token)
    sampler: tuple[str, ...] = ("confidence",)  # diffusion: how it writes
    temperature: float = 0.8  # 1: as learned; lower: safer; 0: always the most probable
    seed: int = 0  # of everything random
    speed: float = 1.0  # 1: the slowest takes eight seconds
    clock: str = "own"  # own: measured seconds; passes: one forward pass a tick
    heat: bool = False  # shade what the model was not sure of
    animate: bool = True  # or only the end
    plain: bool = False  # words in place of pictures: for a screen reader
    judge: str = "shakespeare-judge"  # a GPT that scores what was written
    save: Path | None = None  # .gif, .svg or .json


# Record


def entrants(cfg: Config) -> list[tuple[str, LanguageModel, str, int]]:
    """(model's name, model, sampler, number of steps) of each lane."""
    names = cfg.model or (TWINS if cfg.what in ("race", "snapshots") else TWINS[:1])
    models = [(name, load(name)) for name in names]
    if cfg.what != "compare" and max(len(cfg.sampler), len(cfg.steps)) > 1:
        raise UserError("several samplers or numbers of steps are for compare: python visualize.py compare ...")
    if cfg.what in ("one", "infill", "compare") and len(models) > 1:
        raise UserError(f"{cfg.what} takes one --model")
    if cfg.what == "race" and len(models) < 2:
        raise UserError("a race takes two models or more; python visualize.py one shows one")
    ways = [(sampler, steps) for sampler in cfg.sampler for steps in cfg.steps]
    return [
        (name, lm, *(("left_to_right", cfg.length) if lm.kind == "gpt" else way))
        for name, lm in models
        for way in (ways if lm.kind == "diffusion" else ways[:1])
    ]


def page(cfg: Config, lm: LanguageModel) -> Tensor:
    """The text as it is at the start."""
    if cfg.what != "infill":
        return lm.canvas(prompt(cfg), cfg.length)
    x = canvas(cfg.text.replace(r"\n", "\n"), lm.tokenizer, LONGEST)
    if not (x == lm.mask_id).any():
        raise UserError('infill takes a text with blanks: "ROMEO: ____ love {9}."')
    if lm.kind == "gpt" and x[0, 0] == lm.mask_id:
        raise UserError("a GPT cannot fill a blank at the very beginning: put something before it")
    return x


def prompt(cfg: Config) -> str:
    return cfg.prompt.replace(r"\n", "\n")


def write(cfg: Config, console: Console) -> Recording:
    """Let each write alone, on the clock; then ask the judge."""
    lanes, field = [], entrants(cfg)
    judge = load(cfg.judge)
    if judge.kind != "gpt":
        raise UserError(
            f"{cfg.judge} is not a GPT: only a GPT's likelihood is exact and cheap, so only a GPT can be --judge"
        )
    with tidy_end(), Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, lm, sampler, steps in field:
            x = page(cfg, lm)
            start = [None if i == lm.mask_id else lm.tokenizer.decode([i]) for i in x[0].tolist()]
            task, done = progress.add_task(f"{lm.kind} writes", total=start.count(None)), []
            for step, left in masked(start, record(lm, x, sampler, steps, cfg.seed, temperature=cfg.temperature)):
                done.append(step)
                progress.update(task, completed=start.count(None) - left)
            label = called(cfg, name, lm, sampler, steps, [other.kind for _, other, *_ in field].count(lm.kind) > 1)
            lane = Lane(label, lm.kind, name, lm.model.num_parameters(), sampler, steps, start, done)
            lanes.append(replace(lane, judge=judged(judge, cfg.judge, lane)))
    begins = cfg.text if cfg.what == "infill" else prompt(cfg)
    return Recording(begins, max(len(lane.start) for lane in lanes), cfg.temperature, cfg.seed, lanes)


def masked(start: list[Token], steps: Iterable[Step]) -> Iterator[tuple[Step, int]]:
    """Each step, and how many MASKs it leaves. A sampler that revises may change one token into another."""
    blanks = {i for i, token in enumerate(start) if token is None}
    for step in steps:
        for at, to in zip(step.at, step.to, strict=True):
            (blanks.add if to is None else blanks.discard)(at)
        yield step, len(blanks)


def called(cfg: Config, name: str, lm: LanguageModel, sampler: str, steps: int, several: bool) -> str:
    """A lane's name: what tells it from the others."""
    if cfg.what == "compare":
        return f"{sampler}, {steps} steps"
    if several:
        return Path(name).name
    return "GPT" if lm.kind == "gpt" else f"diffusion, {sampler}"


# Show


def snapshots(recording: Recording, cfg: Config, console: Console, shares=SHARES) -> None:
    """The text when so much of it was written, lane by lane."""
    for lane in recording.lanes:
        room = console.width - len(f"100 %  pass {lane.steps[-1].passes}  ")
        grid = Table.grid(padding=(0, 2))
        grid.add_column(justify="right", style="dim", no_wrap=True)
        grid.add_column(justify="right", style="dim", no_wrap=True)
        grid.add_column()
        for share in shares:
            made = when(lane, share)
            m = moment(lane, "own", lane.steps[made - 1].seconds if made else -1.0)
            rows, _ = lines(m, max(20, room), cfg.heat)
            grid.add_row(f"{share} %", f"pass {m.step.passes}", Text("\n").join(rows))
        console.print(Text(f"\n{lane.name}", style="bold"), grid)


def when(lane: Lane, share: float) -> int:
    """After how many steps at least `share` per cent of the MASKs were written. 100: the end, revisions included."""
    blanks, end = lane.start.count(None), len(lane.steps)
    left = [blanks, *(n for _, n in masked(lane.start, lane.steps))]
    return end if share == 100 else next((i for i, n in enumerate(left) if n <= blanks * (100 - share) / 100), end)


def spoken(lane: Lane, made: int) -> str:
    """The text in words: runs of blanks are counted, not drawn."""
    text, _ = lane.state(made)
    parts: list[str] = []
    blanks = 0
    for token in [*text, ""]:
        if token is None:
            blanks += 1
            continue
        parts += [f" [{blanks} blank{'s' * (blanks > 1)}] "] if blanks else []
        parts += [" / " if c == "\n" else shown(c) for c in token]
        blanks = 0
    return "".join(parts).strip()


def transcript(recording: Recording, console: Console) -> None:
    """For a screen reader: no boxes, no dots, no colours."""
    for lane in recording.lanes:
        for share in (0, 25, 50, 75, 100):
            made = when(lane, share)
            passes = lane.steps[made - 1].passes if made else 0
            line = f"{lane.name}, {share} percent written, {passes} forward passes: {spoken(lane, made)}"
            console.print(line, soft_wrap=True)
        last, judge = lane.steps[-1], lane.judge
        cost = f"{last.passes} forward passes, {last.read} tokens read, {last.seconds:.3f} seconds"
        nats = f", {judge['nats_per_char']:.2f} nats per character" if judge else ""
        console.print(f"{lane.name}: {cost}{nats}", soft_wrap=True)
    for line in verdict(recording):
        console.print(line.plain, soft_wrap=True)


def result(recording: Recording, cfg: Config, console: Console) -> None:
    """What stays on the screen: the texts as they read, the costs, and who won."""
    if not console.is_terminal:
        snapshots(recording, cfg, console, (0, 25, 50, 75, 100))
        console.print()
        over = [moment(lane, "passes", float("inf")) for lane in recording.lanes]
        console.print(Group(table(over), *verdict(recording)))
    else:
        console.print(Stage(recording, cfg.clock, heat=cfg.heat))


# Save


def save_moving(recording: Recording, cfg: Config, path: Path, columns: int = 88, fps: int = 12) -> None:
    """As the terminal shows it, without keys; the finish line stands for four seconds."""
    player = Player(recording, cfg.clock, cfg.speed, cfg.heat)
    console = Console(width=columns)
    rows = max(len(console.render_lines(Stage(recording, cfg.clock))), len(console.render_lines(player.stage())))
    frames = []
    while player.time < player.end:
        frames.append((player.stage(), 1 / fps))
        player.tick(1 / fps)
    save_gif([*frames, (Stage(recording, cfg.clock, heat=cfg.heat), 4.0)], path, columns, rows)


SAVE: dict[str, Callable[[Recording, Config, Path], None]] = {
    ".json": lambda recording, cfg, path: recording.save(path),
    ".svg": lambda recording, cfg, path: save_svg(Stage(recording, cfg.clock, heat=cfg.heat), path, 88, "microDLM"),
    ".gif": save_moving,
}


def save(recording: Recording, cfg: Config, path: Path) -> None:
    try:
        SAVE[path.suffix](recording, cfg, path)
    except OSError as e:
        raise UserError(f"--save {path}: it cannot be written ({e.strerror}): choose another file") from None


def refuse(cfg: Config) -> None:
    """What can be seen to be wrong before anything is written."""
    cli.one_of(cfg.clock, CLOCKS, "clock")
    if not (cfg.sampler and cfg.steps):
        raise UserError("--sampler and --steps take one value or more: --sampler confidence, --steps 32")
    if cfg.save is not None and cfg.save.suffix not in SAVE:
        raise UserError(f"--save {cfg.save}: it must end in {', '.join(SAVE)}")
    if cfg.save is not None and not cfg.save.parent.is_dir():
        raise UserError(f"--save {cfg.save}: there is no folder {cfg.save.parent}")
    if (cfg.what in ("infill", "replay")) != bool(cfg.text):
        raise UserError('infill takes a text ("ROMEO: ____ love"), replay a recording, the others neither')


def main(cfg: Config) -> None:
    refuse(cfg)
    console = Console(highlight=False, markup=False, emoji=False)  # a text that says :sun: says :sun:
    recording = load_recording(Path(cfg.text)) if cfg.what == "replay" else write(cfg, console)
    if cfg.save is not None:
        save(recording, cfg, cfg.save)
    if cfg.plain:
        transcript(recording, console)
    elif cfg.what == "snapshots":
        snapshots(recording, cfg, console)
    else:
        if cfg.animate and console.is_terminal and ends(recording, cfg.clock) > 0:
            play(Player(recording, cfg.clock, cfg.speed, cfg.heat), console)
        result(recording, cfg, console)
    if cfg.save is not None:
        print(f"saved {cfg.save}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
