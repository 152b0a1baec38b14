"""Byte-pair encoding from scratch: the library's merges and ids, on text of any kind."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microdlm.runs import ROOT
from microdlm.tokenizers import END, BPETokenizer

ODD = "naïve café 猫 🐈\r\n\t  it's 1,000   and ... "
TEXT = (ROOT / "data" / "playlets.txt").read_text(encoding="utf-8") + ODD * 3
SIZE = 500


@pytest.fixture(scope="module")
def bpe(step):
    return step("extra_bpe")


@pytest.fixture(scope="module")
def learnt(bpe):
    """(pieces, merges, counts, the library's tokenizer) of the same text."""
    return *bpe.train(TEXT, SIZE - 1), BPETokenizer.train(TEXT, SIZE)


def test_the_merges_are_the_library_s(bpe, learnt):
    pieces, merges, _, library = learnt
    assert bpe.names(merges, pieces) == [*library.merges] and len(merges) == SIZE - 257


def test_ties_go_to_the_smallest_ids(bpe):
    """Three pairs, each twice: 'ab', 'cd', ' c'. In the order of GPT-2 the blank comes after every letter."""
    text = "ab cd ab cd"
    for tie, first in ((min, "a b"), (max, "Ġ c")):
        pieces, merges, counts = bpe.train(text, 257, tie)
        assert bpe.names(merges, pieces) == [first] and counts == [2]
    assert BPETokenizer.train(text, 258).merges == ("a b",)
    assert bpe.BYTES[0] == ord("!") and bpe.ID[ord(" ")] > bpe.ID[ord("z")] > bpe.ID[ord("a")]


def test_a_pair_that_stands_once_is_not_joined(bpe):
    pieces, merges, counts = bpe.train("abc abd", 1000)
    assert bpe.names(merges, pieces) == ["a b"] and counts == [2]
    assert bpe.train("", 300) == ([bytes([b]) for b in bpe.BYTES], {}, [])


def test_nothing_is_learnt_across_words_or_documents(bpe):
    pieces, merges, _ = bpe.train(f"ab{END}" * 9 + "c d " * 9, 1000)
    assert {pieces[new] for new in merges.values()} == {b"ab", b" d", b" c"}


def test_of_three_equal_letters_the_first_two_are_joined(bpe):
    assert bpe.joined([7, 7, 7, 1, 7, 7, 7, 7], (7, 7), 9) == [9, 7, 1, 9, 9]
    assert bpe.joined([1, 2, 1, 2, 2], (1, 2), 9) == [9, 9, 2] and bpe.joined([], (1, 2), 9) == []


@settings(max_examples=200)
@given(st.sampled_from(["ab", "abc ", "aab'12 "]).flatmap(lambda letters: st.text(letters, max_size=120)))
def test_the_merges_of_any_text_are_the_library_s(bpe, text):
    """Of few letters, so that pieces are joined with themselves, ties abound and words are spelt in several ways."""
    pieces, merges, _ = bpe.train(text, 300)
    assert bpe.names(merges, pieces) == [*BPETokenizer.train(text, 301).merges]


# Python 3.11 and the library know different editions of Unicode: what neither may call a letter yet is left out
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn", "Co"]).filter(lambda c: unicodedata.category(c) != "Cn")


@settings(max_examples=300)
@given(st.text(CHARACTERS))
def test_any_string_has_the_library_s_ids_and_comes_back(bpe, learnt, text):
    pieces, merges, _, library = learnt
    ids = bpe.encode(text, merges)
    assert ids == library.encode(text) and bpe.decode(ids, pieces) == text


@settings(max_examples=200)
@given(st.text("Eabtr he", max_size=60))
def test_strings_of_known_pieces_too(bpe, learnt, text):
    """Letters that the merges are about: here order matters."""
    _, merges, _, library = learnt
    assert bpe.encode(text, merges) == library.encode(text)


def test_the_longest_match_is_not_byte_pair_encoding(bpe):
    """'abc': 'bc' was learnt first, so 'ab' is never made; the longest match knows nothing of it."""
    pieces, merges, _ = bpe.train("bc bc bc bc bc bc ab ab ab abd abd", 400)
    assert bpe.names(merges, pieces)[0] == "b c" and b"ab" in pieces
    assert [pieces[i] for i in bpe.encode("abc", merges)] == [b"a", b"bc"]
    assert [pieces[i] for i in bpe.longest_match("abc", pieces)] == [b"ab", b"c"]


def test_the_length_of_the_encoded_text_is_known_from_the_counts(bpe):
    """By encoding it: without three equal letters in a row, of which two pairs are counted and one is joined."""
    text = re.sub(r"(.)\1\1+", r"\1", TEXT, flags=re.DOTALL)
    _, merges, counts = bpe.train(text, SIZE)
    assert len(bpe.encode(text, merges)) == bpe.shortest(text, counts)
    _, merges, counts = bpe.train("aaa " * 5, 257)
    assert len(bpe.encode("aaa " * 5, merges)) == bpe.shortest("aaa " * 5, counts) + 5


@pytest.fixture
def documents(tmp_path) -> str:
    (tmp_path / "text").write_text(f"{TEXT[:6000]}{END}{ODD}{END}" * 3)
    return str(tmp_path / "text")


def test_smoke(bpe, smoke, documents):
    run = smoke(bpe, data=documents)
    assert run.failed == [] and len(run.claims) == 4 and run.numbers["chars"] > 1.2


@pytest.mark.parametrize("bug, merges_too", [("ties", True), ("greedy", False)])
def test_each_bug_is_seen(bpe, smoke, documents, bug, merges_too):
    hit = ["the merges are the library's"] * merges_too + ["held-out text: its very ids"]
    assert smoke(bpe, data=documents, broken=bug).failed == hit
