"""A trained model in two lines: what was given is kept, what was saved comes back, what is scored is the truth."""

import functools
import itertools
import json
import math
from dataclasses import asdict
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file, save_file

import microdlm
from microdlm.canvas import slide
from microdlm.cost import CountForwards
from microdlm.errors import UserError
from microdlm.hub import WEIGHTS
from microdlm.likelihood import Estimate, estimate_nelbo
from microdlm.pretrained import LanguageModel, load
from microdlm.runs import write_json, write_tensors
from microdlm.samplers import SAMPLERS
from microdlm.schedules import SCHEDULES
from microdlm.tokenizers import END, BPETokenizer, CharTokenizer
from microdlm.transformer import Transformer, TransformerConfig

LETTERS = CharTokenizer("\n abcdefgh")
KINDS = ("gpt", "diffusion")


def network(kind: str, V: int = len(LETTERS), L: int = 16) -> Transformer:
    """Far from uniform, without training."""
    cfg = TransformerConfig(V + (kind == "diffusion"), L, n_layer=1, n_head=2, d_model=16, causal=kind == "gpt")
    model, rng = Transformer(cfg), torch.Generator().manual_seed(7)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4, generator=rng)
    return model.eval()


def save(folder: Path, model: Transformer, tokenizer=LETTERS) -> Path:
    folder.mkdir()
    write_json(folder / "config.json", {"model": asdict(model.cfg), "tokenizer": tokenizer.to_json()})
    write_tensors(folder / "model.safetensors", dict(model.named_parameters()))
    return folder


@pytest.fixture(params=KINDS)
def lm(request) -> LanguageModel:
    return LanguageModel(network(request.param), LETTERS)


# Saved and loaded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_text", [str, Path])
def test_a_folder_comes_back_as_the_model_it_was(tmp_path, kind, as_text):
    model = network(kind)
    back = microdlm.load(as_text(save(tmp_path / "a run", model)))
    assert isinstance(back, LanguageModel) and back.kind == kind and not back.model.training
    x = torch.arange(16)[None] % 10
    assert torch.equal(back.model(x), model(x))
    assert back.tokenizer == LETTERS and back.mask_id == 10 and back.config["model"] == asdict(model.cfg)


def test_weights_in_bfloat16_are_the_same_numbers_rounded(tmp_path):
    model = network("diffusion")
    folder = save(tmp_path / "run", model)
    weights = load_file(folder / "model.safetensors")
    save_file({name: w.bfloat16() for name, w in weights.items()}, folder / "model.safetensors")
    back = load(folder)
    for name, p in back.model.named_parameters():
        assert p.dtype == torch.float32 and torch.equal(p, weights[name].bfloat16().float())
    assert len(back.generate(n=1)[0]) == 16


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_it_says_nearly_the_same_and_writes_whole_texts(tmp_path, kind):
    """Eight bits of a number are kept: logits are off by a hundredth of what they differ by."""
    folder, x = save(tmp_path / "run", network(kind)), torch.arange(16)[None] % 10
    exact, low = load(folder), load(folder, precision="bfloat16")
    assert {p.dtype for p in exact.model.parameters()} == {torch.float32}
    assert {p.dtype for p in low.model.parameters()} == {torch.bfloat16}
    said, meant = low.model(x), exact.model(x)
    assert said.dtype == torch.bfloat16 and not torch.equal(said.float(), meant)
    assert (said - meant).abs().max() < 0.05 * meant.std()
    for text in low.generate(n=3, prompt="cab"):
        assert text.startswith("cab") and len(text) == 16 and "·" not in text


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_bfloat16_where_that_is_fast(tmp_path, monkeypatch, fast):
    monkeypatch.setattr("microdlm.training.has_bfloat16", lambda device: fast)
    folder = save(tmp_path / "run", network("gpt"))
    for precision, is_low in (("auto", fast), ("float32", False), ("bfloat16", True)):
        dtype = load(folder, precision=precision).model.head.weight.dtype
        assert dtype == (torch.bfloat16 if is_low else torch.float32)


