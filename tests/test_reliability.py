"""What results/reliability.py and results/fuzz.py measure at length, in short."""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from microdlm import cli
from microdlm.canvas import canvas
from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.files import leftovers, read_json, write_json, write_tensors
from microdlm.pretrained import load
from microdlm.runs import ROOT, Run
from microdlm.tokenizers import CharTokenizer
from microdlm.transformer import Transformer, TransformerConfig

CONFIG = {"kind": "gpt", "training": {"steps": 3}}


# One process at a time


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".config.json.12.part", ".tmp46PEG2"]])
def test_a_folder_of_one_who_was_killed_before_there_was_a_run_is_free(tmp_path, left):
    """Else nobody could start there, and nobody resume."""
    for name in left:
        (tmp_path / name).write_text("")
    Run.open(tmp_path, CONFIG)
    assert leftovers(tmp_path) == [] and (tmp_path / "config.json").exists()


def test_what_was_half_written_is_removed_by_who_goes_on(tmp_path):
    """A checkpoint of the large model is 1.5 GB: ten kills and the disk is full."""
    del Run.open(tmp_path, CONFIG).lock
    for half in (".checkpoint.safetensors.12.part", ".tmpAvhONn"):  # safetensors writes beside what we write beside
        (tmp_path / half).write_text("half")
    (tmp_path / ".notes").write_text("mine")
    Run.open(tmp_path, CONFIG, resume=True)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", ".lock", ".notes"}


def test_one_process_may_open_its_run_again(tmp_path):
    """In a notebook, a training that was interrupted lives on in its traceback."""
    first = Run.open(tmp_path, CONFIG)
    again = Run.open(tmp_path, CONFIG, resume=True)
    assert first.lock is again.lock and first.lock.is_locked


HOLD = """
import sys
from microdlm.runs import Run
run = Run(sys.argv[1])
run.alone()
print("mine", flush=True)
sys.stdin.read()
"""


def test_another_process_is_kept_out_until_it_is_killed(tmp_path):
    Run.open(tmp_path, CONFIG)
    argv = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(UserError, match="another process is at") as refused:
            Run.open(tmp_path, CONFIG, resume=True)
        assert "\n" not in str(refused.value)
        other.kill()
    Run.open(tmp_path, CONFIG, resume=True)


# What is read and written


@pytest.mark.parametrize(
    "line", [b"3", b"null", b"[]", b"{}", b'{"step": "1"}', b"\xff", b"[" * 9999, b'{"step": null}'], ids=repr
)
def test_a_line_that_is_no_record_is_one_clear_line(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line[:99_999] + b'\n{"step": 2}\n')
    for read in (Run(tmp_path).metrics, lambda: Run(tmp_path).rewind(1)):
        with pytest.raises(UserError, match="metrics.jsonl has a line that is no record") as refused:
            read()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize("value", [[], 3, None, "diffusion"])
def test_a_configuration_that_is_no_table_is_one_clear_line(tmp_path, value):
    write_json(tmp_path / "config.json", value)
    with pytest.raises(UserError, match="config.json is not a run's configuration"):
        Run.open(tmp_path, CONFIG, resume=True)


@pytest.mark.parametrize("blank", ["{" + "9" * 5000 + "}", "{999999999999}", "{000000000000000000009}", "{٩}"])
def test_a_blank_may_be_as_long_as_one_likes_to_write(blank):
    tok = CharTokenizer("ab")
    if len(blank) < 30 and blank != "{999999999999}":
        assert canvas(f"a{blank}b", tok, most=100).tolist() == [[0, *[2] * 9, 1]]
    else:
        with pytest.raises(UserError, match="more than 100 tokens"):
            canvas(f"a{blank}b", tok, most=100)


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": []},
        {"rope_base": "x"},
        {"rope_base": math.nan},
        {"d_model": "64"},
        {"n_layer": 10**9},
        {"n_layer": 0},
        {"n_layer": 2.0},
        {"vocab_size": 10**9},
        {"d_model": 10**9},
        {"causal": "yes"},
        {"mlp": None},
    ],
    ids=str,
)
def test_a_network_of_no_kind_or_no_size_is_refused_before_it_is_built(tmp_path, changes):
    """A billion layers would take an hour to build, a billion tokens more memory than there is."""
    model = asdict(TransformerConfig(vocab_size=4, seq_len=8, n_layer=1, n_head=2, d_model=16))
    write_tensors(tmp_path / "model.safetensors", dict(Transformer(TransformerConfig(**model)).named_parameters()))
    sound = {"model": model, "tokenizer": CharTokenizer("abc").to_json()}
    write_json(tmp_path / "config.json", sound)
    load(tmp_path)
    write_json(tmp_path / "config.json", sound | {"model": model | changes})
    begun = time.process_time()
    with pytest.raises(UserError, match="config.json does not describe a model") as refused:
        load(tmp_path)
    assert "\n" not in str(refused.value) and time.process_time() - begun < 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems promise memory that they do not have")
