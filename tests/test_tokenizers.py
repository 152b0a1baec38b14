"""Tokenizers: whatever is encoded comes back, MASK is never encoded, and a description from a stranger is only data."""

import json
import os
from pathlib import Path

import pytest
import tiktoken
import torch
from hypothesis import given
from hypothesis import strategies as st

from microdlm.errors import UserError
from microdlm.tokenizers import END, KINDS, BPETokenizer, CharTokenizer, GPT2Tokenizer, tokenizer_from_json

TEXT = "the cat sat on the mat, the cat sat on the hat. " * 20 + END + "naïve café 猫 🐈\r\n\tthe end"
CHAR = CharTokenizer("".join(sorted(set(TEXT))))
BPE = BPETokenizer.train(TEXT, vocab_size=300)
GPT2_FOLDER = Path(os.environ.get("MICRODLM_DATA", "")) / "gpt2"
needs_gpt2 = pytest.mark.skipif(
    not ("MICRODLM_DATA" in os.environ and GPT2_FOLDER.is_dir()), reason="no $MICRODLM_DATA/gpt2"
)


@pytest.fixture(params=["char", "bpe", pytest.param("gpt2", marks=needs_gpt2)])
def tok(request):
    return {"char": CHAR, "bpe": BPE}.get(request.param) or GPT2Tokenizer()


def test_any_text_comes_back(tok):
    texts = st.text(CHAR.alphabet) if tok is CHAR else st.text()

    @given(texts)
    def comes_back(text):
        ids = tok.encode(text)
        assert tok.decode(ids) == tok.decode(torch.tensor(ids, dtype=torch.int64)) == text
        assert all(0 <= i < len(tok) for i in ids)

    comes_back()
    assert tok.decode(tok.encode(TEXT)) == TEXT


def test_mask_is_one_id_past_the_text_and_is_shown(tok):
    assert tok.mask_id == len(tok)
    a, b = tok.encode("the"), tok.encode("end")
    row = torch.tensor([tok.mask_id, *a, tok.mask_id, tok.mask_id, *b])
    assert tok.decode(row) == "·the··end"
    assert tok.decode(row, mask="") == "theend"


@pytest.mark.parametrize("row", [[-1], [10**6], [[1, 2]], torch.tensor([[1, 2]])])
def test_decode_refuses_what_is_not_one_row_of_ids(row):
    with pytest.raises((ValueError, TypeError)):  # TypeError: the shape checks that the tests switch on
        CHAR.decode(row)


@given(st.lists(st.integers(0, BPE.mask_id)))
def test_any_bytes_can_be_shown_even_if_a_mask_cuts_a_character_in_two(ids):
    text = BPE.decode(ids)
    assert text.count("·") >= ids.count(BPE.mask_id)
    assert text.encode().decode() == text  # no lone surrogates


def test_a_character_cut_by_a_mask_becomes_replacement_characters():
    ids = BPETokenizer(()).encode("é")  # no merges: two bytes, two ids
    assert BPE.decode([ids[0], BPE.mask_id, ids[1]]) == "\ufffd·\ufffd"


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(UserError, match=r"character 'é' at position 2 is not .* vocabulary of 3 characters"):
        CharTokenizer("abc").encode("abé")
    with pytest.raises(UserError, match="at position 0"):  # below every known code point, and above
        CharTokenizer("abc").encode("\x00a🐈")
    with pytest.raises(UserError, match=r"\\ud800"):  # printed so that a terminal can show it
        CharTokenizer("abc").encode("\ud800")


def test_bytes_know_every_character_but_no_half_of_one(tok):
    if tok is not CHAR:
        assert tok.decode(tok.encode("a\ud800b")) == "a\ufffdb"


def test_bpe_shortens_its_own_text_and_fills_its_vocabulary():
    assert len(BPE) <= 300
    assert len(BPE.encode(TEXT)) < len(TEXT.encode()) / 3
    assert len(BPETokenizer.train("ab" * 5, vocab_size=1024)) < 1024  # there is nothing more to merge
    assert BPETokenizer.train(TEXT, vocab_size=257) == BPETokenizer(())
    with pytest.raises(UserError, match="257"):
        BPETokenizer.train(TEXT, vocab_size=256)


def test_the_end_of_a_text_is_one_id_and_teaches_no_merge():
    assert BPE.encode(END) == [len(BPE) - 1]
    assert BPE.encode(f"a{END}{END}b") == [*BPE.encode("a"), len(BPE) - 1, len(BPE) - 1, *BPE.encode("b")]
    assert BPETokenizer.train(f"ab{END}" * 50, vocab_size=300).merges == ("a b",)


def test_training_twice_gives_the_same_tokenizer():
    assert BPETokenizer.train(TEXT, vocab_size=300) == BPE


def test_a_tokenizer_travels_as_json(tok):
    again = tokenizer_from_json(json.loads(json.dumps(tok.to_json())))
    assert again == tok and len(again) == len(tok)
    assert again.encode(TEXT) == tok.encode(TEXT)
    assert tok.to_json()["kind"] in KINDS


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"kind": "sentencepiece"},
        {"kind": ["char"], "alphabet": "ab"},
        {"kind": "char"},
        {"kind": "char", "alphabet": ""},
        {"kind": "char", "alphabet": "aa"},
        {"kind": "char", "alphabet": ["a", "b"]},
        {"kind": "char", "alphabet": "ab", "path": "/etc/passwd"},
        {"kind": "bpe", "merges": "a b"},
        {"kind": "bpe", "merges": ["a"]},
        {"kind": "bpe", "merges": ["a b c"]},
        {"kind": "bpe", "merges": ["ab c"]},
        {"kind": "bpe", "merges": [1]},
        {"kind": "bpe", "merges": {"a": "b"}},
    ],
)
def test_a_malformed_description_is_one_line(data):
    with pytest.raises(UserError, match="cannot be read") as caught:
        tokenizer_from_json(data)
    assert "\n" not in str(caught.value)


@needs_gpt2
def test_gpt2_ids_are_the_published_ones():
    gpt2 = GPT2Tokenizer()
    assert len(gpt2) == 50257
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode(END) == [50256]
    assert gpt2.encode("Hello, I'm a language model,") == [15496, 11, 314, 1101, 257, 3303, 2746, 11]


def test_gpt2_without_files_or_network_says_what_to_do(monkeypatch, tmp_path):
    def no_network(name):
        raise ConnectionError("no route to host")

    monkeypatch.setenv("MICRODLM_DATA", str(tmp_path))
    monkeypatch.setattr(tiktoken, "get_encoding", no_network)
    with pytest.raises(UserError, match=r"vocab.bpe and encoder.json into"):
        GPT2Tokenizer()


def test_gpt2_refuses_files_with_a_wrong_checksum(monkeypatch, tmp_path):
    (tmp_path / "gpt2").mkdir()
    for name in ("vocab.bpe", "encoder.json"):
        (tmp_path / "gpt2" / name).write_text("#version: 0.2\n")
    monkeypatch.setenv("MICRODLM_DATA", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # no copies kept
    with pytest.raises(UserError, match="sound copies"):
        GPT2Tokenizer()
