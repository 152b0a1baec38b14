"""The comparison: both models answer for the same characters, no one beats the language, and costs are counted."""

from dataclasses import asdict, replace

import pytest
import torch

from microdlm import comparison
from microdlm.comparison import WAYS, Config, compare, table
from microdlm.errors import UserError
from microdlm.likelihood import Estimate
from microdlm.objectives import next_token_nll
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import read_json, write_json, write_tensors
from microdlm.terminal import console
from microdlm.transformer import Transformer, TransformerConfig

L, TEXTS = 40, 3


@pytest.fixture(scope="module", autouse=True)
def small(small_playlets):
    small_playlets(comparison)


def save(folder, corpus, causal: bool, steps: int, **changes):
    """A run's folder as loading wants it; `steps` of plain SGD on next characters make the GPT better than nothing."""
    V = len(corpus.tokenizer) + (not causal)
    net = TransformerConfig(V, **({"seq_len": L} | changes), n_layer=1, n_head=2, d_model=32, causal=causal)
    model, rng = Transformer(net, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        x_0 = corpus.batch(16, net.seq_len, rng)
        next_token_nll(model(x_0), x_0).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    folder.mkdir()
    tokenizer = corpus.tokenizer.to_json()
    of = {"name": corpus.name, "sha256": corpus.sha256}
    write_json(folder / "config.json", {"model": asdict(net), "tokenizer": tokenizer, "corpus": of})
    write_tensors(folder / "model.safetensors", dict(model.named_parameters()))
    return str(folder)


@pytest.fixture(scope="module")
def twins(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("the twins")
    return save(folder / "gpt", corpus, True, 60), save(folder / "diffusion", corpus, False, 0)


@pytest.fixture(scope="module")
def numbers(twins):
    return compare(Config(twins, windows=24, samples=16, texts=TEXTS))


def test_the_table_has_a_row_for_each_way_of_writing_and_the_exact_ones(numbers, play):
    assert [(w["kind"], w["way"]) for w in numbers["writing"]] == [
        ("gpt", "left to right"),
        ("diffusion", "surest first"),
        ("diffusion", "one by one"),
    ]
    made = table(numbers)
    assert made.row_count == len(numbers["writing"]) + 2
    with console.capture() as shown:
        console.print(made, width=160)
    rows = [line for line in shown.get().splitlines() if "nats/char" not in line]
    for kind, bound in (("gpt", ""), ("diffusion", "≤ ")):
        e = numbers["likelihood"][kind]
        cell = f"{bound}{e['nats_per_char']:.3f} ± {e['stderr']:.3f}"
        assert all(cell in row for row in rows if f"{kind}, " in row) and cell in shown.get()
    exact = numbers["exact"]
    assert f"{exact['nats_per_char']:.3f} ± {exact['stderr']:.3f}" in shown.get()
    assert f"{play.entropy_rate():.3f}" in shown.get()


def test_numbers_survive_the_file(numbers, tmp_path):
    write_json(tmp_path / "n.json", numbers)
    assert read_json(tmp_path / "n.json") == numbers
    assert {"commit", "command", "threads"} <= set(numbers["made_by"]) and numbers["seed"] == 0


def test_no_model_beats_the_language(twins, numbers, corpus, play):
    """Window by window, so that the noise of the text itself drops out: four paired standard errors."""
    x_0 = corpus.windows(L, 24)
    exact = play.denoiser().nll(x_0, given=1)
    assert numbers["exact"]["nats_per_char"] == pytest.approx(exact.mean().item())
    for folder in twins:
        lm = load(folder)
        scored = lm.score_windows(x_0, samples=16)
        value = {"nats_per_char": scored.mean, "stderr": scored.stderr}
        assert numbers["likelihood"][lm.kind] == value | {"parameters": lm.model.num_parameters()}
        gap = Estimate.of(scored.per_sequence - exact)
        assert gap.mean > -4 * gap.stderr
    assert numbers["likelihood"]["gpt"]["nats_per_char"] < numbers["likelihood"]["diffusion"]["nats_per_char"]


def test_the_language_itself_stands_on_its_own_number(corpus, play):
    """The exact denoiser in a model's place scores what the exact row says: the gap is zero, not just small."""
    x_0 = corpus.windows(L, 12)

    class Exact:
        causal, embedding = False, torch.nn.Embedding(1, 1)

        def __call__(self, x):
            return play.denoiser()(x)

    lm = LanguageModel(Exact(), corpus.tokenizer)
    gap = Estimate.of(lm.score_windows(x_0, samples=8).per_sequence - play.denoiser().nll(x_0, given=1))
    assert abs(gap.mean) < 4 * gap.stderr


def test_passes_and_token_forwards_are_those_really_made(twins, numbers, monkeypatch):
    """Counted a second time, by a hook in the network itself."""
    for folder in twins:
        lm, seen = load(folder), []
        lm.model.register_forward_hook(lambda net, args, out, seen=seen: seen.append(args[0].numel()))
        for w in (w for w in numbers["writing"] if w["kind"] == lm.kind):
            seen.clear()
            texts = lm.generate(TEXTS, prompt="\n", seed=0, temperature=1.0, **WAYS[lm.kind][w["way"]])
            assert (w["passes"], w["token_forwards"]) == (len(seen), sum(seen) // TEXTS)
            assert w["sample"] == texts[0] and w["texts"] == TEXTS
    passes = {w["way"]: (w["passes"], w["token_forwards"]) for w in numbers["writing"]}
    assert passes["left to right"] == (L - 1, L - 1)  # with its cache a GPT reads each token once
    assert passes["one by one"] == (L - 1, (L - 1) * L)
    assert passes["surest first"][0] <= 32 and passes["surest first"][1] == passes["surest first"][0] * L


def test_lines_accepted_are_whole_lines_of_the_language(twins, numbers, play, monkeypatch):
    for w in numbers["writing"]:
        assert 0 <= w["lines_accepted"] <= w["lines"]
    texts = ["tail.\nEnter Mira.\nnonsense\n\nEnter Mi", "Enter Mira."]
    monkeypatch.setattr(LanguageModel, "generate", lambda self, n, **how: texts)
    found = comparison.time_writing(load(twins[1]), "way", {}, Config(tuple(twins), texts=2), play)
    assert (found["lines"], found["lines_accepted"]) == (2, 1)  # what the window's edges cut is nobody's fault


def test_twins_that_do_not_compare_are_refused(twins, tmp_path, corpus):
    other = save(tmp_path / "other window", corpus, True, 0, seq_len=24)
    with pytest.raises(UserError, match="window"):
        compare(Config((twins[1], other), windows=2))
    again = save(tmp_path / "second", corpus, True, 0)
    with pytest.raises(UserError, match="gpt"):  # one row a kind: the second would overwrite the first
        compare(Config((twins[0], again), windows=2, texts=1))
    with pytest.raises(UserError):
        compare(Config(()))


def test_the_exact_row_is_of_the_same_characters_whatever_the_alphabet(tmp_path, corpus, play):
    """A model that knows more characters than Playlets has other ids for them; the language must not be misled."""
    wider = type(corpus.tokenizer)("~" + corpus.tokenizer.alphabet)
    wide = save(tmp_path / "wide", replace(corpus, tokenizer=wider), True, 0)
    found = compare(Config((wide,), windows=24, texts=1, data="playlets"))
    exact = play.denoiser().nll(corpus.windows(L, 24), given=1)
    assert found["exact"]["nats_per_char"] == pytest.approx(exact.mean().item())
