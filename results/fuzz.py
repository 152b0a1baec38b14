"""What does it do with nonsense? Ten thousand inputs: each ends in a result, or in one clear line and exit code 2.

    python results/fuzz.py          ten minutes on one thread; the section "fuzzing" of results/reliability.json

A target takes a sound input, bends it in a few places and gives it to the program as a person would. A fault is a
traceback, an exit code that is neither 0 nor 2, more than one line (the parser of options has its own frame), more
than twenty seconds, or a file that was there before and is not the same after a refusal. The network is cut off.
"""

import contextlib
import importlib.util
import io
import json
import math
import random
import resource
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track

from microdlm import cli
from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.pretrained import load
from microdlm.runs import ROOT, Run, provenance, read_json, write_json
from microdlm.state import TrainConfig
from microdlm.terminal import console
from microdlm.tokenizers import tokenizer_from_json

LIMIT, MEMORY = 20, 8 * 2**30  # seconds and bytes of address space that an input may take
TINY = (16, dict(n_layer=1, n_head=2, d_model=16), TrainConfig(steps=4, batch_size=2, evals=2, checkpoints=2))
TEXT = "to be or not to be, that is the question:\n" * 30
WORDS = """ - -- 0 -1 1 7 1e999 nan inf 0x10 é 𝔘 \u202e _ ____ {5} {0} { } {-1} {999999999999} {١٢} \\n <|endoftext|>
 ../.. /dev/null diffusion-run text.txt new \udcff [bold] None a/b question""".split(" ")
WORDS += ["9" * 400, "x" * 5000, "{" + "9" * 5000 + "}", "\n", "\ufeff", "\0", "to be", "\x1b[2J"]
VALUES = json.loads("""[null, true, false, 0, -1, 1, 2, 3.5, 1e308, NaN, Infinity, 1000000, 1000000000, 1e18, "", "x",
 "1", -1000000000000000000, 1000000000000000000, 9223372036854775808, [], {}, [[]], {"a": 1}, "../../secret",
 "\\u001b[2J", "\\udcff", [null, null, null], "\\u00e9\\u00e9"]""")


@dataclass(frozen=True)
class Config:
    seed: int = 0
    smoke: bool = False  # a hundredth of the inputs
    only: str = ""  # one target
    out: Path = ROOT / "results" / "reliability.json"


# To bend things


def bent(rng: random.Random, value):
    """JSON with one to three places changed, removed, doubled or put elsewhere."""
    value = deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        inside, key = None, None
        node = value
        while isinstance(node, dict | list) and node and (inside is None or rng.random() < 0.8):
            inside, key = node, rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            node = node[key]
        if inside is None:
            return deepcopy(rng.choice(VALUES))
        match rng.randrange(5):
            case 0:
                del inside[key]
            case 1 if isinstance(inside, dict):
                inside[rng.choice(WORDS)] = inside.pop(key)
            case 2 if isinstance(inside, list):
                inside.insert(key, deepcopy(node))
            case _:
                inside[key] = deepcopy(rng.choice(VALUES))
    return value


