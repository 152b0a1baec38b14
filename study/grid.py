"""What is run: presets, arms, seeds. A job is one of them, and its folder says which."""

from dataclasses import dataclass, replace
from pathlib import Path

from microdlm.cli import one_of
from microdlm.state import TrainConfig
from steps.step7_schedule_study import GRID, HOW, NET, PUBLISHED, SAMPLES, WINDOWS, Arm


@dataclass(frozen=True)
class Preset:
    """One size of the study. The same for all arms, and tuned for none."""

    data: str  # what load_corpus takes, or the folder that `python -m study prepare` has filled
    net: dict  # sizes of the Transformer
    how: TrainConfig
    tokenizer: str = "char"
    n_chars: int = 1_000_000  # playlets only
    seeds: tuple[int, ...] = (0, 1, 2)
    windows: int = WINDOWS  # held-out texts that are scored
    samples: int = SAMPLES  # masks for each


PRESETS = {
    "smoke": Preset(  # no study: does it run at all, here or on a cluster?
        "playlets",
        dict(seq_len=16, n_layer=1, n_head=2, d_model=16),
        TrainConfig(steps=400, batch_size=4, evals=2, checkpoints=2),
        n_chars=20_000,
        seeds=(0,),
        windows=24,
        samples=2,
    ),
    "nano": Preset("playlets", NET, TrainConfig(**HOW, evals=6, checkpoints=3)),
    "shakespeare-10m": Preset(
        "shakespeare",
        dict(seq_len=256, n_layer=6, n_head=6, d_model=384),
        TrainConfig(steps=10_000, batch_size=64, lr=1e-3, evals=20, checkpoints=20),
        windows=435,
    ),
    "fineweb-124m": Preset(
        "data/fineweb-edu",
        dict(seq_len=1024, n_layer=12, n_head=12, d_model=768, mlp="swiglu", tied=True),
        TrainConfig(
            **dict(steps=100_000, batch_size=32, lr=6e-4, final_lr=0.1, warmup=0.02, evals=20, checkpoints=100),
            compile=True,
        ),
        tokenizer="gpt2",
        seeds=(0,),
        windows=512,
    ),
}
GRIDS = {"exact": GRID, "published": PUBLISHED}


@dataclass(frozen=True)
class Job:
    """One run."""

    preset: str
    arm: Arm
    seed: int

    @property
    def how(self) -> TrainConfig:
        return replace(PRESETS[self.preset].how, seed=self.seed)

    def folder(self, out: Path) -> Path:
        return folder_of(self.preset, out) / f"{self.arm.name}-seed{self.seed}"


def folder_of(preset: str, out: Path) -> Path:
    """Of all runs of a preset."""
    return out / one_of(preset, PRESETS, "preset")


def jobs(preset: str, grid: str = "exact", seeds: tuple[int, ...] = ()) -> list[Job]:
    """All runs of a preset, seed by seed: what is left out for lack of time are whole seeds."""
    size, arms = PRESETS[one_of(preset, PRESETS, "preset")], GRIDS[one_of(grid, GRIDS, "grid")]
    return [Job(preset, arm, seed) for seed in seeds or size.seeds for arm in arms]
