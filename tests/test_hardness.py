"""Which tokens are hard: a model that knows what the counts know says the same, and runs say whom they asked."""

import json
from types import SimpleNamespace

import pytest
import torch
from small_study import tiny_preset

from microdlm import playlets
from microdlm.errors import UserError
from steps.step7_schedule_study import rates_by_type
from study import grid, hardness, judges, runner
from study.hardness import FILE, Entropy, by_pairs, rates, readiness, uncertainty


def table_of(ids: torch.Tensor, V: int, window: int, tok=None) -> SimpleNamespace:
    """A judge that foretells the next token from the one before as often as it followed in `ids`, and knows a token
    more, that it never says."""
    seen = torch.zeros(V, V + 1, dtype=torch.float64)
    seen.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1).double(), accumulate=True)
    log_p = (seen / seen.sum(1, keepdim=True).clamp(min=1)).log()
    return SimpleNamespace(name="a table", logits=lambda x: log_p[x], window=window, encode=tok and tok.encode)


def test_a_model_that_knows_the_counts_finds_hard_what_the_counts_find_hard(chain):
    """Three ways: pairs counted, a table of all of them (step 7), and a model's entropy read off at each place."""
    ids = chain.sample(1, 3001, torch.Generator().manual_seed(0))[0]
    by_model = rates(*uncertainty(table_of(ids, 4, len(ids)), ids, 4))
    torch.testing.assert_close(by_model, by_pairs(ids, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(by_pairs(ids, 4), rates_by_type(ids, 4))
    assert by_model.max() - by_model.min() > 0.05  # or the test says nothing


def test_each_place_of_a_window_but_its_first_is_read_once(chain):
    ids = chain.sample(1, 1000, torch.Generator().manual_seed(0))[0]
    seen, nats = uncertainty(table_of(ids, 4, 32), ids, 4, batch=5)
    expected = torch.bincount(ids[: 1000 // 32 * 32].view(-1, 32)[:, 1:].flatten(), minlength=4)
    assert seen.tolist() == expected.tolist()
    again = uncertainty(table_of(ids, 4, 32), ids, 4, batch=31)
    torch.testing.assert_close(again[1], nats)


def test_all_tokens_together_are_as_hard_as_one_and_so_is_what_never_came():
    seen, nats = torch.tensor([10.0, 30.0, 0.0, 5.0, 5.0]).double(), torch.tensor([12.0, 27.0, 0.0, 0.0, 11.0]).double()
    c = rates(seen, nats)
    assert (seen[:2] @ (2 - c[:2]) + 11).item() == pytest.approx(50) and c[2] == 1  # the mean over tokens is 1
    assert c[3] == 1.5 and c[4] == 0.5  # never in doubt, and hopeless
    ids = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    for count in (by_pairs, rates_by_type):
        assert count(ids, 3)[2] == 1 and torch.equal(count(torch.tensor([0, 1] * 9), 2), torch.ones(2).double())


@pytest.fixture
def asked(play, monkeypatch, tmp_path):
    """A preset of seconds, and a judge of its text that runs can ask: (job, folder of the runs, command)."""
    monkeypatch.setitem(grid.PRESETS, "nano", tiny_preset(evals=2))
    monkeypatch.setattr(playlets, "Playlets", lambda: play)
    runner.text.cache_clear()
    corpus = runner.text("nano")[0]
    judge = table_of(corpus.train, len(corpus.tokenizer), 16, corpus.tokenizer)
    judge.logits = lambda x, was=judge.logits: was(x) / 2  # less sure than the counts, so that it says something else
    monkeypatch.setattr(judges, "pick", lambda *_: judge)
    yield next(j for j in grid.jobs("nano") if j.arm.masking == "entropy"), tmp_path, Entropy(out=tmp_path)
    runner.text.cache_clear()


def test_runs_mask_by_what_was_measured_and_say_so(asked, tmp_path):
    job, out, command = asked
    list(runner.work(job, out / "before"))
    command.run()
    list(runner.work(job, out))
    before, after = (json.loads((job.folder(f) / "config.json").read_text()) for f in (out / "before", out))
    assert before["hardness"] == {"by": "pairs"} and after["hardness"]["by"] == "a table"
    first, second = ((job.folder(f) / "metrics.jsonl").read_text().splitlines()[0] for f in (out / "before", out))
    assert json.loads(first)["loss"] != json.loads(second)["loss"]
    (out / "nano" / FILE).unlink()
    (job.folder(out) / "done.json").unlink()
    with pytest.raises(UserError, match="hardness"):  # never half by one, half by the other
        list(runner.work(job, out))


@pytest.mark.parametrize("spoil", ["corpus", "seen", "judge", "short", "torn"])
def test_a_file_that_does_not_fit_is_refused_in_one_line(asked, spoil):
    job, out, command = asked
    command.run()
    path, corpus = out / "nano" / FILE, runner.text("nano")[0]
    c, by = readiness(path.parent, corpus)
    assert by["by"] == "a table" and len(c) == len(corpus.tokenizer) == len(readiness(out / "none", corpus)[0])
    found = json.loads(path.read_text())
    found |= {"corpus": {"corpus": "0"}, "short": {"seen": [1], "nats": [1.0]}}.get(spoil, {})
    if spoil in ("seen", "judge"):
        del found[spoil]
    path.write_text(json.dumps(found)[: 50 if spoil == "torn" else None])
    with pytest.raises(UserError) as refused:
        readiness(path.parent, corpus)
    assert "\n" not in str(refused.value) and FILE in str(refused.value)


def test_a_judge_of_another_vocabulary_is_refused(asked, monkeypatch):
    corpus = runner.text("nano")[0]
    for encode in (lambda text: [0] * len(text), lambda text: corpus.tokenizer.encode(text)[:-1]):
        with pytest.raises(UserError, match="another vocabulary"):
            hardness.same_vocabulary(SimpleNamespace(name="x", encode=encode), corpus)
    hardness.same_vocabulary(SimpleNamespace(name="x", encode=lambda t: [7, *corpus.tokenizer.encode(t)]), corpus)
    with pytest.raises(UserError, match="another vocabulary"):  # the language itself has no logits
        hardness.same_vocabulary(judges.Language(), corpus)