def torn(rng: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut off, cut out, doubled, overwritten."""
    for _ in range(rng.randint(1, 4)):
        at, n = rng.randrange(len(data) + 1), rng.choice([1, 1, 2, 8, 100, 4000])
        some = rng.choice([b"", b"\0", b"\xff", b"\n", b"{", b"]", b"\xef\xbb\xbf", b"\xed\xa0\x80", rng.randbytes(n)])
        data = data[:at] + rng.choice([b"", some + data[at + n :], some + data[at:], data])[:200_000]
    return data


def text_file(rng: random.Random) -> bytes:
    """A text, or what somebody takes for one."""
    sound = TEXT[: rng.choice([0, 1, 15, 16, 17, 160, 999])].encode()
    letters = [65, 0x3B1, 0x5D0, 0x4E00, 0x1F600, 0x301, 9, 0]
    mixed = "".join(chr(rng.choice(letters)) for _ in range(rng.randrange(400))).encode()
    whole = [sound, b"\xef\xbb\xbf" + sound, sound.replace(b"\n", b"\r\n"), sound.decode().encode("utf-16"), mixed]
    whole += [b"\0" * rng.randrange(999), rng.randbytes(rng.randrange(999)), b"\n" * 99, (mixed + b"<|endoftext|>") * 3]
    return torn(rng, rng.choice(whole)) if rng.random() < 0.5 else rng.choice(whole)


def some_text(rng: random.Random) -> str:
    """Letters that the models know and blanks; in every third text something else."""
    parts = [TEXT[: rng.randrange(12)], "_", "{2}", "to be"]
    odd = [rng.choice(WORDS), chr(rng.randrange(0xD7FF))] if rng.random() < 0.3 else []
    return "".join(rng.choice([*parts, *odd]) for _ in range(rng.randrange(6)))


def command_line(rng: random.Random, config: type, fixed: list[str]) -> list[str]:
    """Options that exist and some that nearly do, with values that fit or not, after some that make sense."""
    names = [f"--{name.replace('_', '-')}" for name in config.__dataclass_fields__]
    names = [name for name in names if name != "--compile"] + ["--stepz", "-h", "--seed=1"]
    argv = list(fixed)
    for _ in range(rng.randint(1, 2)):
        numbers = [str(rng.randrange(-3, 20)), f"{rng.random():.2f}"]
        value = rng.choice([rng.choice(WORDS), *numbers, *numbers])
        argv += [rng.choice(names), *[value] * (rng.random() < 0.9)]
    return [word.replace("\0", "") for word in argv]


# Targets: each takes an input in a prepared folder and does with it what a person would


def program(name: str):
    """A script of the project as a module."""
    path = ROOT / f"{name}.py" if (ROOT / f"{name}.py").exists() else ROOT / "microdlm" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Place:
    """An empty folder with a text, a trained run of each twin, and a recording of both."""

    def __init__(self):
        self.argv = sys.argv
        self.programs = {name: program(name) for name in ("diffusion", "gpt", "visualize", "comparison")}
        text = load_corpus("playlets", n_chars=3000)  # made once: it is not what is attacked
        for twin in ("diffusion", "gpt"):
            module = self.programs[twin]
            module.PRESETS["nano"] = TINY
            module.load_corpus = lambda name, *a, **how: text if name == "playlets" else load_corpus(name, *a, **how)
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        for twin in ("diffusion", "gpt"):
            self.say(twin, "--train", "--data", "text.txt", "--out", f"{twin}-run")
        race = ("--model", "diffusion-run", "gpt-run", "--judge", "gpt-run", "--length", "12", "--prompt", "to")
        self.say("visualize", "race", *race, "--no-animate", "--save", "race.json")
        self.sound = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}

    def say(self, name: str, *argv: str) -> None:
        sys.argv = [f"{name}.py", *argv]
        cli.run(self.programs[name].main, self.programs[name].Config, "")

    def restore(self) -> list[str]:
        """Everything as it was; which of the files had vanished."""
        lost = [str(p) for p in self.sound if not p.exists()]
        for path in sorted(Path().rglob("*"), reverse=True):
            if path not in self.sound and not (path.is_dir() and any(path.iterdir())):
                path.rmdir() if path.is_dir() else path.unlink()
        for path, data in self.sound.items():
            path.write_bytes(data)
        return lost


def commands(name: str, *fixed: str) -> Callable:
    return lambda place, rng: place.say(name, *command_line(rng, place.programs[name].Config, list(fixed)))


def spoilt(path: str, bend: Callable, *argv: str) -> Callable:
    """A file that is bent, and the command that reads it."""

    def target(place: Place, rng: random.Random):
        Path(path).write_bytes(bend(rng, place.sound[Path(path)]))
        place.say(*argv)

    return target


def json_bent(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.2:
        return torn(rng, data)
    return json.dumps(bent(rng, json.loads(data))).encode()


def corpora(place: Place, rng: random.Random):
    Path("odd.txt").write_bytes(text_file(rng))
    if rng.random() < 0.1:
        return place.say(rng.choice(["diffusion", "gpt"]), "--train", "--data", "odd.txt", "--out", "new")
    corpus = load_corpus("odd.txt", rng.choice(["char", "char", "bpe"]), rng.choice([None, 16]), vocab_size=300)
    corpus.batch(2, 1, torch.Generator())
    return corpus.tokenizer.decode(corpus.val[:50])


def prompts(place: Place, rng: random.Random):
    lm = load(rng.choice(["diffusion-run", "gpt-run"]))
    how = {"num_steps": rng.choice([1, 3]), "temperature": rng.choice([0.0, 1.0, 1.0, 1.0, -1.0, math.nan])}
    length = rng.choice([None, 12, 20, 40, rng.choice([-1, 0, 10**9])])
    match rng.randrange(3):
        case 0:
            return lm.generate(1, length, some_text(rng), **how)
        case 1:
            return lm.infill(some_text(rng), **how)
    return lm.score(some_text(rng), samples=2)


def metrics(place: Place, rng: random.Random):
    path = Path("gpt-run/metrics.jsonl")
    lines = place.sound[path].splitlines(keepends=True)
    lines[rng.randrange(len(lines))] = json_bent(rng, rng.choice(lines)) + b"\n" * rng.randrange(2)
    path.write_bytes(rng.choice([b"".join(lines), torn(rng, b"".join(lines))]))
    Run(Path("gpt-run")).rewind(rng.randrange(5))


def tokenizers(place: Place, rng: random.Random):
    kinds = [{"kind": "char", "alphabet": "abc"}, {"kind": "bpe", "merges": ["t h", "th e"]}]
    tok = tokenizer_from_json(bent(rng, rng.choice(kinds)))
    return tok.decode(tok.encode("abc"))


WRITE = ("diffusion", "--generate", "--out", "diffusion-run", "--num-steps", "2", "--prompt", "to")
RESUME = ("gpt", "--train", "--resume", "--data", "text.txt", "--out", "gpt-run")
INFILL = ("--model", "diffusion-run", "--judge", "gpt-run", "--plain", "--length", "12")
TARGETS: dict[str, tuple[int, Callable]] = {  # name: how many inputs, what to do with one
    "options of diffusion.py --train": (500, commands("diffusion", "--train", "--data", "text.txt", "--out", "new")),
    "options of gpt.py --generate": (500, commands("gpt", "--generate", "--out", "gpt-run", "--prompt", "to")),
    "options of visualize.py": (300, commands("visualize", "one", *INFILL, "--prompt", "to")),
    "options of comparison": (300, commands("comparison", "gpt-run", "--data", "text.txt", "--texts", "1")),
    "canvas of visualize.py infill": (400, lambda p, rng: p.say("visualize", "infill", some_text(rng), *INFILL)),
    "corpus files": (1800, corpora),
    "prompts, canvases, texts to score": (2600, prompts),
    "config.json": (1200, spoilt("diffusion-run/config.json", json_bent, *WRITE)),
    "config.json, resumed": (300, spoilt("gpt-run/config.json", json_bent, *RESUME)),
    "metrics.jsonl": (1000, metrics),
    "model.safetensors": (1000, spoilt("diffusion-run/model.safetensors", torn, *WRITE)),
    "checkpoint.safetensors, resumed": (500, spoilt("gpt-run/checkpoint.safetensors", torn, *RESUME)),
    "tokenizers": (1200, tokenizers),
    "recordings": (1000, spoilt("race.json", json_bent, "visualize", "replay", "race.json", "--plain")),
}


# To try and to judge


class TooLong(BaseException):
    """Nothing of the program catches this."""


def late(signum, frame):
    raise TooLong


def refuse_network(*args):
    raise OSError("no network here")


def verdict(target: Callable, place: Place, seed: str) -> tuple[str, str]:
    """What became of one input: a result, refused (by the parser of options or by us), a fault and what was said."""
    err, code = io.StringIO(), 0
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
            target(place, random.Random(seed))
    except UserError as e:
        return ("refused", "") if "\n" not in str(e) else ("fault", f"not one line: {e!s:.300}")
    except SystemExit as e:
        code = e.code or 0
    except TooLong:
        return "fault", f"more than {LIMIT} seconds"
    except BaseException as e:
        return "fault", f"{type(e).__name__}: {e!s:.200}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    said = err.getvalue()
    if code not in (0, 2) or "Traceback" in said:
        return "fault", f"exit code {code}: {said[-200:]}"
    if code == 0 or "For full helptext" in said:
        return ("refused by the parser" if code else "a result"), ""
    return ("refused", "") if said.count("\n") == 1 else ("fault", f"not one line: {said[-300:]}")


def attack(place: Place, name: str, n: int, target: Callable, seed: int) -> tuple[dict, list[dict]]:
    """Counts of what became of n inputs, and the faults."""
    start, counts, faults = time.perf_counter(), Counter(), []
    for i in track(range(n), name, console=console, transient=True):
        given = f"{seed} {name} {i}"
        what, why = verdict(target, place, given)
        if lost := place.restore():
            what, why = "fault", f"lost {lost}"
        counts[what] += 1
        if what == "fault":
            faults.append({"input": given, "why": why})
            console.print(f"fault: {given}: {why!r:.150}", soft_wrap=True)
    console.print(name, dict(counts), soft_wrap=True)
    return {**counts, "seconds": round(time.perf_counter() - start, 1)}, faults


def main(cfg: Config) -> None:
    signal.signal(signal.SIGALRM, late)
    socket.socket.connect = refuse_network
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    out, found, faults = cfg.out.resolve(), {}, []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            place = Place()
        for name, (n, target) in TARGETS.items():
            if cfg.only in name:
                n = math.ceil(n / 100) if cfg.smoke else n
                found[name], more = attack(place, name, n, target, cfg.seed)
                faults += more
    sys.argv = place.argv
    inputs = sum(n for counts in found.values() for what, n in counts.items() if what != "seconds")
    section = {"inputs": inputs, "faults": faults, "targets": found, "limit_seconds": LIMIT, "seed": cfg.seed}
    kept = read_json(out) if out.exists() else {"sections": {}}
    kept["sections"]["fuzzing"] = section | {"made_by": provenance()}
    write_json(out, {**kept, "seed": cfg.seed, "made_by": provenance()})
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    cli.run(main, Config, __doc__)
