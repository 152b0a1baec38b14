"""Whatever is wrong with what was asked for: one clear line, exit code 2, and nothing made, changed or lost."""

import importlib.util
import json
import math
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from microdlm import cli, comparison, sources
from microdlm.runs import ROOT
from microdlm.state import TrainConfig

TEXT = "to be or not to be, that is the question:\n" * 30


def script(name: str):
    """A twin whose nano is so small that a run takes a moment."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PRESETS["nano"] = (16, dict(n_layer=1, n_head=2, d_model=16), TrainConfig(steps=6, batch_size=2))
    return module


TWINS = {name: script(name) for name in ("gpt", "diffusion")}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty place to work in, with a text, no network, and no data but what a test puts there."""

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MICRODLM_DATA", raising=False)
    monkeypatch.setattr(sources, "DATA", tmp_path / "data")
    monkeypatch.setattr("pooch.HTTPDownloader", lambda **how: offline)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def say(monkeypatch, capsys):
    """say("diffusion", "--train", ...) -> what a shell would see: code, out, err."""

    def call(name: str, *argv: str) -> SimpleNamespace:
        module, code = TWINS.get(name, comparison), 0
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, argv)])
        try:
            cli.run(module.main, module.Config, module.__doc__)
        except SystemExit as done:
            code = done.code
        except KeyboardInterrupt:
            code = "a traceback"
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return call