@pytest.mark.parametrize("precision", ["bf16", "float16", "float64", ""])
def test_a_precision_nobody_knows_is_one_clear_line(tmp_path, precision):
    folder = save(tmp_path / "run", network("gpt"))
    with pytest.raises(UserError, match=f"precision is {precision}: it must be auto, float32 or bfloat16") as refused:
        microdlm.load(folder, precision=precision)
    assert "\n" not in str(refused.value)


def test_compiled_it_writes_the_same_greedy_texts(tmp_path, monkeypatch):
    """All of torch.compile but its last part, which turns the graph into C++: that would take half a minute."""
    quick = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", quick)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its checks cannot be compiled
    folder, counted = save(tmp_path / "run", network("diffusion")), torch._dynamo.utils.counters["stats"]
    counted.clear()
    how = dict(n=2, prompt="cab", temperature=0.0)
    texts = load(folder).generate(**how)
    assert not counted
    assert load(folder, compile=True).generate(**how) == texts
    assert counted["unique_graphs"] > 0


def test_loading_leaves_chance_alone(tmp_path):
    folder, before = save(tmp_path / "run", network("gpt")), torch.get_rng_state()
    load(folder).generate(n=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_name_nobody_knows_gets_the_nearest(monkeypatch, tmp_path):
    monkeypatch.setattr("microdlm.hub.WEIGHTS", tmp_path)
    for name in ("shakespeare-gpt", "shakespeare-diffusion"):
        save(tmp_path / name, network(name.split("-")[1]))
    assert load("shakespeare-gpt").kind == "gpt"
    with pytest.raises(UserError, match="did you mean shakespeare-diffusion") as refused:
        load("shakespear-difusion")
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match="shakespeare-gpt"):
        load(tmp_path / "no such folder")


# Writing


def test_a_text_has_its_prompt_its_length_and_no_mask(lm):
    for prompt, length in (("\n", None), ("abc", 9), ("abcdefgh", 8), ("a", 2)):
        texts = lm.generate(n=3, length=length, prompt=prompt)
        assert len(texts) == 3
        assert all(text.startswith(prompt) and len(text) == (length or 16) and "·" not in text for text in texts)


def test_the_seed_decides_and_nothing_else_does(lm):
    once = lm.generate(n=4, seed=5)
    torch.manual_seed(123)
    assert lm.generate(n=4, seed=5) == once
    assert lm.generate(n=4, seed=6) != once
    assert len(set(once)) > 1  # the four are not one


def test_temperature_zero_leaves_nothing_to_chance(lm):
    texts = {text for seed in range(3) for text in lm.generate(n=3, temperature=0.0, seed=seed)}
    assert len(texts) == 1
    assert len({text for seed in range(3) for text in lm.generate(n=3, temperature=1.0, seed=seed)}) > 1
    assert lm.generate(n=2, top_k=1, seed=1)[0] in texts  # the one most probable token, said another way


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_diffusion_takes_every_sampler_by_name(sampler):
    texts = LanguageModel(network("diffusion"), LETTERS).generate(n=2, sampler=sampler, prompt="cab")
    assert all(text.startswith("cab") and len(text) == 16 and "·" not in text for text in texts)


def test_a_gpt_goes_left_to_right_or_says_so():
    gpt = LanguageModel(network("gpt"), LETTERS)
    assert gpt.generate(n=1, seed=2) == gpt.generate(n=1, seed=2, sampler="left_to_right", num_steps=3)
    with pytest.raises(UserError, match="left_to_right"):
        gpt.generate(sampler="confidence")
    with pytest.raises(UserError, match="did you mean"):
        gpt.generate(sampler="left_to_rigth")


def test_a_gpt_writes_what_it_believes():
    """The first letter of many texts, against the probabilities of one forward pass (chi squared, 9 degrees)."""
    gpt = LanguageModel(network("gpt"), LETTERS)
    p = gpt.model(torch.tensor([LETTERS.encode("ab")]))[0, -1].double().softmax(-1)
    texts = gpt.generate(n=4000, length=3, prompt="ab", temperature=1.0)
    seen = torch.bincount(torch.tensor([LETTERS.encode(text[2])[0] for text in texts]), minlength=10)
    assert ((seen - 4000 * p) ** 2 / (4000 * p)).sum() < 27.9  # exceeded once in a thousand


