"""What the study says beside the bound: whose weights write, what a judge finds, and that nothing is said alone."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_study import tiny_preset

from microdlm import playlets
from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.likelihood import estimate_nelbo
from microdlm.pretrained import load
from microdlm.runs import ROOT, read_json, read_tensors, write_tensors
from microdlm.tokenizers import CharTokenizer
from study import evaluate, grid, judges, report, runner, written
from study.grid import jobs
from study.judges import SLIP, Evaluate, Language, misheard_nll, our_gpt, pick

TINY = tiny_preset(evals=4)
ARMS = ("linear-uniform", "loglinear-uniform", "sqrt-uniform")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, play):
    """Six runs of seconds under the name of the smallest preset, and the command that asks them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(grid.PRESETS, "nano", TINY)
        patch.setattr(playlets, "Playlets", lambda: play)
        patch.setattr(judges, "Playlets", lambda: play)
        runner.text.cache_clear()
        folder = tmp_path_factory.mktemp("study")
        todo = [job for job in jobs("nano", seeds=(0, 1)) if job.arm.name in ARMS]
        for job in todo:
            list(runner.work(job, folder / "runs"))
        yield todo, Evaluate(seeds=(0, 1), out=folder / "runs", results=folder, texts=6, batch=4, num_steps=4)
        runner.text.cache_clear()


# ---- whose weights ----


