"""The adapter to lm-evaluation-harness: what it reports is held against an exact language."""

import json
import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from microdlm.errors import UserError
from microdlm.oracle import MarkovDenoiser
from microdlm.pretrained import LanguageModel, load
from microdlm.tokenizers import CharTokenizer
from study.harness import Harness, views


@dataclass
class Known:
    """An exact denoiser that looks like a network with a window of L."""

    language: MarkovDenoiser
    L: int = 16
    causal = False

    def __post_init__(self):
        self.cfg, self.embedding = SimpleNamespace(seq_len=self.L), torch.nn.Embedding(1, 1)

    def __call__(self, x_t):
        return self.language(x_t)


def asked(*args):
    return [SimpleNamespace(args=args)]


@pytest.fixture
def exact(chain):
    return Harness(LanguageModel(Known(chain), CharTokenizer("abcd")), samples=400)


def log_p(chain, text, given):
    x_0 = torch.tensor([["abcd".index(c) for c in text]])
    return -(len(text) - given) * chain.nll(x_0, given=given).item()


@pytest.mark.parametrize("context, continuation", [("abca", "dca"), ("", "dbca"), ("bca", "d" * 5)])
def test_a_continuation_is_worth_what_the_exact_language_says(exact, chain, context, continuation):
    """With the exact denoiser the bound in counts is the conditional probability itself, for every mask the mean."""
    ((found, _),) = exact.loglikelihood(asked(context, continuation))
    truth = log_p(chain, context + continuation, len(context))
    one = [Harness(exact.lm, samples=1, seed=s).log_p(*exact.ids(context, continuation)) for s in range(64)]
    error = torch.tensor(one).std().item() / 400**0.5
    assert abs(found - truth) < 4 * error + 1e-6


def test_a_bound_that_forgets_the_context_is_noticed(exact, chain):
    """The killed mutant: scoring the continuation alone is far outside of four standard errors."""
    pairs = [(a, b) for a in "abcd" for b in "abcd"]
    a, b = max(pairs, key=lambda ab: abs(log_p(chain, "".join(ab), 1) - log_p(chain, ab[1], 0)))
    (given, _), (alone, _) = exact.loglikelihood(asked(a, b) + asked("", b))
    assert given == pytest.approx(log_p(chain, a + b, 1)) and abs(given - alone) > 1


def test_a_gpt_is_exact_token_by_token(network):
    """One forward pass for all of it, or one for each token: the same sum."""
    gpt = LanguageModel(network(vocab_size=4, causal=True), CharTokenizer("\nabc"))
    harness, ids = Harness(gpt), gpt.tokenizer.encode("abca\nb")
    ((found, _),) = harness.loglikelihood(asked("abc", "a\nb"))
    with torch.no_grad():
        rows = [gpt.model(torch.tensor([ids[:i]]))[0, -1].log_softmax(-1)[ids[i]].item() for i in (3, 4, 5)]
    assert found == pytest.approx(sum(rows), abs=1e-4)
    ((first, _),) = harness.loglikelihood(asked("", "a"))  # from a line break
    with torch.no_grad():
        assert first == pytest.approx(gpt.model(torch.tensor([[0]]))[0, -1].log_softmax(-1)[1].item(), abs=1e-5)


@pytest.mark.parametrize("n, given, L", [(7, 1, 4), (40, 0, 16), (16, 3, 16), (50, 45, 16), (50, 20, 16), (5, 0, 16)])
def test_every_token_is_scored_once(n, given, L):
    scored, shown = [], list(views(list(range(n)), given, L))
    for view, known in shown:
        assert len(view) <= L and view == list(range(view[0], view[-1] + 1))
        assert known > 0 or view[0] == given == 0
        scored += view[known:]
    assert scored == list(range(given, n))
    assert all(known >= L // 2 for _, known in shown[1:])


def test_a_text_longer_than_the_window_is_the_sum_of_its_parts(exact, chain):
    """An order-1 chain forgets all but the letter before, so windows lose nothing: the whole text's own probability."""
    g = torch.Generator().manual_seed(3)
    text = "".join("abcd"[i] for i in chain.sample(1, 40, g)[0].tolist())
    (found,) = exact.loglikelihood_rolling(asked(text))
    assert found == pytest.approx(log_p(chain, text, 0), abs=0.8)


def test_greedy_says_what_writing_without_chance_gives(exact, chain):
    start = torch.tensor([[0] + [4] * 3])
    for i in range(1, 4):
        start[0, i] = chain(start)[0, i].argmax()
    best = "".join("abcd"[i] for i in start[0, 1:].tolist())
    other = best[:-1] + next(c for c in "abcd" if c != best[-1])
    assert [greedy for _, greedy in exact.loglikelihood(asked("a", best) + asked("a", other))] == [True, False]


def test_writing_stops_where_it_is_told_to(exact):
    whole = exact.write("ab", {"max_gen_toks": 12, "until": []})
    assert len(whole) == 12 and set(whole) <= set("abcd")
    assert exact.generate_until(asked("ab", {"max_gen_toks": 12, "until": [whole[3], "z"]})) == [
        whole[: whole.index(whole[3])]
    ]
    cold = exact.write("ab", {"max_gen_toks": 30})  # longer than the window
    warm = {"max_gen_toks": 30, "temperature": 1.0}
    assert len(cold) == 30 and cold != exact.write("ab", warm)
    assert cold == exact.write("ab", warm | {"do_sample": False})


def test_spaces_before_an_answer_belong_to_it(chain):
    lm = LanguageModel(Known(chain), CharTokenizer("ab :"))
    assert Harness(lm).ids("a: ", "b") == Harness(lm).ids("a:", " b") == (lm.tokenizer.encode("a: b"), 2)


def test_a_character_that_the_model_does_not_know_is_one_clear_line(exact):
    with pytest.raises(UserError, match="'ë'") as refused:
        exact.loglikelihood(asked("ab", "ë"))
    assert "\n" not in str(refused.value)


# ---- the real harness, where it is installed ----

TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{before}}"
doc_to_choice: "{{answers}}"
doc_to_target: "{{right}}"
metric_list: [{metric: acc}]
"""


def test_the_harness_itself_runs_a_local_task(tmp_path, monkeypatch):
    """Held-out lines of Shakespeare against the same letters in another order: the shipped model tells them apart."""
    lm_eval = pytest.importorskip("lm_eval", reason="pip install -e '.[harness]' runs this one")
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    lines = ["the king of England", "my noble lord", "to be a good man", "what say you, sir"]
    rows = [{"before": "KING:\n", "answers": [line, line[::-1]], "right": 0} for line in lines]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(TASK % (tmp_path / "test.jsonl"), encoding="utf-8")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    model = Harness(load("shakespeare-diffusion"), samples=16)
    found = lm_eval.simple_evaluate(model=model, tasks=["tiny"], task_manager=tasks, bootstrap_iters=0)
    assert found["results"]["tiny"]["acc,none"] == 1.0
    assert math.isfinite(found["samples"]["tiny"][0]["filtered_resps"][0][0])