@pytest.mark.parametrize(
    "how",
    [{"sampler": "block", "inside": "ancestrall"}, {"pace": "cosin"}, {"order": "margins"}]
    + [{"sampler": "ancestral", "schedule": "linnear"}, {"sampler": "refine", "again": "randon"}]
    + [{"sampler": "remask", "eta": 2}, {"sampler": "block", "block_length": 0}, {"sampler": "refine", "share": -1.0}],
    ids=str,
)
def test_a_sampler_that_does_not_know_an_option_says_so(how):
    with pytest.raises(UserError, match="did you mean|it must be"):
        LanguageModel(network("diffusion"), LETTERS).generate(n=1, **how)


# The end of a text

DOCUMENTS = BPETokenizer.train("a cab had a bad cafe" * 20, 264)


@pytest.fixture(params=KINDS)
def writer(request) -> LanguageModel:
    """Over byte pairs, where a text ends about every tenth token."""
    net = network(request.param, V=len(DOCUMENTS), L=32)
    longing = torch.zeros(net.cfg.vocab_size).index_fill(0, torch.tensor([DOCUMENTS.end_id]), 16.0)
    net.head.register_forward_hook(lambda module, args, logits: logits / 4 + longing / 4)
    return LanguageModel(net, DOCUMENTS)


@pytest.mark.parametrize("prompt", ["a", END, f"a{END}cab"])
def test_a_text_ends_where_it_says(writer, prompt):
    """What follows the first END that was written is dropped; an END in the prompt ends nothing; and it is the same
    text as the whole one up to there."""
    how = dict(n=40, prompt=prompt, seed=3)
    for text, whole in zip(writer.generate(**how), writer.generate(**how, whole=True), strict=True):
        assert text.startswith(prompt) and END not in text[len(prompt) :]
        assert text == prompt + whole[len(prompt) :].split(END)[0]
    assert any(END in whole[len(prompt) :] for whole in writer.generate(**how, whole=True))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_drops_what_follows_the_end(sampler):
    net = network("diffusion", V=len(DOCUMENTS), L=32)
    net.head.register_forward_hook(lambda module, args, logits: logits.index_fill(1, torch.tensor([264 - 1]), 60.0))
    assert LanguageModel(net, DOCUMENTS).generate(n=2, prompt="cab", sampler=sampler) == ["cab", "cab"]


def test_left_to_right_is_not_asked_for_what_is_dropped(writer):
    """All texts over, no more passes. A blank that is filled in goes on: what was given stands behind it."""
    counted = CountForwards(writer.model)
    lm = LanguageModel(counted, DOCUMENTS)
    *_, x = writer.write(lm.canvas("a", n=3), "left_to_right", seed=3)
    until = ((x[:, 1:] == DOCUMENTS.end_id).cumsum(1) == 0).sum(1)  # so many tokens stand before the first END
    counted.passes = 0
    texts = lm.generate(n=3, prompt="a", sampler="left_to_right", seed=3)
    assert counted.passes == until.max() + 1 < 31
    whole = lm.generate(n=3, prompt="a", sampler="left_to_right", seed=3, whole=True)
    assert [w.split(END)[0] for w in whole] == texts
    for text in lm.infill("a{20}cab", n=5, sampler="left_to_right"):
        assert text.endswith("cab")


# Longer than the window


@pytest.mark.parametrize("length", [17, 24, 25, 100])
def test_a_text_longer_than_the_window_is_written_to_its_end(lm, length):
    """Never silently cut; the model never sees more than its window; what has been written stays."""
    x = lm.canvas("abc", length)
    before = x
    for start, after in lm.write_windows(x, num_steps=4):
        changed = (after != before)[0].nonzero().squeeze(1)
        assert (before[0, changed] == lm.mask_id).all()
        assert len(changed) == 0 or start <= changed.min() and changed.max() < start + 16 <= length
        before = after
    assert after.shape == x.shape and (after[0, :3] == x[0, :3]).all() and not (after == lm.mask_id).any()
    assert len(lm.generate(n=1, length=length, prompt="abc")[0]) == length


