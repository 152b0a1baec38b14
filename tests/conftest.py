"""What several test files share: randomness that repeats, exact languages, an untrained network, scripts, the steps."""

import importlib.util
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import settings

from microdlm import playlets
from microdlm.corpus import Corpus, load_corpus
from microdlm.lesson import Config
from microdlm.oracle import MarkovDenoiser
from microdlm.runs import ROOT
from microdlm.sources import DATA
from microdlm.transformer import Transformer, TransformerConfig

# In a background job of a shell Ctrl-C is ignored, and so it would be by all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same examples on every machine
settings.load_profile("repeatable")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def chain() -> MarkovDenoiser:
    """A random order-1 chain over 4 symbols, not started from its stationary distribution. MASK is 4."""
    g = torch.Generator().manual_seed(1)
    initial, transition = torch.rand(4, generator=g).double(), torch.rand(4, 4, generator=g).double() ** 3
    return MarkovDenoiser(initial / initial.sum(), transition / transition.sum(1, keepdim=True))


@pytest.fixture(scope="session")
def skewed() -> MarkovDenoiser:
    """A chain that seldom moves, always starts at 0 and knows impossible moves. MASK is 3."""
    transition = torch.tensor([[0.95, 0.05, 0.0], [0.0, 0.9, 0.1], [0.3, 0.0, 0.7]])
    return MarkovDenoiser(torch.tensor([1.0, 0.0, 0.0]), transition)


@pytest.fixture(scope="session")
def ab() -> MarkovDenoiser:
    """The smallest language with a secret: ABAB.. and BABA.., equally likely, whatever the length. MASK is 2."""
    return MarkovDenoiser(torch.tensor([0.5, 0.5]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


@pytest.fixture(scope="session")
def network():
    """network(causal=..., ...) -> a tiny Transformer of which no weight is zero (a fresh block is the identity)."""

    def build(**changes) -> Transformer:
        sizes = {"vocab_size": 5, "seq_len": 16, "n_layer": 2, "n_head": 2, "d_model": 16} | changes
        net, g = Transformer(TransformerConfig(**sizes)), torch.Generator().manual_seed(2)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3, generator=g)
        return net.eval()

    return build


@pytest.fixture(scope="session")
def script():
    """script("results/steps") -> that file as a module. It is in no package: it is meant to be run, and so it sees
    what lies beside it."""

    def load(path: str):
        name, file = Path(path).name, ROOT / f"{path}.py"
        spec = importlib.util.spec_from_file_location(name, file)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(file.parent)
            spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def step(script):
    """step("step0_masking") -> that step as a module."""
    return lambda name: script(f"steps/{name}")


@pytest.fixture
def smoke(tmp_path):
    """smoke(module, **options) -> what a smoke run of that step kept. SystemExit if a claim is not as it should be.

    path: of its numbers; numbers: name -> value; claims: what -> whether it holds, None if not judged; failed: those
    that do not hold.
    """

    def run(module, out: Path = tmp_path, **options) -> SimpleNamespace:
        module.main(Config(smoke=True, out=out, **options))
        (path,) = out.glob("*.json")
        assert path.with_suffix(".png").stat().st_size > 10_000
        kept = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: n["value"] for name, n in kept["numbers"].items()}
        claims = {c["what"]: c["holds"] for c in kept["claims"]}
        assert len(claims) == len(kept["claims"])
        failed = [what for what, holds in claims.items() if holds is False]
        return SimpleNamespace(path=path, numbers=numbers, claims=claims, failed=failed)

    return run


@pytest.fixture
def cats(tmp_path) -> str:
    """The path of a text, for what has to run on any."""
    path = tmp_path / "cats.txt"
    lines = "The cat sat on the mat. The dog sat on the log.\nA frog, a fox and 7 owls came by; who knows why?\n"
    path.write_text(lines * 200, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def play() -> playlets.Playlets:
    """The built-in language, compiled once for all tests: that is the slow part."""
    return playlets.Playlets()


@pytest.fixture(scope="module")
def small_playlets(play):
    """small_playlets(module) -> that module. Until the tests of this file are over it need not compile the language,
    and gets only as much of its text as a test needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playlets, "Playlets", lambda: play)

        def shrink(module):
            patch.setattr(module, "Playlets", lambda: play)
            patch.setattr(module, "load_corpus", partial(load_corpus, n_chars=30_000))
            return module

        yield shrink


@pytest.fixture(scope="session")
def corpus(play) -> Corpus:
    """As much of the language's text as a test needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playlets, "Playlets", lambda: play)
        return load_corpus("playlets", n_chars=30_000)


@pytest.fixture(scope="session")
def command(script):
    """command("recipes") -> that command of results/ as a module, with little text to read."""

    def load(name: str):
        module = script(f"results/{name}")
        module.load_corpus = partial(load_corpus, n_chars=30_000)
        return module

    return load


@pytest.fixture(scope="session")
def shakespeare() -> str:
    """The name of that corpus, for tests that need its text; they are skipped where it would have to be downloaded."""
    places = [Path(os.environ["MICRODLM_DATA"])] if "MICRODLM_DATA" in os.environ else []
    if not any((place / "shakespeare.txt").exists() for place in (*places, DATA)):
        pytest.skip("no Tiny Shakespeare here: python diffusion.py --train --data shakespeare fetches it into data/")
    return "shakespeare"
