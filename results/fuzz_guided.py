"""Nonsense that looks for its own way: inputs that reach new code are kept and bent further (atheris, by libFuzzer).

    pip install -e '.[fuzz]'
    python results/fuzz_guided.py         the section "guided fuzzing" of results/reliability.json

Where results/fuzz.py bends sound inputs blindly and gives them to whole commands, this one asks the readers alone, as
often as it can: a canvas, a vocabulary, a recording, a configuration, a corpus. Only a UserError of one line may come
out of them. A target is a process of its own, for a fault ends it.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

if "--only" in sys.argv:  # before anything of microdlm is imported, or else its branches are not seen
    import atheris

    with atheris.instrument_imports(include=["microdlm"]):
        from microdlm import canvas, corpus, pretrained, recording, tokenizers

from microdlm import cli
from microdlm.errors import UserError
from microdlm.hub import WEIGHTS
from microdlm.runs import ROOT, provenance, read_json, write_json
from microdlm.terminal import console

NAMES = ("canvas", "vocabulary", "recording", "configuration", "corpus")
SHIPPED = WEIGHTS / "shakespeare-gpt"


@dataclass(frozen=True)
class Config:
    runs: int = 20_000  # inputs of each target
    longest: int = 400  # bytes of an input
    only: str = ""  # be that one target: a process of the others' parent
    seed: int = 1
    out: Path = ROOT / "results" / "reliability.json"


def targets() -> dict[str, tuple[list[bytes], Callable]]:
    """name: (sound inputs to begin with, what reads them)."""
    letters, here = tokenizers.CharTokenizer("abc \n"), Path(tempfile.mkdtemp())
    shutil.copytree(SHIPPED, here / "gpt")

    def vocabulary(data: bytes):
        (here / "v.json").write_bytes(data)
        tok = tokenizers.tokenizer_from_json(read_json(here / "v.json"))
        return tok.decode(tok.encode("abc"))

    def from_file(name: str, read: Callable) -> Callable:
        return lambda data: ((here / name).write_bytes(data), read())

    chars, pairs = b'{"kind": "char", "alphabet": "abc"}', b'{"kind": "bpe", "merges": ["t h", "th e"]}'
    race = json.dumps(read_json(ROOT / "web" / "frames.json") | {"lanes": []}).encode()
    small = json.dumps(read_json(SHIPPED / "config.json") | {"summary": {}}).encode()
    return {
        "canvas": (
            [b"ab {3} __ c", b"{12}a_"],
            lambda data: canvas.canvas(data.decode("utf-8", "replace"), letters, 64),
        ),
        "vocabulary": ([chars, pairs], vocabulary),
        "recording": ([race], from_file("r.json", lambda: recording.load_recording(here / "r.json"))),
        "configuration": ([small], from_file("gpt/config.json", lambda: pretrained.load(here / "gpt"))),
        "corpus": (
            [b"to be\n" * 9, "é\n".encode() * 9],
            from_file("t.txt", lambda: corpus.load_corpus(str(here / "t.txt"))),
        ),
    }


def be(cfg: Config) -> None:
    """One target. atheris never returns: it ends the process, with 0 if nothing was found."""
    sound, read = targets()[cli.one_of(cfg.only, NAMES, "target")]

    def once(data: bytes) -> None:
        try:
            read(data)
        except UserError as e:
            assert "\n" not in str(e), e

    seeds = Path(tempfile.mkdtemp())
    for i, data in enumerate(sound):
        (seeds / str(i)).write_bytes(data)
    limits = [f"-runs={cfg.runs}", f"-seed={cfg.seed}", f"-max_len={max(cfg.longest, *map(len, sound))}", "-timeout=20"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={seeds}/", str(seeds)], once)
    atheris.Fuzz()


def attack(name: str, cfg: Config) -> dict:
    """What libFuzzer says of one target in the end."""
    argv = [sys.executable, __file__, "--only", name, "--runs", str(cfg.runs), "--seed", str(cfg.seed)]
    with tempfile.TemporaryDirectory() as folder:  # of the child's too, which ends without tidying up
        done = subprocess.run(argv, cwd=ROOT, env=os.environ | {"TMPDIR": folder}, capture_output=True, text=True)
    seen = [int(n) for n in re.findall(r"ft: (\d+)", done.stderr)]
    ran = re.search(r"Done (\d+) runs", done.stderr)
    row = {"inputs": int(ran[1]) if ran else 0, "paths at first": seen[0] if seen else 0, "paths": max(seen, default=0)}
    return row | ({"fault": done.stderr.strip()[-600:]} if done.returncode else {})


def main(cfg: Config) -> None:
    if not importlib.util.find_spec("atheris"):
        raise UserError("guided fuzzing needs atheris: pip install -e '.[fuzz]'")
    if cfg.only:
        be(cfg)
    found = {name: attack(name, cfg) for name in track(NAMES, "guided fuzzing", console=console, transient=True)}
    for name, row in found.items():
        console.print(name, row, soft_wrap=True)
    faults = [name for name, row in found.items() if "fault" in row]
    inputs = sum(row["inputs"] for row in found.values())
    section = {"inputs": inputs, "faults": faults, "targets": found, "kept": not faults, "seed": cfg.seed}
    kept = read_json(cfg.out) if cfg.out.exists() else {"sections": {}}
    kept["sections"]["guided fuzzing"] = section | {"made_by": provenance()}
    write_json(cfg.out, {**kept, "made_by": provenance()})
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