def test_a_line_of_a_terabyte_is_too_much_at_once(tmp_path):
    """The disk holds nothing of it. A MemoryError is one line and exit code 2, see below."""
    with open(tmp_path / "huge.txt", "wb") as f:
        f.truncate(2**40)
    with pytest.raises(MemoryError):
        load_corpus(str(tmp_path / "huge.txt"))


# The edge


@dataclass(frozen=True)
class Options:
    seed: int = 0


@pytest.mark.parametrize(
    "error, says",
    [
        (OSError(28, "No space left on device"), "the output: No space left on device"),
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (MemoryError(), "not enough memory"),
        (UserError("two\nlines \x1b[2J and \udcff"), "two lines ?[2J and ?"),
    ],
    ids=["disk", "right", "memory", "line"],
)
def test_what_the_machine_refuses_is_one_line_too(monkeypatch, capsys, error, says):
    def main(cfg):
        raise error

    monkeypatch.setattr(sys, "argv", ["here/program.py"])
    with pytest.raises(SystemExit) as left:
        cli.run(main, Options, "")
    err = capsys.readouterr().err
    assert left.value.code == 2 and err.startswith("program.py: ") and says in err and err.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def main(cfg):
        raise KeyError("a bug")

    monkeypatch.setattr(sys, "argv", ["program.py"])
    with pytest.raises(KeyError):
        cli.run(main, Options, "")


# Chance


def test_the_false_alarm_rate_of_every_test_is_the_one_that_is_told():
    """CONTRIBUTING.md says 1e-4 for every p value: no test is laxer, none is nervous."""
    text = "".join(p.read_text(encoding="utf-8") for p in sorted((ROOT / "tests").glob("*.py")))
    levels = re.findall(r"pvalue > ([\d.e-]+)", text)
    assert set(levels) == {"1e-4"} and len(levels) > 20
    assert "p < 1e-4" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


# In short


def smoke(command: str, out: Path, *options: str) -> dict:
    argv = [sys.executable, ROOT / "results" / f"{command}.py", "--smoke", "--out", out, *options]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text(encoding="utf-8"))["sections"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork to kill")
def test_every_promise_is_kept_a_few_times(tmp_path):
    sections = smoke("reliability", tmp_path / "reliability.json")
    assert all(section["kept"] for section in sections.values()) and len(sections) == 5
    killed = sections["kill -9 costs no bit"]
    assert killed["same bits"] == killed["killed"] == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no alarm to set")
def test_a_hundred_pieces_of_nonsense_are_refused_or_understood(tmp_path):
    found = smoke("fuzz", tmp_path / "reliability.json")["fuzzing"]
    assert found["inputs"] >= 100 and found["faults"] == []
    assert min(sum(t.get(what, 0) for t in found["targets"].values()) for what in ("a result", "refused")) > 5


@pytest.mark.parametrize("fault", [KeyError("x"), SystemExit(1), RecursionError()], ids=["traceback", "code", "depth"])
def test_the_judge_of_the_fuzzing_knows_a_fault(command, fault):
    fuzz = command("fuzz")

    def target(place, rng):
        raise fault

    assert fuzz.verdict(target, None, "0")[0] == "fault"
    assert fuzz.verdict(lambda place, rng: print("two\nlines", file=sys.stderr) or sys.exit(2), None, "0")[0] == "fault"
    assert fuzz.verdict(lambda place, rng: print("a line", file=sys.stderr) or sys.exit(2), None, "0")[0] == "refused"


def test_every_promise_was_kept_when_it_was_last_measured():
    sections = read_json(ROOT / "results" / "reliability.json")["sections"]
    fuzzed = sections.pop("fuzzing")
    assert fuzzed["inputs"] >= 10_000 and fuzzed["faults"] == []
    assert all(section["kept"] for section in sections.values())
    killed = sections["kill -9 costs no bit"]
    assert killed["killed"] == 50 == killed["all that stood there loads"] == killed["same bits"]
    assert killed["faults"] == []