def everything(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def refused(say, here):
    """Ask for something that will not do; check all that is promised and return the line."""

    def call(name: str, *argv: str, out: bool = False) -> str:
        before = everything(here)
        said = say(name, *argv)
        assert said.code == 2, said
        assert said.err.count("\n") == 1 and said.err.startswith(f"{name}.py: ") and len(said.err) > 20, said.err
        assert out or not said.out
        assert everything(here) == before
        return said.err

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> dict[str, bytes]:
    """The files of a finished run of diffusion.py."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        TWINS["diffusion"].main(TWINS["diffusion"].Config(train=True, data="text.txt", out=Path("run")))
    return {p.name: p.read_bytes() for p in (folder / "run").iterdir()}


@pytest.fixture
def run(here, trained) -> Path:
    """That run, to be spoilt."""
    (here / "run").mkdir()
    for name, content in trained.items():
        (here / "run" / name).write_bytes(content)
    return here / "run"


# What is asked for


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(
    "argv, says",
    [
        ("", "nothing to do: --train --generate"),
        ("--resume", "nothing to do"),
        ("--train --data text.txt --preset smal", "'smal' small nano full"),
        ("--train --data text.txt --preset gigantic", "'gigantic' small nano full"),
        ("--train --data shakespear", "'shakespear' shakespeare"),
        ("--train --data playlet", "'playlet' playlets"),
        ("--train --data no/such/file.txt", "no/such/file.txt"),
        ("--train --data data", "data folder"),
        ("--train --data text.txt --steps 0", "steps 0"),
        ("--train --data text.txt --steps -5", "steps -5"),
        ("--train --data text.txt --lr -1", "lr -1"),
        ("--train --data text.txt --lr 0", "lr 0"),
        ("--train --data text.txt --lr nan", "lr nan"),
        ("--train --data text.txt --dropout 1.5", "dropout 1.5"),
        ("--train --data text.txt --dropout -0.1", "dropout -0.1"),
        ("--train --data text.txt --precision float61", "precision float61 float32"),
        ("--train --data text.txt --device abacus", "device 'abacus' cpu"),
        ("--train --data text.txt --out text.txt", "text.txt --out"),
        ("--train --data text.txt --out text.txt/run", "text.txt --out"),
        ("--train --data text.txt --out data/run --resume", "data/run no run to resume"),
        ("--generate --out no/such/run", "no/such/run"),
        ("--generate --out data", "config.json missing"),
    ],
    ids=lambda value: value.replace("--data text.txt ", "").replace("/", ".") if value.startswith("--") else "",
)
def test_options_that_will_not_do(refused, name, argv, says):
    line = refused(name, *argv.split())
    assert all(word in line for word in says.split()), line


@pytest.mark.parametrize("option", ["--stepz 3", "--steps many", "--preset", "--lr fast"])
def test_options_that_do_not_exist_are_told_by_the_parser(say, here, option):
    before, said = everything(here), say("gpt", "--train", *option.split())
    assert said.code == 2 and "Traceback" not in said.err and option.split()[0].lstrip("-") in said.err
    assert everything(here) == before


def test_a_text_shorter_than_one_window(refused, here):
    (here / "short.txt").write_text("to be or not to be, that is the question:\n")
    line = refused("diffusion", "--train", "--data", "short.txt")
    assert "short.txt" in line and "16" in line


@pytest.mark.parametrize("content, says", [(b"", "empty"), (b"\xff\xfe\x00 what", "UTF-8")])
def test_a_text_that_is_none(refused, here, content, says):
    (here / "odd.txt").write_bytes(content)
    assert says in refused("gpt", "--train", "--data", "odd.txt")


def test_no_network(refused):
    line = refused("diffusion", "--train", "--data", "shakespeare")
    assert "download" in line and "--data playlets" in line


def test_a_checksum_that_is_not_the_known_one(refused, say, here, monkeypatch):
    """A file of theirs stays where it is; one of ours is kept aside; neither is ever used."""
    (here / "theirs").mkdir()
    for folder in ("theirs", "data"):
        (here / folder / "shakespeare.txt").write_text(TEXT)
    monkeypatch.setenv("MICRODLM_DATA", str(here / "theirs"))
    assert "sha256" in refused("gpt", "--train", "--data", "shakespeare")
    monkeypatch.delenv("MICRODLM_DATA")
    said = say("gpt", "--train", "--data", "shakespeare")
    assert said.code == 2 and "sha256" in said.err and said.err.count("\n") == 1
    assert [p.name for p in (here / "data").iterdir()] == ["shakespeare.txt.mismatch"]
    assert (here / "data" / "shakespeare.txt.mismatch").read_text() == TEXT
    assert not (here / "runs").exists()


# What is written with


@pytest.mark.parametrize(
    "argv, says",
    [
        (("--prompt", "to bé"), "'é' position 4"),
        (("--prompt", "x" * 3), "'x' position 0"),
        (("--prompt", "to be or not to be"), "18 tokens 16"),
        (("--prompt", "to be", "--length", "4"), "5 tokens 4"),
        (("--length", "100001"), "100001 100000"),
        (("--length", "0"), "0 100000"),
        (("--length", "-3"), "-3 100000"),
        (("--temperature", "-1"), "temperature -1"),
        (("--temperature", "nan"), "temperature nan"),
        (("--num-steps", "0"), "num_steps 0"),
        (("--top-k", "0"), "top_k 0"),
        (("--top-p", "0"), "top_p 0"),
        (("--top-p", "2"), "top_p 2"),
        (("--device", "abacus"), "abacus"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("training", [False, True], ids=["", "after training"])
def test_writing_that_will_not_do(refused, run, argv, says, training):
    """With --train it is refused before the first step: nobody waits an hour to hear of a typing error."""
    asked = ("--train", "--data", "text.txt", "--out", "new") if training else ("--out", "run")
    line = refused("diffusion", *asked, "--generate", *argv)
    assert all(word in line for word in says.split()), line


def test_a_gpt_wants_something_to_continue(refused, here):
    assert "--prompt" in refused("gpt", "--train", "--generate", "--data", "text.txt", "--prompt", "")


def test_the_weights_of_the_other_twin(refused, run):
    line = refused("gpt", "--generate", "--out", "run")
    assert "diffusion.py" in line


# Weights that are no weights


class Trap:
    """A pickle that leaves a trace when it is opened."""

    def __reduce__(self):
        return Path.touch, (Path("the trap was sprung"),)


def changed(content: bytes, change) -> bytes:
    Path("spoilt").write_bytes(content)
    tensors = change(load_file("spoilt"))
    save_file(tensors, "spoilt")
    return Path("spoilt").read_bytes()


def pickled(content: bytes) -> bytes:
    torch.save({"weights": Trap()}, "spoilt")
    return Path("spoilt").read_bytes()


SPOILT = {
    "missing": None,
    "empty": lambda content: b"",
    "cut in its header": lambda content: content[:100],
    "cut at its end": lambda content: content[:-1],
    "noise": lambda content: bytes(range(256)) * 40,
    "a pickle": lambda content: pickle.dumps(Trap()),
    "a torch file": pickled,
    "text": lambda content: TEXT.encode(),
    "other shapes": lambda content: changed(content, lambda w: w | {"head.weight": torch.zeros(3, 16)}),
    "one tensor less": lambda content: changed(content, lambda w: {k: w[k] for k in w if k != "head.weight"}),
    "one tensor more": lambda content: changed(content, lambda w: w | {"bias": torch.zeros(1)}),
    "no numbers": lambda content: changed(content, lambda w: w | {"head.weight": w["head.weight"] * math.nan}),
}


@pytest.mark.parametrize("how", SPOILT)
def test_weights_that_are_missing_cut_or_foreign(refused, run, how):
    path = run / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    if SPOILT[how]:
        path.write_bytes(SPOILT[how](content))
    line = refused("diffusion", "--generate", "--out", "run")
    assert "run" in line
    assert not (run.parent / "the trap was sprung").exists()


def edit(**changes):
    return lambda config: json.dumps({k: v for k, v in (config | changes).items() if v is not None})


def model(**changes):
    return lambda config: json.dumps(config | {"model": config["model"] | changes})


CONFIGS = {
    "not JSON": lambda config: "{'kind': 'diffusion'}",
    "cut": lambda config: json.dumps(config)[:200],
    "empty": lambda config: "",
    "a list": lambda config: "[]",
    "a number": lambda config: "3",
    "no model": edit(model=None),
    "no tokenizer": edit(tokenizer=None),
    "a model in words": edit(model="transformer"),
    "an unknown part": model(flux_capacitor=1),
    "another size": model(d_model=32),
    "an odd number of heads": model(n_head=3),
    "no heads": model(n_head=0),
    "words for numbers": model(n_layer="two"),
    "less than nothing": model(d_model=-16),
    "a vocabulary beyond memory": model(vocab_size=10**15),
    "a tokenizer of another alphabet": edit(tokenizer={"kind": "char", "alphabet": "abc"}),
    "a tokenizer of no kind": edit(tokenizer={"kind": "runes"}),
    "a causal diffusion model": model(causal=True),
}


@pytest.mark.parametrize("how", CONFIGS)
def test_a_configuration_that_is_none(refused, run, how):
    path = run / "config.json"
    path.write_text(CONFIGS[how](json.loads(path.read_text())))
    assert "run" in refused("diffusion", "--generate", "--out", "run")


# Runs


def test_a_run_that_is_there_is_not_touched(refused, run):
    line = refused("diffusion", "--train", "--data", "text.txt", "--out", "run")
    assert "run" in line and "--resume" in line


@pytest.mark.parametrize(
    "argv, says",
    [
        ("--steps 7", "steps 6 7"),
        ("--lr 0.5", "lr 0.003 0.5"),
        ("--seed 1", "seed 0 1"),
        ("--dropout 0.5", "dropout"),
        ("--data other.txt", "corpus"),
    ],
    ids=lambda value: value if value.startswith("--") else "",
)
def test_resume_with_other_options_names_the_difference(refused, run, argv, says):
    (run.parent / "other.txt").write_text(TEXT + "other")
    asked = {"--data": "text.txt", "--out": "run"} | dict([argv.split()])
    line = refused("diffusion", "--train", "--resume", *(word for pair in asked.items() for word in pair))
    assert all(word in line for word in says.split()), line


def test_resume_as_the_other_twin(refused, run):
    line = refused("gpt", "--train", "--resume", "--data", "text.txt", "--out", "run")
    assert "diffusion" in line and "gpt" in line


@pytest.mark.parametrize("how", ["cut at its end", "noise", "a torch file"])
def test_a_checkpoint_that_is_damaged_is_not_resumed(refused, run, how):
    path = run / "checkpoint.safetensors"
    path.write_bytes(SPOILT[how](path.read_bytes()))
    asked = ("--train", "--resume", "--data", "text.txt", "--out", "run")
    assert "checkpoint.safetensors" in refused("diffusion", *asked)


def test_a_learning_rate_that_breaks_everything_stops_at_once(say, here):
    said = say("diffusion", "--train", "--data", "text.txt", "--out", "new", "--lr", "1e30")
    assert said.code == 2 and said.err.count("\n") == 1 and "--lr" in said.err and "step " in said.err
    assert not (here / "new" / "done.json").exists()
    for path in (here / "new").glob("*.safetensors"):
        assert all(x.isfinite().all() for name, x in load_file(path).items() if name != "best"), path.name
    assert all(math.isfinite(json.loads(line)["loss"]) for line in (here / "new" / "metrics.jsonl").open())


def test_ctrl_c_outside_the_loop_is_one_line(say, here, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(TWINS["gpt"], "load_corpus", stop)
    said = say("gpt", "--train", "--data", "text.txt")
    assert said.code in (2, 130) and said.err.count("\n") == 1


# The comparison


def test_a_comparison_of_nothing(refused, run):
    assert "run" in refused("comparison")
    assert "no-such-run" in refused("comparison", "run", "no-such-run")
    assert "abc.txt" in refused("comparison", "run", "--data", "abc.txt")


@pytest.mark.parametrize("option", ["--texts", "--samples", "--windows"])
def test_a_comparison_of_less_than_nothing(refused, run, option):
    assert option.lstrip("-") in refused("comparison", "run", "--data", "text.txt", option, "-1")


def test_a_comparison_on_a_text_with_other_characters(refused, run):
    (run.parent / "greek.txt").write_text("μῆνιν ἄειδε θεὰ Πηληϊάδεω Ἀχιλῆος\n" * 30)
    assert "position 0" in refused("comparison", "run", "--data", "greek.txt")