def test_what_fits_is_written_as_if_there_were_no_windows(lm):
    x, rng = lm.canvas("abc", 16, n=2), torch.Generator().manual_seed(5)
    way = SAMPLERS["left_to_right" if lm.kind == "gpt" else "confidence"]
    *_, plain = way(lm.model, x, lm.mask_id, rng=rng)
    *_, written = lm.write(x, seed=5)
    assert torch.equal(written, plain)


def test_a_long_gap_between_two_ends_is_filled(lm):
    text = lm.infill("ab{40}cd_ef", num_steps=3)[0]
    assert len(text) == 47 and text.startswith("ab") and text[42:44] == "cd" and text.endswith("ef") and "·" not in text


def test_later_windows_get_their_share_of_the_steps():
    """16 MASKs in 8 steps, then 8 at a time in 4 each: the pace is the same throughout."""
    asked = []

    def fill(x, mask_id, num_steps):
        asked.append((int((x == mask_id).sum()), num_steps))
        yield torch.where(x == mask_id, 0, x)

    *_, (start, last) = slide(fill, torch.full((1, 40), 9), 9, window=16, num_steps=8)
    assert asked == [(16, 8), (8, 4), (8, 4), (8, 4)] and start == 24 and (last == 0).all()


def test_a_text_that_is_over_is_not_continued():
    """END in the first window: the row's other MASKs become END without a pass."""
    calls = []

    def fill(x, mask_id):
        calls.append(x)
        yield torch.where(x == mask_id, torch.tensor([[7], [0]])[: len(x)].expand_as(x), x)

    *_, (_, last) = slide(fill, torch.full((2, 20), 9), 9, window=8, end_id=7)
    assert (last[0] == 7).all() and (last[1] == 0).all() and len(calls) == 4
    *_, (_, alone) = slide(fill, torch.full((1, 20), 9), 9, window=8, end_id=7)
    assert (alone == 7).all()


# Filling in


@pytest.mark.parametrize("form", ["ab____cd", "ab{4}cd", "ab_{3}cd", "ab{2}__cd"])
def test_infill_keeps_all_that_was_given(lm, form):
    for text in lm.infill(form, n=3):
        assert len(text) == 8 and (text[:2], text[6:]) == ("ab", "cd") and "_" not in text and "·" not in text
    assert lm.infill(form, seed=1) == lm.infill("ab____cd", seed=1)  # four blanks, however they are written


def test_infill_of_several_blanks(lm):
    text = lm.infill("a_b{7}c_")[0]
    assert len(text) == 12 and (text[0], text[2], text[10]) == ("a", "b", "c")
    assert lm.infill("abc") == ["abc"]
    assert lm.infill("ab{0}c") == ["abc"]


def test_infill_that_cannot_be_is_one_clear_line(lm):
    for text in ("a{100000}", "a{999999999999}", "aZ_"):
        with pytest.raises(UserError) as refused:
            lm.infill(text)
        assert "\n" not in str(refused.value)
    if lm.kind == "gpt":
        with pytest.raises(UserError, match="beginning"):
            lm.infill("_ab")
    else:
        assert lm.infill("_ab")[0].endswith("ab")


# On the way, and again


def test_a_trajectory_begins_with_the_blanks_and_ends_with_the_text(lm):
    """Given tokens stay in every state, MASKs only become fewer, and it is the very text that infill gives."""
    states = lm.trajectory("ab{9}c_d", num_steps=5, seed=4)
    assert states[0] == "ab" + "·" * 9 + "c·d" and states[-1] == lm.infill("ab{9}c_d", num_steps=5, seed=4)[0]
    assert len(states) == 1 + (10 if lm.kind == "gpt" else 5)
    for before, after in itertools.pairwise(states):
        assert before.count("·") > after.count("·")
        assert all(a == b for a, b in zip(before, after, strict=True) if a != "·")


def test_a_trajectory_of_a_sampler_that_revises_shows_what_is_taken_back():
    lm = LanguageModel(network("diffusion"), LETTERS)
    states = lm.trajectory("ab{14}", sampler="remask", num_steps=32, eta=1.0)
    pairs = itertools.pairwise(states)
    assert any(a != "·" and a != b for pair in pairs for a, b in zip(*pair, strict=True))
    assert all(state.startswith("ab") for state in states)