def test_the_weights_that_write_are_the_weights_that_were_scored(finished, tmp_path):
    """The score of the run, once as it was kept, once from the weights on disk: window by window the same. The file of
    the best weights, which may be others, is spoilt first."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0][0].folder(finished[1].out), folder)
    best = read_tensors(folder / "model.safetensors")
    write_tensors(folder / "model.safetensors", {name: torch.zeros_like(w) for name, w in best.items()})
    corpus, done = runner.text("nano")[0], read_json(folder / "done.json")
    lm = evaluate.last_weights(folder)
    again = estimate_nelbo(lm.model, corpus.windows(16, 24), lm.mask_id, 2, runner.masks())
    assert again.per_sequence.tolist() == pytest.approx(done["per_window"], abs=2e-6)


def test_a_checkpoint_of_another_step_is_refused(finished, tmp_path):
    job, out = finished[0][0], finished[1].out
    for file in job.folder(out).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "done.json").write_text('{"steps": 13}')
    with pytest.raises(UserError, match="step 12"):
        evaluate.last_weights(tmp_path)


# ---- the language as judge ----


def test_what_is_misheard_has_the_probability_of_all_that_could_have_been_said(chain):
    """By hand, over all 4^4 texts and what each letter of them could have become; and it sums to one."""
    every = torch.tensor(list(product(range(4), repeat=4)))
    p = (-4 * chain.nll(every)).exp()
    same = (every[:, None] == every[None]).double()  # (heard, said, letter)
    heard = (same * (1 - SLIP) + SLIP / 4).prod(-1) @ p
    found = (-4 * misheard_nll(chain, every)).exp()
    assert torch.allclose(found, heard, rtol=1e-10) and found.sum().item() == pytest.approx(1)
    assert torch.allclose(misheard_nll(chain, every, slip=0.0), chain.nll(every))


def test_the_language_hears_sound_text_as_it_is_and_nonsense_at_a_price(play, monkeypatch):
    monkeypatch.setattr(judges, "Playlets", lambda: play)
    judge, text = Language(), play.text(2000, seed=5)
    sound = [text[i : i + 100] for i in range(0, 2000, 100)]
    nonsense = [row[::-1] for row in sound]
    nats, n = judge.nats(sound).T
    exact = np.array([100 * play.nll(row) for row in sound])
    most = exact - 100 * np.log(1 - SLIP + SLIP / len(play.alphabet))  # heard without a slip, and no other way
    assert (n == 100).all() and (nats <= most + 1e-4).all() and (nats > exact - 5).all()
    assert np.isfinite(judge.nats(nonsense)).all() and (judge.nats(nonsense)[:, 0] > 3 * nats).all()
    assert np.isinf(play.nll(nonsense[0]))
    accepted, lines = judge.beside([text, text[::-1]])["lines_accepted"].T
    assert accepted[0] == lines[0] > 20 and accepted[1] < lines[1] / 2


# ---- a network as judge ----


def test_our_judge_reads_what_the_model_itself_scores():
    """The same numbers as LanguageModel.score, which is tested against the exact language elsewhere."""
    judge, lm = our_gpt("shakespeare-judge"), load("shakespeare-judge")
    for text in ("ROMEO:\nBut soft", "the the the the the"):
        ((nats, n),) = judge.nats([text])
        assert n == len(text) - 1 and nats / n == pytest.approx(lm.score(text).mean, abs=1e-5)
    features = judge.features(["To be, or not", "To be"])
    assert features.shape == (2, lm.model.cfg.d_model) and not np.allclose(*features)


def test_nats_never_stand_alone():
    """A judge likes what it would say without any chance. The entropy gives that away, within a text and over all."""
    lm, judge = load("shakespeare-judge"), our_gpt("shakespeare-judge")
    dull, fair = (torch.cat(list(lm.write(lm.canvas("ROMEO:\n", 200, n=4), temperature=t))[-1:]) for t in (0, 1))
    a, b = (evaluate.read(x, lm.tokenizer, judge) for x in (dull, fair))
    for name in ("judge", "entropy", "text_entropy"):
        assert a[name]["value"] < b[name]["value"] - 0.1, name
    assert evaluate.read(torch.zeros_like(dull), lm.tokenizer, judge)["entropy"]["value"] == 0


@pytest.fixture
def strange(tmp_path):
    """A tiny GPT-2 with random weights and a vocabulary of words, saved as `transformers` does."""
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[study]' runs this one")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {w: i for i, w in enumerate(["<s>", "<unk>", "to", "be", "or", "not"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>").save_pretrained(tmp_path)
    torch.manual_seed(0)
    cfg = transformers.GPT2Config(vocab_size=6, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0)
    transformers.GPT2LMHeadModel(cfg).save_pretrained(tmp_path)
    return tmp_path


def test_a_model_of_transformers_judges_as_it_scores_itself(strange):
    """Its own loss, which it computes from labels, is our nats per token."""
    from transformers import GPT2LMHeadModel

    judge, model = pick(str(strange), "playlets"), GPT2LMHeadModel.from_pretrained(strange).eval()
    ids = torch.tensor([[0, 2, 3, 4, 5, 2, 3]])
    ((nats, n),) = judge.nats(["to be or not to be"])
    assert n == 6 and nats / n == pytest.approx(model(ids, labels=ids).loss.item(), abs=1e-5)
    assert judge.features(["to be", "or not"]).shape == (2, 16)


@pytest.mark.parametrize(
    "name, corpus, said",
    [
        ("shakespeare-diffusion", "playlets", "cannot judge"),
        ("exact", "shakespeare", "not a language"),
        ("nowhere/at-all", "playlets", "nowhere/at-all"),
    ],
)
def test_who_cannot_judge_is_told_in_one_line(name, corpus, said, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=said) as refused:
        pick(name, corpus)
    assert "\n" not in str(refused.value)


# ---- other text, and MAUVE ----


def test_windows_of_another_text_are_disjoint_and_spread(tmp_path):
    path, tok = tmp_path / "wiki.test.raw", CharTokenizer("abc")
    path.write_text("abc" * 100, encoding="utf-8")
    ask = Evaluate(wikitext=str(path), windows=3)
    x = evaluate.wikitext(ask, tok, 10)
    assert x.tolist() == [tok.encode(("abc" * 100)[i : i + 10]) for i in (0, 100, 200)]
    assert evaluate.wikitext(Evaluate(), tok, 10) is None
    for bad, what in ((replace(ask, wikitext=str(tmp_path / "no")), "read"), (ask, "needs 301")):
        with pytest.raises(UserError, match=what):
            evaluate.wikitext(bad, tok, 301)


def test_another_text_is_scored_as_the_common_score_is(finished, play, tmp_path):
    """The same estimator and masks; on text of the same language, the same size of number."""
    (path := tmp_path / "other.txt").write_text(play.text(16 * 24, seed=9), encoding="utf-8")
    found = read_json(evaluate.evaluate(replace(finished[1], wikitext=str(path), results=tmp_path)))
    job, tok = finished[0][0], runner.text("nano")[0].tokenizer
    lm = evaluate.last_weights(job.folder(finished[1].out))
    x_0 = torch.tensor(tok.encode(path.read_text(encoding="utf-8"))).view(24, 16)
    by_hand = estimate_nelbo(lm.model, x_0, lm.mask_id, TINY.samples, runner.masks())
    run = found["runs"][0]
    assert run["wikitext"] == {"value": by_hand.mean, "stderr": by_hand.stderr} and found["wikitext"] == "other.txt"
    assert abs(run["wikitext"]["value"] - run["nelbo"]) < 6 * by_hand.stderr


def test_mauve_is_that_of_mauve_text():
    """The same distribution is near 1, a shifted one far from it."""
    pytest.importorskip("mauve", reason="pip install mauve-text runs this one")
    g = np.random.default_rng(0)
    a, b = g.normal(size=(200, 8)), g.normal(size=(200, 8))
    assert evaluate.mauve(a, b)["value"] > 0.8 > 0.3 > evaluate.mauve(a, b + 3)["value"]


def test_mauve_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match="pip install"):
        evaluate.mauve(np.zeros((2, 2)), np.zeros((2, 2)))


def test_mauve_is_asked_of_what_was_written_and_of_held_out_text(finished, tmp_path, monkeypatch, play):
    """With a small featurizer, how many e and line breaks: what is handed over, and that the page shows it."""
    handed = []

    def compute_mauve(p_features, q_features, seed, verbose):
        handed.append((p_features, q_features, seed))
        return SimpleNamespace(mauve=0.5 + seed / 100)

    monkeypatch.setitem(sys.modules, "mauve", SimpleNamespace(compute_mauve=compute_mauve))
    monkeypatch.setattr(
        Language, "features", lambda self, texts: np.array([[t.count("e"), t.count("\n")] for t in texts])
    )
    found = read_json(evaluate.evaluate(replace(finished[1], mauve=True, results=tmp_path)))
    rows = [runner.text("nano")[0].tokenizer.decode(row) for row in runner.text("nano")[0].windows(16, 6)]
    assert all(np.array_equal(q, [[t.count("e"), t.count("\n")] for t in rows]) for _, q, _ in handed)
    assert [seed for *_, seed in handed] == [0, 1, 2] * 6 and len({p.tobytes() for p, *_ in handed}) > 1
    assert found["arms"][0]["mauve"]["value"] == pytest.approx(0.51) and found["runs"][0]["mauve"]["sd"] > 0
    assert "| MAUVE |" in "\n".join(written.samples(found))


# ---- the command ----


def test_a_run_is_asked_once_and_then_remembered(finished, monkeypatch):
    """Stopped, it goes on; asked otherwise, it answers anew; and the same question has the same answer."""
    todo, ask = finished
    first = read_json(evaluate.evaluate(ask))
    monkeypatch.setattr(evaluate, "measure", lambda *args: pytest.fail("it is asked again"))
    assert read_json(evaluate.evaluate(ask))["runs"] == first["runs"]
    monkeypatch.undo()
    cold = read_json(evaluate.evaluate(replace(ask, temperature=0.1)))
    assert all(
        c["text_entropy"]["value"] < f["text_entropy"]["value"]
        for c, f in zip(cold["runs"], first["runs"], strict=True)
    )
    assert read_json(evaluate.evaluate(ask))["runs"] == first["runs"]
    assert len(first["runs"]) == len(todo) == 6 and len(first["lost"]) == 18


def test_an_arm_is_the_mean_of_its_seeds_and_the_page_says_so(finished):
    ask = finished[1]
    found = read_json(evaluate.evaluate(ask))
    assert [(a["schedule"], len(a["judge"]["seeds"])) for a in found["arms"]] == [
        (name, 2) for name in ("linear", "loglinear", "sqrt")
    ]
    arm = found["arms"][0]["judge"]
    a, b = arm["seeds"]
    assert arm["value"] == pytest.approx((a + b) / 2) and arm["stderr"] == pytest.approx(abs(a - b) / 2)
    page = "\n".join(written.samples(found))
    assert f"{arm['value']:.3f} ± {arm['stderr']:.3f}" in page and "held-out text" in page
    assert "entropy" in page.splitlines()[4]
    equal = max(abs(x - y) for x, y in zip(*(r["judge"]["seeds"] for r in found["arms"][:2]), strict=True))
    assert f"up to {equal:.2f} between linear and loglinear" in page and "| lines valid |" in page
    assert json.dumps(found) and found["made_by"]["commit"] and found["seed"] == 0


def test_a_page_without_samples_is_as_it_was(finished, tmp_path):
    """What `evaluate` found is read from the folder of the page, and from nowhere else."""
    from study.analyse import analysis

    found = analysis("nano", "exact", (0, 1), finished[1].out)
    assert "What they write" not in report.write(found, tmp_path).read_text(encoding="utf-8")
    evaluate.evaluate(replace(finished[1], results=tmp_path))
    page = report.write(found, tmp_path).read_text(encoding="utf-8")
    assert page.index("In words") < page.index("What they write") < page.index("For reference")


def test_held_out_text_is_read_by_the_same_judge(finished, play):
    found = read_json(evaluate.evaluate(finished[1]))
    corpus = load_corpus("playlets", n_chars=20_000)
    rows = [corpus.tokenizer.decode(row) for row in corpus.windows(16, 6)]
    exact = sum(16 * play.nll(row) for row in rows) / (16 * 6)
    assert found["real_text"]["judge"]["value"] == pytest.approx(exact, abs=0.02)
    assert found["real_text"]["judge"]["value"] < min(a["judge"]["value"] for a in found["arms"])


def test_what_cannot_be_asked_is_one_line_and_exit_code_2(tmp_path):
    argv = ["--results", str(tmp_path), "--out", str(tmp_path / "nowhere")]
    command = [sys.executable, "-m", "study", "evaluate", *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "has no finished run" in done.stderr
    assert done.stderr.startswith("study: ")  # and not __main__.py
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong, said", [({"sampler": "ancestrall"}, "did you mean ancestral"), ({"texts": 999}, "at most")]
)
def test_a_wrong_option_is_one_clear_line(finished, wrong, said):
    with pytest.raises(UserError, match=said) as refused:
        evaluate.evaluate(replace(finished[1], **wrong))
    assert "\n" not in str(refused.value)
