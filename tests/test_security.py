"""Nothing is executed from a file, nothing leaves its folder, nothing comes unchecked, no secret is kept."""

import ast
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from microdlm import comparison
from microdlm import sources as source
from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.files import read_json, write_json
from microdlm.hub import WEIGHTS
from microdlm.pretrained import load
from microdlm.runs import ROOT, provenance, without_secrets
from study.prepare import FORMAT
from study.shards import Shards

CODE = [p for part in ("microdlm", "steps", "study", "results", "weights") for p in sorted((ROOT / part).glob("*.py"))]
CODE += sorted(ROOT.glob("*.py"))

# Executed


LOAD = """
import sys
seen = []
def audit(event, args):
    if event == "pickle.find_class" or (event == "open" and str(args[0]).startswith({folder!r})):
        seen.append(f"{{event}} {{args[0]}}")
import numpy, torch, safetensors.torch, tokenizers
from microdlm import pretrained, recording, runs
sys.addaudithook(audit)
lm = pretrained.load({folder!r})
lm.generate(1, 12, "to", num_steps=2)
runs.Run({folder!r}).metrics()
print("\\n".join(sorted(set(seen))))
"""
TRAPS = ["model.bin", "pytorch_model.bin", "model.pt", "checkpoint.pt", "model.pkl", "config.py", "modeling.py"]
TRAPS += ["tokenizer.py", "tokenizer.json", "tokenizer.model", "conftest.py", "__init__.py", "config.yaml"]


def test_a_folder_is_read_and_nothing_beside_what_belongs_to_it_is_opened(tmp_path):
    """Python says what it opens and what it unpickles: two files, and no pickle."""
    folder = tmp_path / "shakespeare-diffusion"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((WEIGHTS / "shakespeare-diffusion" / name).read_bytes())
    for name in TRAPS:
        (folder / name).write_text("raise SystemExit('the trap was sprung')")
    argv = [sys.executable, "-c", LOAD.format(folder=f"{folder}")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    opened = {line.split("/")[-1] for line in done.stdout.split("\n") if line.startswith("open ")}
    assert "config.json" in opened and opened <= {"config.json", "model.safetensors"}, opened
    assert "pickle" not in done.stdout


FORBIDDEN = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "yaml"}


@pytest.mark.parametrize("path", CODE, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_no_code_of_ours_could_execute_what_it_reads(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", "") or "", *(alias.name for alias in node.names)}
            assert not {name.split(".")[0] for name in names} & FORBIDDEN, node.lineno
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "torch.load", "os.system", "os.popen"), node.lineno
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            dangerous = {"shell", "allow_pickle", "trust_remote_code"} & given.keys()
            assert all(given[name] == "False" for name in dangerous), node.lineno


# Fetched


def test_what_is_downloaded_comes_by_https_and_has_a_checksum():
    """Of the stories no checksum was ever published: the first download's holds from then on (tests/test_corpus.py)."""
    for name, url in source.URLS.items():
        *_, sha256 = source.FILES[name].values()
        assert url.startswith("https://") and (sha256 is None) == name.startswith("tinystories")
        assert sha256 is None or re.fullmatch("[0-9a-f]{64}", sha256)
    for path in CODE:
        plain = set(re.findall(r"http://([\w.-]+)", path.read_text(encoding="utf-8")))
        assert plain <= {"127.0.0.1", "localhost", "www.w3.org"}, path  # the last is a name, not an address


def test_another_text_under_the_right_address_is_not_used(tmp_path, monkeypatch):
    asked = []

    def download(url, path, _):
        asked.append(url)
        Path(path).write_text("something else\n" * 99)

    monkeypatch.delenv("MICRODLM_DATA", raising=False)
    monkeypatch.setattr(source, "DATA", tmp_path)
    monkeypatch.setattr("pooch.HTTPDownloader", lambda **how: download)
    with pytest.raises(UserError, match="sha256"):
        load_corpus("shakespeare")
    assert asked == [source.URLS["shakespeare"]] and not (tmp_path / "shakespeare.txt").exists()


# Paths in files


@pytest.mark.parametrize("path", ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "sub/x.bin", "", ".."])
def test_shards_lie_in_their_folder(tmp_path, path):
    (tmp_path / "secret.bin").write_bytes(b"\1\0" * 64)
    folder = tmp_path / "shards"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x.bin").write_bytes(b"\1\0" * 64)
    shard = {"file": path, "tokens": 64, "sha256.bin": hashlib.sha256(b"\1\0" * 64).hexdigest()}
    tokenizer = {"kind": "char", "alphabet": "ab"}
    write_json(
        folder / "metadata.json", {**FORMAT, "shards": [shard, shard], "tokenizer": tokenizer} | {"characters": 1}
    )
    with pytest.raises(UserError, match="outside of its folder"):
        Shards.open(folder, 8)


