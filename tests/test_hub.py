"""Models on the Hub: what is pushed comes back, what is damaged is refused, and nothing but data is ever asked for.

The Hub is a server on this machine with the addresses and the headers of the real one; it keeps what it is given and
writes down what it is asked. Weights go there as ordinary files: how large ones travel is the library's business.
"""

import base64
import hashlib
import json
import os
import pickle
import shlex
import subprocess
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import microdlm
from microdlm.errors import UserError
from microdlm.hub import FILES, WEIGHTS
from microdlm.pretrained import LanguageModel
from microdlm.publishing import push
from microdlm.runs import ROOT, write_json, write_tensors
from microdlm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("\nabc")
NAME = "somebody/small"
TWINS = ROOT / "results" / "twins.json"


class Trap:
    """A pickle that leaves a trace when it is opened."""

    def __reduce__(self):
        return Path.touch, (Path("the trap was sprung"),)


class Hub(BaseHTTPRequestHandler):
    """GET and HEAD /owner/name/resolve/commit/file, and what it takes to put files there."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.give(body=False)

    def do_GET(self):
        self.give(body=True)

    def give(self, body: bool) -> None:
        hub = self.server
        if "/resolve/" not in self.path:  # the library may ask for things of its own
            return self.answer(404, b"", {})
        hub.asked.append(self.path)
        owner, name, _, revision, file = self.path.lstrip("/").split("/")
        commit = hub.commit if revision == "main" else revision
        files = hub.repos.get(f"{owner}/{name}")
        if files is None or file not in files:
            code = "RepoNotFound" if files is None else "EntryNotFound"
            return self.answer(404, b"", {"X-Error-Code": code, "X-Repo-Commit": commit})
        content = files[file]
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        etag = hashlib.sha256(content).hexdigest() if file.endswith(".safetensors") else git
        sent = hub.spoil.get(file, lambda content: content)(content)
        self.answer(200, sent if body else b"", {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, len(content))
        if hub.moves:
            hub.commit = hashlib.sha1(hub.commit.encode()).hexdigest()

    def do_POST(self):
        hub, data = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub.asked.append(self.path)
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.refuses:
            return self.answer(hub.refuses, b"{}", {})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]
            ]
            return self.say({"files": files})
        if self.path.endswith("/commit/main"):
            lines = [json.loads(line)["value"] for line in data.splitlines() if b'"file"' in line]
            given = {f["path"]: base64.b64decode(f["content"]) for f in lines}
            hub.repos.setdefault(self.path.removeprefix("/api/models/").removesuffix("/commit/main"), {}).update(given)
        made = json.loads(data)["name"] if self.path == "/api/repos/create" else self.path.split("/")[-3]
        url = f"http://127.0.0.1:{hub.server_port}/somebody/{made}"
        self.say(
            {
                "url": url,
                "commitUrl": f"{url}/commit/{hub.commit}",
                "commitOid": hub.commit,
                "errors": [],
                "warnings": [],
            }
        )

    def say(self, value) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict, announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items() | {"Content-Length": str(announced or len(body))}.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub, and the library set to it; its cache is in tmp_path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.asked, server.tokens, server.spoil = {}, [], set(), {}
    server.commit, server.refuses, server.moves = "c0" * 20, 0, False
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(tmp_path / "its own"), raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(network, tmp_path) -> Path:
    """A model of five hundred weights, as a run leaves it."""
    model, path = network(seq_len=8, n_layer=1), tmp_path / "a run"
    path.mkdir()
    write_json(path / "config.json", {"kind": "diffusion", "model": asdict(model.cfg), "tokenizer": LETTERS.to_json()})
    write_tensors(path / "model.safetensors", dict(model.named_parameters()))
    return path


def as_files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def refused(*words: str, of=lambda: microdlm.load(NAME)) -> str:
    with pytest.raises(UserError) as error:
        of()
    line = str(error.value)
    assert "\n" not in line and all(word in line for word in words), line
    return line


# Fetched


def test_a_model_on_the_hub_is_the_model_in_the_folder(hub, folder):
    hub.repos[NAME] = as_files(folder)
    here, there = microdlm.load(folder), microdlm.load(NAME)
    x = torch.arange(8)[None] % 5
    assert torch.equal(here.model(x), there.model(x)) and here.tokenizer == there.tokenizer
    assert there.generate(n=2, seed=3) == here.generate(n=2, seed=3)


def test_only_data_is_asked_for(hub, folder):
    """What else lies there, a pickle with the usual name or a program, is neither opened nor fetched."""
    bad = {name: pickle.dumps(Trap()) for name in ("pytorch_model.bin", "model.pt", "optimizer.pkl")}
    program = b"open('the trap was sprung', 'w')"
    hub.repos[NAME] = (
        as_files(folder) | bad | {"modeling_small.py": program, "__init__.py": program, "setup.py": program}
    )
    microdlm.load(NAME).generate(n=1)
    assert {path.rsplit("/", 1)[1] for path in hub.asked} == set(FILES)
    held = {p.name for p in Path("cache").rglob("*") if p.is_symlink()}
    assert held == set(FILES) and not Path("the trap was sprung").exists()


def test_a_pickle_under_the_name_of_weights_is_refused(hub, folder):
    hub.repos[NAME] = as_files(folder) | {"model.safetensors": pickle.dumps(Trap())}
    refused("model.safetensors", "not a safetensors file")
    assert not Path("the trap was sprung").exists()


def test_both_files_are_of_one_commit(hub, folder):
    """Somebody pushes between the two: the second is asked for at the commit of the first."""
    hub.repos[NAME], hub.moves, first = as_files(folder), True, hub.commit
    microdlm.load(NAME)
    at = {path.split("/")[4] for path in hub.asked if path.endswith("model.safetensors")}
    assert at == {first}


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_missing_is_named(hub, folder, file):
    hub.repos[NAME] = {name: content for name, content in as_files(folder).items() if name != file}
    refused(NAME, file, "NotFound")


@pytest.mark.parametrize("config", [b'{"architectures": ["Large"], "model": 1}', b"[]", b"3", b"{"])
def test_of_somebody_else_s_model_the_weights_are_not_fetched(hub, folder, config):
    hub.repos[NAME] = as_files(folder) | {"config.json": config}
    refused("config.json")
    assert not any("safetensors" in path for path in hub.asked)


def test_no_such_repository(hub):
    refused(NAME, "no folder here", "NotFound")
    assert refused("no such/thing at all", of=lambda: microdlm.load("no such/thing at all")) and len(hub.asked) == 1


@pytest.mark.parametrize("file", FILES)
def test_a_file_with_another_checksum_is_refused_every_time(hub, folder, file):
    """One bit flipped on the way, as long as before: only the checksum can tell. Deleted as it says, it is well."""
    hub.repos[NAME] = as_files(folder)
    hub.spoil[file] = lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    line = refused(file, "checksum")
    assert refused(file, "checksum") == line
    hub.spoil.clear()
    Path(line.split("delete ")[1].split(", then")[0]).unlink()
    assert microdlm.load(NAME).kind == "diffusion"


def test_weights_cut_on_the_way_are_not_kept(hub, folder, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again, each time a second later
    hub.repos[NAME] = as_files(folder)
    hub.spoil["model.safetensors"] = lambda content: content[: len(content) // 2]
    refused(NAME, "model.safetensors")
    assert not [p for p in Path("cache").rglob("model.safetensors")]
    hub.spoil.clear()
    assert microdlm.load(NAME).kind == "diffusion"


def test_offline_what_was_fetched_is_enough(hub, folder, monkeypatch):
    hub.repos[NAME] = as_files(folder)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again
    microdlm.load(NAME)
    hub.shutdown()
    hub.server_close()
    assert microdlm.load(NAME).kind == "diffusion"
    refused("somebody/else", "config.json", "network", of=lambda: microdlm.load("somebody/else"))


def test_without_the_library_it_says_what_to_install(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("pip install 'microdlm[hub]'")
    refused("pip install 'microdlm[hub]'", of=lambda: push("shakespeare-gpt", NAME))
    assert microdlm.load("shakespeare-gpt").kind == "gpt"  # what lies here needs none


def test_a_folder_comes_before_the_hub(hub, folder):
    """What is a folder, or would lie in one that is there, or is called a path, is never looked for on the Hub."""
    refused("unknown model", NAME, of=lambda: microdlm.load(Path(NAME)))
    Path("somebody").mkdir()
    refused("unknown model", NAME)
    folder.rename(NAME)
    assert microdlm.load(NAME).kind == "diffusion" and not hub.asked


def test_where_no_weights_ship_it_says_where_they_do(monkeypatch, tmp_path):
    monkeypatch.setattr("microdlm.hub.WEIGHTS", tmp_path / "none")
    refused("shakespeare-gpt", "clone", of=lambda: microdlm.load("shakespeare-gpt"))


def test_from_a_shell_with_the_address_in_the_environment(hub, folder):
    """As a user runs it, in a process of its own that reads HF_ENDPOINT itself."""
    hub.repos[NAME] = as_files(folder)
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": "home", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "microdlm", "generate", "--model", NAME, "--prompt", "ab", "--length", "8"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == microdlm.load(folder).generate(n=1, prompt="ab", length=8, temperature=0.8)[0] + "\n"


# Pushed


def test_what_is_pushed_comes_back(hub, folder):
    """From a folder byte for byte; from memory the same numbers. Three files, one commit, and nothing else of a run."""
    (folder / "checkpoint.safetensors").write_bytes(b"everything else")
    (folder / "notes.txt").write_text("private")
    address = push(folder, NAME)
    assert address.startswith(hub.url) and set(hub.repos[NAME]) == {*FILES, "README.md"}
    assert hub.repos[NAME]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert hub.tokens == {"Bearer hf_of_nobody"} and sum("commit" in path for path in hub.asked) == 1
    lm = microdlm.load(folder)
    push(LanguageModel(lm.model, lm.tokenizer), "somebody/other")
    x = torch.arange(8)[None] % 5
    for name in (NAME, "somebody/other"):
        assert torch.equal(microdlm.load(name).model(x), lm.model(x))


def test_the_card_says_what_was_measured_and_nothing_else(hub):
    numbers = json.loads(TWINS.read_text())
    push("shakespeare-diffusion", NAME, TWINS)
    card = hub.repos[NAME]["README.md"].decode()
    config = json.loads((WEIGHTS / "shakespeare-diffusion" / "config.json").read_text())
    mine, best = numbers["likelihood"]["diffusion"], min(config["summary"]["validations"], key=lambda v: v["val"])
    assert f"≤ {mine['nats_per_char']:.3f} ± {mine['stderr']:.3f} nats per character (an upper bound)" in card
    assert f"≤ {best['val']:.3f} ± {best['val_stderr']:.3f}" in card and f"{best['step']:,} steps" in card
    for said in (config["made_by"]["command"], config["made_by"]["commit"], numbers["made_by"]["command"], "803,328"):
        assert said in card
    assert f'microdlm.load("{NAME}")' in card and card.startswith("---\nlibrary_name: microdlm\n")


def test_another_measurement_is_another_card(hub, tmp_path):
    numbers = json.loads(TWINS.read_text())
    numbers["likelihood"]["gpt"] |= {"nats_per_char": 1.23456, "stderr": 0.0311}
    (tmp_path / "numbers.json").write_text(json.dumps(numbers))
    push("shakespeare-gpt", NAME, "numbers.json")
    assert "1.235 ± 0.031 nats per character (exact)" in hub.repos[NAME]["README.md"].decode()


def test_where_nothing_was_measured_nothing_is_claimed(hub, folder):
    push(folder, NAME)
    card = hub.repos[NAME]["README.md"].decode()
    assert "was not measured" in card and "±" not in card and "nats" not in card


def test_a_run_s_own_validations_are_on_its_card(hub, folder):
    """They stand in metrics.jsonl; per character, as everywhere."""
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"corpus": {"name": "x", "sha256": "0", "chars_per_token": 2.0}})
    write_json(folder / "done.json", {"steps": 20})
    values = [(10, 3.0), (15, None), (20, 2.5)]
    lines = [json.dumps({"step": s, "val": v, "val_stderr": v and 0.5}) + "\n" for s, v in values]
    (folder / "metrics.jsonl").write_text("".join(lines))
    push(folder, NAME)
    assert "≤ 1.250 ± 0.250 nats per character (an upper bound) after 20 steps" in hub.repos[NAME]["README.md"].decode()
    assert len(json.loads(hub.repos[NAME]["config.json"])["summary"]["validations"]) == 2


@pytest.mark.parametrize(
    "word, kept",
    [
        ("--data=/srv/ada/my plays/all.txt", "--data=all.txt"),
        ("/srv/ada/run/", "run/"),
        ("~/texts/all.txt", "all.txt"),
        (r"C:\Users\ada\all.txt", "all.txt"),
        ("runs/here", "runs/here"),
        ("--lr=3e-3", "--lr=3e-3"),
        ("/", "/"),
    ],
)
def test_no_card_tells_where_a_file_lay(hub, folder, word, kept):
    command, config = shlex.join(["python", "diffusion.py", word]), json.loads((folder / "config.json").read_text())
    made = {"command": command, "commit": "c0ffee", "torch": "2"}
    write_json(folder / "config.json", config | {"made_by": made})
    push(folder, NAME)
    sent = json.loads(hub.repos[NAME]["config.json"])["made_by"]
    assert shlex.split(sent["command"]) == ["python", "diffusion.py", kept] and sent["commit"] == "c0ffee"
    assert f"`{sent['command']}`" in hub.repos[NAME]["README.md"].decode()


@pytest.mark.parametrize(
    "change",
    [
        {"corpus": {"sha256": "another text"}},
        {"likelihood": {"diffusion": {"nats_per_char": 1.0, "stderr": 0.1, "parameters": 5}}},
        {"likelihood": {}},
        {"windows": None, "made_by": None},
        {"made_by": {"command": None}},
        {"made_by": {"command": "python 'x"}},
    ],
    ids=["another text", "another size", "another model", "no measurement", "no command", "half a command"],
)
def test_numbers_of_something_else_are_refused_before_anything_is_sent(hub, tmp_path, change):
    numbers = {k: v for k, v in (json.loads(TWINS.read_text()) | change).items() if v is not None}
    (tmp_path / "numbers.json").write_text(json.dumps(numbers))
    refused("numbers.json", of=lambda: push("shakespeare-diffusion", NAME, "numbers.json"))
    assert not hub.asked


ODD = [{"made_by": 3}, {"made_by": {"command": None}}, {"summary": []}, {"summary": {"validations": [{}]}}]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_a_configuration_that_makes_no_card_is_one_line(hub, folder, odd):
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | odd)
    refused("card", of=lambda: push(folder, NAME))
    assert not hub.asked


@pytest.mark.parametrize("to", ["small", "a/b/c", "some body/small", "", "../small"])
def test_a_name_that_will_not_do_is_refused_before_anything_is_sent(hub, folder, to):
    refused("owner/name", of=lambda: push(folder, to))
    assert not hub.asked


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_hub_that_refuses_is_one_line(hub, folder, status, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.refuses = status
    refused(NAME, "hf auth login", of=lambda: push(folder, NAME))
    assert not hub.repos
