"""On other machines: consoles without our signs, processors without wide vectors, Apple's GPUs, other slashes."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from microdlm import load
from microdlm.errors import UserError
from microdlm.runs import ROOT, script
from microdlm.training import pick_device

FOLDERS = ("", "microdlm", "steps", "study", "results", "weights", "notebooks", "notebooks/check", "web", "web/explore")
CODE = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
LINUX = {"growth.py"}  # reads /proc, as ASCII as it is

SHOW = """
import sys
sys.path.insert(0, {root!r})
import diffusion, visualize
from microdlm import cli
from microdlm.state import TrainConfig
diffusion.PRESETS["nano"] = (16, dict(n_layer=1, n_head=2, d_model=16), TrainConfig(steps=4, batch_size=2, evals=2))

def say(module, *argv):
    sys.argv = [module.__name__ + ".py", *argv]
    try:
        cli.run(module.main, module.Config, module.__doc__)
    except SystemExit as left:
        return left.code

text = "text \\u00e9\\u4e2d.txt"
run = "run \\u00e9\\u4e2d"
open(text, "w", encoding="utf-8").write("to b\\u00e9 or \\u4e2d\\u6587 to b\\u00e9\\n" * 60)
assert not say(diffusion, "--train", "--generate", "--data", text, "--out", run)
write = ("one", "--model", run, "--prompt", "to", "--length", "12", "--steps", "2")
assert not say(visualize, *write, "--save", "\\u4e2d.json")
assert not say(visualize, "replay", "\\u4e2d.json", "--plain")
assert say(diffusion, "--generate", "--out", run, "--prompt", "\\u0436") == 2
assert say(diffusion, "--train", "--data", "\\u4e2d\\u4e2d.txt") == 2
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_console_is_too_poor_for_what_is_printed(tmp_path, encoding):
    """Letters, blanks, arrows and frames that the console has no sign for become question marks; nothing breaks."""
    env = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "0"}
    argv = [sys.executable, "-c", SHOW.format(root=str(ROOT))]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, timeout=240)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode(encoding, "replace")
    assert done.stderr.count(b"\n") == 3  # where it was saved, and two that would not do
    said = done.stdout.decode(encoding)
    assert ("?" in said) == (encoding != "utf-8") and said.isascii() == (encoding == "ascii")


def test_every_text_file_says_its_encoding():
    """Where Windows is at home, what says nothing is cp1252."""
    silent = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            words = [ast.unparse(arg) for arg in [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]]
            binary = any(word.strip("'\"").rstrip("+") in ("rb", "wb", "ab", "r+b", "xb") for word in words)
            of_text = name in ("read_text", "write_text") or (isinstance(node.func, ast.Name) and name == "open")
            if (
                of_text
                and path.name not in LINUX
                and not binary
                and not any(k.arg == "encoding" for k in node.keywords)
            ):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not silent


def test_a_processor_without_wide_vectors_will_do():
    """No AVX512, no AVX2: auto falls back to float32, and a step is taken."""
    code = """
import torch
from microdlm import training
torch.cpu.get_capabilities = lambda: {"sse4_2": True}
assert "NO AVX" in torch.__config__.show() or torch.backends.cpu.get_cpu_capability() == "DEFAULT"
assert not training.wants_bfloat16("auto", "cpu")
import microdlm
print(len(microdlm.load("shakespeare-gpt", precision="auto").generate(1, 20)[0]))
"""
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "20\n"), done.stderr


@pytest.mark.parametrize("name", ["mps", "cuda:99999x", "tpu", "CPU", ""])
def test_a_device_that_will_not_do_is_one_line_for_scripts_and_in_python(name):
    """Apple's GPUs have no float64, with which samplers draw: they are refused before anything is computed there."""
    for take in (pick_device, lambda device: load("shakespeare-gpt", device=device)):
        with pytest.raises(UserError, match="device .* give cpu") as refused:
            take(name)
        assert "\n" not in str(refused.value)


def test_apples_gpus_are_refused_even_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="device 'mps'"):
        pick_device("mps")


def test_the_device_is_chosen_in_one_place():
    """Who asks what there is: pick_device. runs.py asks for the name that it writes down, parallel.py which of several
    GPUs is this process's."""
    asking = {}
    for path in CODE:
        found = ast.unparse(ast.parse(path.read_text(encoding="utf-8"))).count("cuda.is_available()")
        asking |= {path.relative_to(ROOT).as_posix(): found} if found else {}
    assert asking == dict.fromkeys(["microdlm/training.py", "microdlm/runs.py", "microdlm/parallel.py"], 1)


def test_a_command_is_named_with_plain_slashes(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(Path(ROOT, "results", "fuzz.py"))])
    assert script() == ["results/fuzz.py"]