def test_refine_keeps_the_prompt_and_makes_as_many_rounds_as_it_is_asked_for():
    """A finished text of 12 tokens, 3 given; a share of 0.1 of the others is one, and every round is one pass."""
    counted = CountForwards(network("diffusion"))
    lm = LanguageModel(counted, LETTERS)
    text = "abcabcabcabc"
    for rounds in (1, 5, 20):
        counted.passes = 0
        again = lm.refine(text, prompt="abc", num_steps=rounds, seed=1)[0]
        changed = sum(a != b for a, b in zip(text, again, strict=True))
        assert counted.passes == rounds and again.startswith("abc") and 0 <= changed <= min(9, rounds)
    assert changed > 0
    assert lm.refine(text, n=2, num_steps=20, seed=1) != [text, text]


def test_refine_is_the_sampler_of_that_name():
    lm, x = LanguageModel(network("diffusion"), LETTERS), torch.tensor([LETTERS.encode("abcabcabcabc")])
    rng, given = torch.Generator().manual_seed(6), torch.arange(12)[None] < 2
    *_, last = SAMPLERS["refine"](lm.model, x, 10, num_steps=7, share=0.3, given=given, rng=rng)
    assert lm.refine("abcabcabcabc", prompt="ab", num_steps=7, share=0.3, seed=6) == [LETTERS.decode(last[0])]


def test_refine_fills_blanks_first():
    text = LanguageModel(network("diffusion"), LETTERS).refine("ab{5}c", prompt="ab", num_steps=2)[0]
    assert text.startswith("ab") and len(text) == 8 and "·" not in text


@pytest.mark.parametrize(
    "how",
    [{"text": "a" * 17}, {"prompt": "b"}, {"share": 2.0}, {"num_steps": 0}, {"again": "confidense"}, {"text": "aZ"}],
    ids=str,
)
def test_refine_that_cannot_be_is_one_clear_line(how):
    with pytest.raises(UserError) as refused:
        LanguageModel(network("diffusion"), LETTERS).refine(**{"text": "abc"} | how)
    assert "\n" not in str(refused.value)


def test_a_gpt_cannot_refine():
    with pytest.raises(UserError, match="GPT"):
        LanguageModel(network("gpt"), LETTERS).refine("abc")


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"num_steps": 0},
        {"num_steps": -3},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 2.0},
        {"length": 0},
        {"length": 100_001},
        {"prompt": "a" * 17},
        {"prompt": "aé"},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_one_clear_line(lm, how):
    with pytest.raises(UserError) as refused:
        lm.generate(n=1, **how)
    assert "\n" not in str(refused.value)


# Scoring


def test_a_gpt_scores_exactly_the_chain_rule():
    gpt = LanguageModel(network("gpt"), LETTERS)
    ids = LETTERS.encode("bad cafe")
    by_hand = [-gpt.model(torch.tensor([ids[:i]]))[0, -1].log_softmax(-1)[ids[i]].item() for i in range(1, len(ids))]
    assert gpt.score("bad cafe").mean == pytest.approx(sum(by_hand) / 7, rel=1e-5)


def test_probabilities_of_all_texts_sum_to_one():
    """Exact means exact: over every text of three letters that begins with a."""
    gpt = LanguageModel(network("gpt", V=4), CharTokenizer("abcd"))
    rows = torch.tensor([(0, *rest) for rest in itertools.product(range(4), repeat=2)])
    nll = gpt.score_windows(rows).per_sequence * 2  # two tokens are scored
    assert (-nll).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_diffusion_scores_the_bound_of_every_order_enumerated():
    """Against all masks of a short text, the first character given: k uniform, then the subset, then its k tokens."""
    lm, ids = LanguageModel(network("diffusion"), LETTERS), torch.tensor([LETTERS.encode("face")])
    exact = 0.0
    for k in (1, 2, 3):
        subsets = list(itertools.combinations((1, 2, 3), k))
        for where in map(list, subsets):
            x_t = ids.clone()
            x_t[0, where] = lm.mask_id
            log_p = lm.model(x_t).double()[..., :-1].log_softmax(-1)
            exact -= log_p[0, where, ids[0, where]].mean().item() / len(subsets) / 3
    scores = Estimate.of(torch.tensor([lm.score("face", samples=32, seed=seed).mean for seed in range(40)]))
    assert abs(scores.mean - exact) < 4 * scores.stderr and scores.stderr < 0.02 * exact


