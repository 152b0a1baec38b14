"""Presets of the study that are smaller still than smoke, for tests; and `python -m study` with one of them."""

import os
import runpy
from dataclasses import replace

from study.grid import PRESETS, Preset


def small() -> Preset:
    """As smoke, with half as many steps, on the text named by the environment."""
    smoke = PRESETS["smoke"]
    return replace(smoke, data=os.environ["SMALL_TEXT"], how=replace(smoke.how, steps=200))


def tiny_preset(evals: int) -> Preset:
    """Runs of seconds, to put in the place of a real preset's."""
    how = replace(PRESETS["nano"].how, steps=12, batch_size=4, evals=evals, checkpoints=2)
    net = dict(seq_len=16, n_layer=1, n_head=2, d_model=16)
    return Preset("playlets", net, how, n_chars=20_000, windows=24, samples=2)


if __name__ == "__main__":
    PRESETS["smoke"] = small()
    runpy.run_module("study", run_name="__main__")
