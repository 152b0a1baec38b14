"""Turn a finished run into weights that ship: bfloat16, with the configuration and how they were made.

    python weights/pack.py runs/diffusion-shakespeare-small shakespeare-diffusion

The card beside them is written by `make results`, from the numbers in results/twins.json.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from microdlm import cli
from microdlm.errors import UserError
from microdlm.hub import WEIGHTS
from microdlm.runs import Run, read_json, read_tensors, write_json, write_tensors


@dataclass(frozen=True)
class Config:
    run: Annotated[Path, tyro.conf.Positional]  # the folder of a finished run
    name: Annotated[str, tyro.conf.Positional]  # the folder to make in weights/


def main(cfg: Config) -> None:
    if not (cfg.run / "done.json").exists():
        raise UserError(f"{cfg.run} is not a finished run: done.json is missing")
    config, done = read_json(cfg.run / "config.json"), read_json(cfg.run / "done.json")
    folder = WEIGHTS / cfg.name
    folder.mkdir(exist_ok=True)
    weights = read_tensors(cfg.run / "model.safetensors")
    write_tensors(folder / "model.safetensors", {k: w.to(torch.bfloat16) for k, w in weights.items()})
    curve = [{k: r[k] for k in ("step", "tokens", "val", "val_stderr")} for r in Run(cfg.run).metrics() if r["val"]]
    summary = {k: done[k] for k in done if k != "made_by"} | {"validations": curve}
    write_json(folder / "config.json", config | {"summary": summary})


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
