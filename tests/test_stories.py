"""Stories: what is counted of them, the command that measures them, and the model that ships."""

import json
from dataclasses import asdict

import pytest
import torch

from microdlm.corpus import load_corpus
from microdlm.errors import UserError
from microdlm.hub import WEIGHTS
from microdlm.pretrained import load
from microdlm.runs import ROOT, write_json, write_tensors
from microdlm.tokenizers import END
from microdlm.transformer import Transformer, TransformerConfig

STORIES = [f"Tom had {n} red balls. He was happy." for n in ("two", "three", "four", "five")]
SHIPPED = WEIGHTS / "tinystories-diffusion"
shipped = pytest.mark.skipif(not SHIPPED.is_dir(), reason="the story model has not been made")


@pytest.fixture(scope="module")
def stories(script):
    return script("results/stories")


def test_a_share_has_the_error_of_its_draws(stories):
    assert stories.share(3, 4) == {"value": 0.75, "stderr": pytest.approx((0.75 * 0.25 / 4) ** 0.5)}
    assert stories.share(4, 4) == {"value": 1.0, "stderr": 0.0}


def test_what_is_counted_of_texts(stories):
    """One of two ends, after four words; of its words and those of the other one, seven in all, two are new."""
    found = stories.about([f"Tom saw a zorp.{END}junk", "Tom was glib"], {"tom", "saw", "a", "was"})
    assert found["ended"]["value"] == 0.5 and found["words_if_ended"] == 4 and found["texts"] == 2
    assert found["unknown_words"] == pytest.approx(2 / 7)
    assert "words_if_ended" not in stories.about(["Tom"], {"tom"})


@pytest.fixture
def learner(tmp_path):
    """The folder of a network that nobody trained, and the documents whose tokens it knows."""
    text = tmp_path / "tales.txt"
    text.write_text(f"\n{END}\n".join(STORIES * 160), encoding="utf-8")
    corpus = load_corpus(str(text), "bpe", vocab_size=300)
    net = Transformer(TransformerConfig(corpus.tokenizer.mask_id + 1, 160, n_layer=1, n_head=2, d_model=16))
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(3))
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", {"model": asdict(net.cfg), "tokenizer": corpus.tokenizer.to_json()})
    write_tensors(tmp_path / "run" / "model.safetensors", dict(net.named_parameters()))
    return tmp_path / "run", text


def test_the_command_runs_whole(stories, learner, tmp_path, monkeypatch):
    folder, text = learner
    monkeypatch.setitem(stories.WAYS, "one by one", {"sampler": "first_hitting", "num_steps": 4})
    how = dict(data=str(text), windows=3, samples=4, texts=3, temperature=1.0, out=tmp_path / "out.json")
    stories.main(stories.Config(model=str(folder), **how))
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert numbers["windows"] == 3 and numbers["bound"]["stderr"] > 0 and numbers["made_by"]["command"]
    assert numbers["held_out"]["ended"]["value"] == 1.0 and numbers["held_out"]["unknown_words"] == 0.0
    for way in numbers["writing"].values():
        assert way["texts"] == 3 and all(END not in sample for sample in way["samples"])
    assert all(text.startswith(stories.QUESTION) for text in numbers["answer"])
    before, after = stories.MIDDLE.removesuffix(END).split("{40}")
    assert all(text.startswith(before) and text.endswith(after) for text in numbers["middle"])


def test_a_model_that_knows_no_end_is_refused(stories):
    with pytest.raises(UserError, match="does not|not a diffusion model that knows where a text ends"):
        stories.main(stories.Config(model="shakespeare-diffusion"))


# What ships


@shipped
def test_it_is_small_and_says_what_it_is(stories):
    assert {p.name for p in SHIPPED.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) <= 6e6
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    assert config["corpus"]["sha256"].startswith("ec8f7c2f") and "tinystories-quick" in config["made_by"]["command"]
    assert not config["made_by"]["uncommitted_changes"]
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    numbers = json.loads((ROOT / "results" / "tinystories.json").read_text(encoding="utf-8"))
    assert f"≤ {numbers['bound']['nats_per_char']:.3f} ± {numbers['bound']['stderr']:.3f}" in card
    assert card == stories.card(numbers, config)


@shipped
@pytest.mark.parametrize("sampler", ["confidence", "first_hitting"])
def test_asked_it_answers_and_ends(sampler):
    """A question as a story asks it: the prompt stays as it is, an answer follows, and after its end nothing does."""
    lm, prompt = load(SHIPPED), 'Tom looked at the big tree. "Mom, can I climb it?" he asked. His mom said, "'
    texts = lm.generate(n=8, prompt=prompt, sampler=sampler, num_steps=32, temperature=0.8)
    assert all(text.startswith(prompt) and len(text) > len(prompt) + 10 for text in texts)
    assert not any(END in text or "·" in text for text in texts)
    wholes = lm.generate(n=8, prompt=prompt, sampler=sampler, num_steps=32, temperature=0.8, whole=True)
    assert sum(END in whole for whole in wholes) >= 4
    assert [whole.split(END)[0] for whole in wholes] == texts


@shipped
def test_the_middle_of_a_story_is_written_between_what_is_given():
    lm, before, after = load(SHIPPED), "Lily lost her red ball. ", " Lily was happy again."
    (text,) = lm.infill(f"{before}{{30}}{after}", num_steps=30)
    assert text.startswith(before) and text.endswith(after) and "·" not in text