@pytest.mark.parametrize("name", ["/etc/passwd", "../text.txt", "~/.ssh/id_rsa", 3, None, ["a"]])
def test_a_model_cannot_have_a_file_of_this_machine_read(tmp_path, monkeypatch, name):
    folder = tmp_path / "theirs"
    folder.mkdir()
    shipped = WEIGHTS / "shakespeare-gpt"
    (folder / "model.safetensors").symlink_to(shipped / "model.safetensors")
    config = read_json(shipped / "config.json")
    write_json(folder / "config.json", config | {"corpus": {**config["corpus"], "name": name}})
    monkeypatch.setattr(comparison, "load_corpus", lambda *args: pytest.fail("it was read"))
    with pytest.raises(UserError, match="--data"):
        comparison.compare(comparison.Config(models=(str(folder),)))
    load(folder)


# Secrets


@pytest.mark.parametrize(
    "words, kept",
    [
        (["--token", "abc123"], ["--token", "***"]),
        (["--hub-token=abc123"], ["--hub-token=***"]),
        (["--api-key", "abc"], ["--api-key", "***"]),
        (["--out", "hf_AbCdEfGhIjKlMn"], ["--out", "***"]),
        (["x=ghp_0123456789abcdef"], ["x=***"]),
        (["https://me:pass@host/data.txt"], ["https://***@host/data.txt"]),
        (["--data", "in the environment: s3cr3t-value"], ["--data", "in the environment: ***"]),
        (["--prompt", "ROMEO: my token", "--seed", "0"], ["--prompt", "ROMEO: my token", "--seed", "0"]),
        (["--tokens", "9", "--top-k", "20", "ask-sk-x"], ["--tokens", "9", "--top-k", "20", "ask-sk-x"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_command_line_is_kept_without_its_secrets(monkeypatch, words, kept):
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-value")
    assert without_secrets(words) == kept


def test_no_secret_of_the_environment_is_in_what_is_kept(monkeypatch):
    secrets = {"HF_TOKEN": "hf_environment0", "WANDB_API_KEY": "0123456789abcdef", "MY_PASSWORD": "correct horse"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["diffusion.py", *secrets.values(), "--train"])
    made = json.dumps(provenance())
    assert not [name for name, value in secrets.items() if value in made or name in made] and "--train" in made


# The page


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.policy, self.sources, self.inline = {}, [], []

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy":
            self.policy = {part.split()[0]: part.split()[1:] for part in a["content"].split(";")}
        self.sources += [a[key] for key in ("src", "href") if tag in ("script", "link", "img", "iframe") and a.get(key)]
        self.inline += [key for key in a if key.startswith("on") or key == "style"]
        self.inline += [tag] * (tag == "style" or (tag == "script" and "src" not in a))


@pytest.mark.parametrize("name", ["index.html", "explore/preview.html"])
def test_the_page_may_only_do_what_it_does(name):
    """Nothing but its own files, no inline code, no eval: what a text on it may not start, it cannot."""
    page = Page()
    page.feed((ROOT / "web" / name).read_text(encoding="utf-8"))
    assert page.policy["default-src"] == ["'none'"] and page.policy["script-src"][0] == "'self'"
    allowed = {"'self'", "'none'", "'wasm-unsafe-eval'", "data:"}
    assert {word for words in page.policy.values() for word in words} <= allowed
    assert not page.inline and not [s for s in page.sources if "//" in s]


def test_no_script_of_the_page_makes_code_of_text():
    for path in [*(ROOT / "web").glob("*.js"), *(ROOT / "web" / "explore").glob("*.js")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )


# What we build on


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)
PINNED = {normal(name) for name in PINS}
OF_TORCH = ("nvidia-", "cuda-", "triton", "setuptools")  # torch pins the first three itself


def test_every_dependency_is_pinned():
    """Of the project, of its extras, and of those in turn as far as they are installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    todo, seen = [Requirement(r) for r in asked], set()
    while todo:
        requirement = todo.pop()
        name = normal(requirement.name)
        if (
            name in seen
            or name.startswith(OF_TORCH)
            or (requirement.marker and not requirement.marker.evaluate({"extra": ""}))
        ):
            continue
        seen.add(name)
        try:
            todo += [Requirement(r) for r in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue
    assert seen <= PINNED, sorted(seen - PINNED)
    assert len(seen) > 60 and "torch" in seen


def test_every_package_of_the_page_has_a_checksum():
    packages = read_json(ROOT / "web" / "package-lock.json")["packages"]
    fetched = {name: p for name, p in packages.items() if name}
    assert fetched and all(p["integrity"].startswith("sha512-") for p in fetched.values())
    assert all(p.get("resolved", "https://").startswith("https://") for p in fetched.values())


def test_ci_audits_what_we_build_on_and_may_only_read():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "pip-audit" in text and re.search(r"^permissions:\n  contents: read$", text, re.M)
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert "pull_request_target" not in path.read_text(encoding="utf-8"), path
