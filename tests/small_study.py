"""`python -m study` with a smoke preset that is smaller still: for tests that start it many times."""

import os
import runpy
from dataclasses import replace

from study.grid import PRESETS, Preset


def small() -> Preset:
    """As smoke, with half as many steps, on the text named by the environment."""
    smoke = PRESETS["smoke"]
    return replace(smoke, data=os.environ["SMALL_TEXT"], how=replace(smoke.how, steps=200))


if __name__ == "__main__":
    PRESETS["smoke"] = small()
    runpy.run_module("study", run_name="__main__")