def test_the_score_is_estimate_nelbo_with_its_first_token_given():
    lm, x_0 = LanguageModel(network("diffusion"), LETTERS), torch.arange(48).view(3, 16) % 10
    direct = estimate_nelbo(lm.model, x_0, 10, 16, torch.Generator().manual_seed(3), given=1)
    scored = lm.score(LETTERS.decode(x_0.flatten()), samples=16, seed=3)
    assert torch.equal(scored.per_sequence, direct.per_sequence) and scored.mean == direct.mean


def test_long_texts_are_scored_window_by_window(lm):
    text = "abcdefgh" * 6
    whole = lm.score(text + "ab")  # 50 characters: three windows of 16, and two that are left over
    assert len(whole.per_sequence) == 3
    assert whole.per_sequence.tolist() == lm.score(text).per_sequence.tolist()
    assert whole.stderr >= 0 and len(lm.score("ab").per_sequence) == 1
    with pytest.raises(UserError, match="short"):
        lm.score("a")


# What ships

SNIPPET = """What, is my Richard both shorn of his hair and crown,
And of his head? The time shall come, my lord,
When you shall ask me for a merry word.

KING HENRY:
"""
UNIGRAM = 3.3  # nats per character: what counting characters achieves on Tiny Shakespeare


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_weights_load_write_and_have_learnt(kind):
    folder = WEIGHTS / f"shakespeare-{kind}"
    shipped = microdlm.load(folder.name)
    assert shipped.kind == kind
    text = shipped.generate(n=1, prompt="ROMEO:", length=64, num_steps=16)[0]
    assert text.startswith("ROMEO:") and len(text) == 64 and "·" not in text
    filled = shipped.infill("My lord, the ____ is {6}.")[0]
    assert (filled[:13], filled[17:21], filled[27:]) == ("My lord, the ", " is ", ".")
    scored = shipped.score(SNIPPET, samples=32)
    assert scored.mean < UNIGRAM - 0.5
    nonsense = "".join(sorted(SNIPPET))  # the same characters, nothing said
    assert shipped.score(nonsense, samples=32).mean > scored.mean + 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_weights_are_small_data_with_a_card(kind):
    folder = WEIGHTS / f"shakespeare-{kind}"
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert (folder / "model.safetensors").stat().st_size <= 22e6
    assert all(w.dtype == torch.bfloat16 for w in load_file(folder / "model.safetensors").values())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["kind"] == kind and config["summary"]["parameters"] > 1e5
    assert config["corpus"]["sha256"].startswith("86c4e6aa")
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in (config["made_by"]["command"], config["corpus"]["sha256"], "±", "Sample", "icence"):
        assert said in card


def test_seven_schedules_and_the_count_form_give_the_shipped_weights_one_score():
    """The bound belongs to the network: a schedule only chooses where it is measured. Paired by window, 4 standard
    errors (seven comparisons: a false alarm in 2,000 seeds); the bar itself must be short for that to mean anything."""
    shipped = microdlm.load("shakespeare-diffusion")
    x_0, score = torch.tensor(shipped.tokenizer.encode(SNIPPET)).unfold(0, 64, 2), {}
    for seed, schedule in enumerate((None, *SCHEDULES.values())):
        rng = torch.Generator().manual_seed(seed)
        score[schedule] = estimate_nelbo(shipped.model, x_0, shipped.mask_id, 32, rng, schedule=schedule)
    assert len(score) == 8
    for schedule, found in score.items():
        gap = Estimate.of(found.per_sequence - score[None].per_sequence)
        assert abs(gap.mean) <= 4 * gap.stderr, schedule
        assert schedule is None or 0 < gap.stderr < 0.03 * found.mean, schedule
