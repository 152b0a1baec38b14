"""The command microdlm: what the core says, on paper; and one clear line with exit code 2 for whatever will not do."""

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

import microdlm
from microdlm import __main__ as command
from microdlm.runs import ROOT, write_json, write_tensors
from microdlm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("\nabc")
COMMANDS = ("generate", "infill", "refine", "score", "race", "export", "push")


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """say("generate", ...) -> what a shell would see: code, out, err."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> SimpleNamespace:
        code = 0
        monkeypatch.setattr(sys, "argv", ["/somewhere/microdlm/__main__.py", *map(str, argv)])
        try:
            command.main()
        except SystemExit as done:
            code = done.code
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return call


@pytest.fixture
def model(network, tmp_path):
    """model("gpt") -> the folder of a tiny one."""

    def make(kind: str = "diffusion") -> Path:
        net, path = network(seq_len=16, causal=kind == "gpt", vocab_size=4 + (kind == "diffusion")), tmp_path / kind
        path.mkdir()
        write_json(path / "config.json", {"kind": kind, "model": asdict(net.cfg), "tokenizer": LETTERS.to_json()})
        write_tensors(path / "model.safetensors", dict(net.named_parameters()))
        return path

    return make


# It says what the core says


@pytest.mark.parametrize("kind", ["gpt", "diffusion"])
def test_generate_prints_the_texts(say, model, kind):
    lm = microdlm.load(model(kind))
    said = say("generate", "--model", kind, "--prompt", r"a\nb", "--n", "3", "--seed", "4", "--length", "9")
    assert said.code == 0 and said.err == ""
    assert said.out == "\n---\n".join(lm.generate(3, 9, "a\nb", seed=4, temperature=0.8)) + "\n"


def test_options_reach_the_sampler(say, model):
    how = dict(sampler="ancestral", num_steps=3, temperature=1.5, top_k=2, top_p=0.9, seed=1)
    asked = [word for name, value in how.items() for word in (f"--{name.replace('_', '-')}", value)]
    lm = microdlm.load(model())
    assert say("generate", "--model", "diffusion", *asked).out == lm.generate(1, **how)[0] + "\n"
    assert say("infill", "ab____", "--model", "diffusion", *asked).out == lm.infill("ab____", **how)[0] + "\n"


def test_infill_and_refine_print_the_text(say, model):
    lm = microdlm.load(model())
    said = say("infill", "a_b{3}c", "--model", "diffusion")
    assert said.out == lm.infill("a_b{3}c", temperature=0.8)[0] + "\n"
    said = say("refine", "abcabc", "--model", "diffusion", "--prompt", "ab", "--share", "0.5", "--num-steps", "4")
    how = dict(prompt="ab", share=0.5, num_steps=4, again="random", temperature=0.8)
    assert said.out == lm.refine("abcabc", **how)[0] + "\n" and said.out.startswith("ab") and len(said.out) == 7


@pytest.mark.parametrize("kind", ["gpt", "diffusion"])
def test_score_says_what_is_a_bound(say, model, kind, tmp_path):
    lm = microdlm.load(model(kind))
    found = lm.score("abcabc\nab", samples=16, seed=2)
    said = say("score", r"abcabc\nab", "--model", kind, "--samples", "16", "--seed", "2").out
    assert said.startswith(f"{'' if kind == 'gpt' else '≤ '}{found.mean:.4f} ± {found.stderr:.4f} nats")
    assert ("exact" if kind == "gpt" else "an upper bound") in said and f"{found.bits:.4f} bits" in said
    (tmp_path / "text").write_text("abcabc\nab")
    assert say("score", "--file", "text", "--model", kind, "--samples", "16", "--seed", "2").out == said


def test_the_race_is_the_one_of_visualize(say):
    said = say("race", "--plain", "--length", "24", "--steps", "4")
    assert said.code == 0 and "gpt" in said.out.lower() and "forward passes" in said.out and "diffusion" in said.out


def test_export_writes_the_model_that_was_named(say, model, tmp_path, monkeypatch):
    """That such a file says what the model says is for test_export_web."""
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("microdlm.exporting.export", lambda lm, path: path.write_text(lm.kind))
    model("gpt")
    said = say("export", "gpt", "small.onnx")
    assert said.code == 0 and "small.onnx" in said.err and (tmp_path / "small.onnx").read_text() == "gpt"


def test_export_without_its_libraries_says_what_to_install(say, model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model()
    said = say("export", "diffusion", "small.onnx")
    assert said.code == 2 and "pip install 'microdlm[web]'" in said.err and not (tmp_path / "small.onnx").exists()


# What will not do


@pytest.mark.parametrize(
    "argv, says",
    [
        ("generate --model shakespear-diffusion", "did you mean shakespeare-diffusion"),
        ("generate --model diffusion --temperature -1", "temperature"),
        ("generate --model diffusion --n 0", "1 or more"),
        ("generate --model diffusion --prompt xyz", "'x' at position 0"),
        ("generate --model diffusion --length 0", "length 0"),
        ("generate --model diffusion --sampler ancestrall", "did you mean ancestral"),
        ("infill abz_ --model diffusion", "'z' at position 2"),
        ("refine abc --model gpt", "GPT"),
        ("refine abc --model diffusion --prompt b", "prompt"),
        ("refine abcabcabcabcabcabc --model diffusion", "16 tokens"),
        ("refine abc --model diffusion --share 2", "share is 2"),
        ("score --model diffusion", "--file"),
        ("score abc --file text", "--file"),
        ("score --file nothing --model diffusion", "nothing"),
        ("score a --model diffusion", "too short"),
        ("score abc --model diffusion --samples 0", "samples"),
        ("race --steps 0", "steps"),
        ("export diffusion diffusion", "new file"),
        ("export diffusion no/such/file.onnx", "folder"),
        ("push diffusion small", "owner/name"),
        ("push nothing a/small", "unknown model"),
        ("push diffusion a/small --numbers nothing.json", "nothing.json"),
    ],
    ids=lambda value: value.replace("/", ".") if " --" in value or value.count(" ") > 1 else "",
)
def test_bad_input_is_one_line(say, model, argv, says):
    model("diffusion"), model("gpt")
    said = say(*argv.split())
    assert said.code == 2 and said.out == "" and says in said.err, said
    assert said.err.startswith("microdlm: ") and said.err.count("\n") == 1


def test_without_a_clone_there_is_no_race(say, monkeypatch, tmp_path):
    monkeypatch.setattr("microdlm.runs.ROOT", tmp_path)
    said = say("race")
    assert said.code == 2 and "clone" in said.err


@pytest.mark.parametrize("argv", ["", "generat", "generate --stepz 3", "score --samples many", "push"])
def test_what_the_parser_does_not_know_is_its_to_tell(say, argv):
    said = say(*argv.split())
    assert said.code == 2 and "Traceback" not in said.err


# Its help


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_eighty_columns_and_names_everything(say, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    said = say(*name.split(), "--help")
    usage, *lines = said.out.splitlines()  # the first line is left to the terminal to wrap
    assert said.code == 0 and max(map(len, lines)) <= 80
    wanted = COMMANDS if not name else [f"--{o}" for o in OPTIONS.get(name, [])]
    assert all(word in said.out for word in wanted) and "command." not in said.out
    assert usage.startswith(f"usage: microdlm {name}".rstrip())


OPTIONS = {
    "generate": ["model", "prompt", "length", "sampler", "num-steps", "temperature", "top-k", "top-p", "seed", "n"],
    "score": ["file", "samples"],
    "push": ["numbers", "private"],
}


def test_the_overview_shows_what_works():
    """Every command in the module's text is one, with as many words as it takes."""
    shown = re.findall(r"^    microdlm (\w+)", command.__doc__, re.MULTILINE)
    assert shown == list(COMMANDS)


def test_it_is_installed_under_its_name():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"microdlm": f"{command.__name__}:{command.main.__name__}"}


def test_as_a_module_and_quick_to_help():
    """python -m microdlm is the same command; help loads no torch."""
    code = "import sys, microdlm.__main__ as m; assert 'torch' not in sys.modules; sys.argv[1:] = ['--help']; m.main()"
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    once = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert once.returncode == 0, once.stderr
    done = subprocess.run(
        [sys.executable, "-m", "microdlm", "--help"], env=env, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, once.stdout)
