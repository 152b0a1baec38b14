"""What several test files share: randomness that repeats, exact languages, a network that was never trained."""

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from microdlm.corpus import DATA, load_corpus
from microdlm.oracle import MarkovDenoiser
from microdlm.runs import ROOT
from microdlm.transformer import Transformer, TransformerConfig

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
def step():
    """step("step0_masking") -> that script as a module. It is not a package: it is meant to be run."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, ROOT / "steps" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def script():
    """script("recipes") -> that command of results/ as a module, with little text to read."""

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, ROOT / "results" / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
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
