"""Corpora: held-out text stays held out, a wrong file is never used, and bad input is one clear line."""

import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microdlm import corpus as corpora
from microdlm import playlets, sources
from microdlm.corpus import Corpus, load_corpus
from microdlm.errors import UserError
from microdlm.tokenizers import END, CharTokenizer, GPT2Tokenizer

TEXT = "".join(f"line {i}: the quick brown fox, number {i * i}.\n" for i in range(400))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_bytes(TEXT.encode())
    return str(path)


def counting(n_train: int, n_val: int) -> Corpus:
    """A corpus whose ids are their own positions, so that a window tells where it comes from."""
    train, val = torch.arange(n_train), torch.arange(n_train, n_train + n_val)
    return Corpus("counting", CharTokenizer("ab"), train, val, sha256="", chars_per_token=1.0)


# What a file becomes


def test_nothing_is_lost_between_the_parts(text_file):
    c = load_corpus(text_file)
    assert c.tokenizer.decode(c.train) + c.tokenizer.decode(c.val) == TEXT
    assert len(c.train) == len(TEXT) * 9 // 10
    assert c.tokenizer.alphabet == "".join(sorted(set(TEXT)))
    assert (c.name, c.chars_per_token, c.entropy_rate) == ("fox.txt", 1.0, None)
    assert c.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()


@given(st.text(min_size=2, max_size=60))
@settings(max_examples=20)
def test_any_text_survives_the_split(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "any.txt"
    path.write_bytes(text.encode())
    c = load_corpus(str(path))
    assert c.tokenizer.decode(c.train) + c.tokenizer.decode(c.val) == text


def test_bpe_learns_from_the_training_part_only(tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("ab" * 450 + "cd" * 50)
    c = load_corpus(str(path), "bpe", vocab_size=300)
    assert all("c" not in merge for merge in c.tokenizer.merges)
    assert c.tokenizer.decode(c.val) == "cd" * 50
    assert c.chars_per_token == 1.0  # so its held-out text costs one id a character


def test_nats_per_character_come_from_the_held_out_text(text_file):
    c = load_corpus(text_file, "bpe", vocab_size=400)
    assert c.chars_per_token == pytest.approx(len(c.tokenizer.decode(c.val)) / len(c.val))
    assert c.chars_per_token > 1.5


def test_a_saved_tokenizer_can_be_brought_along(text_file):
    tok = CharTokenizer("".join(sorted(set(TEXT) | {"Z"})))
    assert load_corpus(text_file, tok).tokenizer is tok
    with pytest.raises(UserError, match="'l' at position 0"):
        load_corpus(text_file, CharTokenizer("xyz"))


# Documents

STORIES = [f"Tom had {i} red balls.\nHe was happy." for i in range(100)]


@pytest.fixture
def stories(tmp_path) -> str:
    """As such files are: END on a line of its own, or several, or none at the end."""
    path = tmp_path / "stories.txt"
    path.write_text(f"{END}\n" + f"\n{END}\n\n".join(STORIES), encoding="utf-8")
    return str(path)


def documents(ids, tok) -> list[str]:
    """What stands before each END."""
    *texts, rest = tok.decode(ids).split(END)
    assert rest == "" and int((ids == tok.end_id).sum()) == len(texts)
    return texts


def test_documents_are_packed_each_with_its_end(stories):
    """No empty line, no empty document, none without an end; and none stands in both parts."""
    c = load_corpus(stories, "bpe", vocab_size=300)
    train, val = documents(c.train, c.tokenizer), documents(c.val, c.tokenizer)
    assert train + val == STORIES
    assert 9 <= len(val) <= 12


def test_the_end_counts_as_one_character(stories):
    c = load_corpus(stories, "bpe", vocab_size=300)
    characters = sum(len(text) + 1 for text in documents(c.val, c.tokenizer))
    assert c.chars_per_token == pytest.approx(characters / len(c.val))
    assert load_corpus(stories, "char").chars_per_token == 1.0  # by the character it is thirteen


@pytest.mark.parametrize("piece", [1, 40, 1000, 10**9])
def test_in_pieces_the_ids_are_those_of_the_whole(stories, monkeypatch, piece):
    whole = load_corpus(stories, "bpe", vocab_size=300)
    monkeypatch.setattr(corpora, "PIECE", piece)
    c = load_corpus(stories, "bpe", vocab_size=300)
    assert torch.equal(c.train, whole.train) and torch.equal(c.val, whole.val)
    assert c.train.tolist() == c.tokenizer.encode(c.tokenizer.decode(c.train))


def test_one_long_document_is_cut_all_the_same(tmp_path):
    """Where no document ends near nine tenths, there is the cut: neither part is left with almost nothing."""
    path = tmp_path / "long.txt"
    path.write_text(f"short{END}" + "a long story. " * 500)
    c = load_corpus(str(path), "bpe", vocab_size=300)
    assert 0.08 < len(c.val) / (len(c.train) + len(c.val)) < 0.12
    path.write_text(f"{END}\n{END}  ")
    with pytest.raises(UserError, match="is empty"):
        load_corpus(str(path), "bpe")


# Batches and windows


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 99))
def test_batches_are_windows_of_the_training_part(n, B, seed):
    L = 1 + seed % n
    x = counting(n, 5).batch(B, L, rng(seed))
    assert x.shape == (B, L) and x.dtype == torch.int64
    assert (x == x[:, :1] + torch.arange(L)).all()
    assert 0 <= x.min() and x.max() < n


def test_every_window_is_drawn_the_last_one_too():
    starts = counting(10, 1).batch(400, 8, rng())[:, 0]
    assert sorted(set(starts.tolist())) == [0, 1, 2]


def test_a_batch_depends_on_nothing_but_its_generator():
    c = counting(1000, 10)
    state = torch.get_rng_state()
    a, g = c.batch(4, 8, rng(1)), rng(1)
    assert torch.equal(a, c.batch(4, 8, g))
    assert not torch.equal(a, c.batch(4, 8, g))
    assert torch.equal(state, torch.get_rng_state())


def test_a_batch_is_a_copy():
    c = counting(20, 10)
    c.batch(4, 8, rng()).fill_(-1)
    c.windows(5).fill_(-1)
    assert c.train.min() == 0 and c.val.min() == 20


@given(st.integers(1, 60), st.data())
def test_windows_are_disjoint_and_held_out(n_val, data):
    L = data.draw(st.integers(1, n_val))
    n = data.draw(st.none() | st.integers(1, n_val // L))
    c = counting(7, n_val)
    x = c.windows(L, n)
    assert x.shape == (n or n_val // L, L) and torch.equal(x, c.windows(L, n))
    assert len(x.unique()) == x.numel() and x.min() >= 7


def test_windows_are_spread_over_all_of_the_held_out_part():
    assert counting(0, 100).windows(10, 5)[:, 0].tolist() == [0, 20, 40, 60, 80]
    assert len(counting(0, 100).windows(10, 99)) == 10  # no more than there are


def test_too_short_a_text_says_how_short(text_file):
    c = counting(20, 10)
    with pytest.raises(UserError, match="val part of counting has 10 tokens and a window needs 11"):
        c.windows(11)
    with pytest.raises(UserError, match="train part of counting has 20 tokens and a window needs 21"):
        c.batch(1, 21, rng())
    with pytest.raises(UserError, match="a window needs 0"):
        c.windows(0)
    with pytest.raises(UserError, match="val part of fox.txt has 1,"):
        load_corpus(text_file, min_length=10_000)


# Playlets


def test_playlets_have_the_ids_of_the_exact_denoiser_and_two_independent_parts(play, monkeypatch):
    monkeypatch.setattr(playlets, "Playlets", lambda: play)
    c = load_corpus("playlets", n_chars=20_000)
    assert c.tokenizer.alphabet == "".join(play.alphabet)
    assert (len(c.train), len(c.val)) == (18_000, 2_000)
    assert c.tokenizer.decode(c.train) == play.text(18_000, seed=0)
    assert c.tokenizer.decode(c.val) not in c.tokenizer.decode(c.train)
    assert c.entropy_rate == play.entropy_rate()
    assert torch.equal(c.train, load_corpus("playlets", n_chars=20_000).train)


def test_playlets_need_no_network(play, monkeypatch):
    monkeypatch.setattr(playlets, "Playlets", lambda: play)
    monkeypatch.delenv("MICRODLM_DATA", raising=False)
    monkeypatch.setattr(sources, "_download", lambda *_: pytest.fail("it downloads"))
    load_corpus("playlets", n_chars=2_000)


# Where named corpora come from


@pytest.fixture
def shop(monkeypatch, tmp_path):
    """A registry with one small corpus, `fox`, an empty data folder, and a server that hands out `shop.page`."""

    class Shop(http.server.BaseHTTPRequestHandler):
        page, visits = TEXT.encode(), 0

        def do_GET(self):
            Shop.visits += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(TEXT)))
            self.end_headers()
            self.wfile.write(Shop.page)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    Shop.data, Shop.server = tmp_path / "data", server
    Shop.data.mkdir()
    monkeypatch.delenv("MICRODLM_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sources, "DATA", Shop.data)
    monkeypatch.setattr(sources, "FILES", {"fox": {"fox.txt": hashlib.sha256(TEXT.encode()).hexdigest()}})
    monkeypatch.setattr(sources, "URLS", {"fox": f"http://127.0.0.1:{server.server_port}/fox"})
    yield Shop
    server.shutdown()
    server.server_close()


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_corpus_is_downloaded_once(shop):
    a, b = load_corpus("fox"), load_corpus("fox")
    assert a.tokenizer.decode(a.train) == TEXT[: len(a.train)] and torch.equal(a.train, b.train)
    assert shop.visits == 1 and files_in(shop.data) == ["fox.txt"]


def test_a_wrong_download_is_set_aside_and_never_used(shop):
    shop.page = b"<html>please log in</html>".ljust(len(TEXT))
    with pytest.raises(UserError, match=r"has sha256 \w{12}…, not \w{12}…: it is now fox.txt.mismatch"):
        load_corpus("fox")
    assert files_in(shop.data) == ["fox.txt.mismatch"]
    shop.page = TEXT.encode()
    assert load_corpus("fox").name == "fox"


def test_a_wrong_file_in_a_read_only_folder_stays_and_is_not_used(shop, monkeypatch):
    def read_only(*_):
        raise PermissionError

    (shop.data / "fox.txt").write_text("something else")
    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(UserError, match="replace or remove it, or use --data playlets"):
        load_corpus("fox")
    assert files_in(shop.data) == ["fox.txt"] and shop.visits == 0


def test_a_download_that_breaks_off_leaves_nothing(shop):
    shop.page = TEXT.encode()[:100]
    with pytest.raises(UserError, match="cannot download fox"):
        load_corpus("fox")
    assert files_in(shop.data) == []


def test_without_a_network_one_line_says_what_to_do(shop, monkeypatch):
    monkeypatch.setattr(sources, "URLS", {"fox": "http://127.0.0.1:1/fox"})  # nobody listens there
    with pytest.raises(UserError, match=r"use --data playlets.* or put it at .*fox\.txt") as caught:
        load_corpus("fox")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(sources, "URLS", {})
    with pytest.raises(UserError, match=r"put its text at .*fox\.txt"):
        load_corpus("fox")


def test_the_person_s_own_folder_comes_first_and_is_left_alone(shop, monkeypatch, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    monkeypatch.setenv("MICRODLM_DATA", str(mine))
    (mine / "fox.txt").write_bytes(TEXT.encode())
    (shop.data / "fox.txt").write_text("something else")
    assert load_corpus("fox").name == "fox" and shop.visits == 0
    (mine / "fox.txt").write_text("edited")
    with pytest.raises(UserError, match="replace or remove it"):
        load_corpus("fox")
    assert files_in(mine) == files_in(shop.data) == ["fox.txt"]


def test_a_file_without_a_known_checksum_is_taken_as_it_is(shop, monkeypatch):
    monkeypatch.setattr(sources, "FILES", {"tales": {"tales/known.txt": "00", "tales.txt": None}})
    (shop.data / "tales.txt").write_text("once upon a time")
    assert load_corpus("tales").sha256 == hashlib.sha256(b"once upon a time").hexdigest()


def test_where_no_checksum_is_known_that_of_the_first_download_holds(shop, monkeypatch):
    """Kept beside the file as sha256sum writes it; a file that changes afterwards is set aside. Yours is not judged."""
    monkeypatch.setattr(sources, "FILES", {"fox": {"fox.txt": None}})
    first = load_corpus("fox")
    assert (shop.data / "fox.txt.sha256").read_text() == f"{first.sha256}  fox.txt\n"
    assert load_corpus("fox").sha256 == first.sha256 and shop.visits == 1
    (shop.data / "fox.txt").write_text("torn")
    with pytest.raises(UserError, match=r"has sha256 \w{12}…, not .*it is now fox.txt.mismatch"):
        load_corpus("fox")
    assert load_corpus("fox").sha256 == first.sha256 and shop.visits == 2  # fetched anew
    mine = shop.data.parent / "mine"
    mine.mkdir()
    (mine / "fox.txt").write_text("my own fox, which nobody has seen")
    monkeypatch.setenv("MICRODLM_DATA", str(mine))
    assert load_corpus("fox").sha256 != first.sha256


def test_the_stories_are_to_be_had():
    """Both names have an address, and a place to lie that needs no known checksum."""
    for name in ("tinystories", "tinystories-all"):
        *_, (file, sha256) = sources.FILES[name].items()
        assert sha256 is None and file == f"{name}.txt" and sources.URLS[name].startswith("https://")
    assert sources.URLS["tinystories"] != sources.URLS["tinystories-all"]


# What a person can get wrong


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shakespear", r"no corpus 'shakespear' \(did you mean shakespeare\?\): choose from playlets, shakesp"),
        ("qqq", "no corpus 'qqq': choose from"),
        ("no/such/file.txt", "no file no/such/file.txt"),
        ("nofile.txt", "no file nofile.txt"),
        ("{tmp}", "is a folder"),
        ("", "is a folder"),
        ("/dev/zero", "is a device" if os.path.exists("/dev/zero") else "no file"),
        ("{tmp}/fox.txt/x", "no file"),
        ("{tmp}/latin1.txt", r"not UTF-8 text \(byte 3\)"),
        ("{tmp}/empty.txt", "is empty"),
        ("{tmp}/one.txt", "train part of one.txt has 0 tokens"),
        ("x" * 5000, "cannot be read"),
        ("a\0b", "cannot be read"),
    ],
)
def test_a_bad_name_is_one_clear_line(name, says, text_file, tmp_path):
    (tmp_path / "latin1.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "one.txt").write_bytes(b"x")
    with pytest.raises(UserError, match=says) as caught:
        load_corpus(name.replace("{tmp}", str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_bad_tokenizer_name_is_one_clear_line(text_file):
    with pytest.raises(UserError, match=r"no tokenizer 'gtp2' \(did you mean gpt2\?\): choose char, bpe or gpt2"):
        load_corpus(text_file, "gtp2")


# The real ones


def needs(file: str):
    there = "MICRODLM_DATA" in os.environ and Path(os.environ["MICRODLM_DATA"], file).exists()
    return pytest.mark.skipif(not there, reason=f"no $MICRODLM_DATA/{file}")


@needs("shakespeare.txt")
def test_tiny_shakespeare_is_the_published_one():
    c = load_corpus("shakespeare")
    assert (len(c.train), len(c.val), len(c.tokenizer)) == (1_003_854, 111_540, 65)
    assert c.tokenizer.decode(c.train[:14]) == "First Citizen:"


@needs("gpt2")
@needs("tinystories/stories.txt")
def test_tiny_stories_end_with_one_id():
    c = load_corpus("tinystories", "gpt2")
    assert c.tokenizer == GPT2Tokenizer()
    assert (c.val == 50256).sum() > 900 and 3.5 < c.chars_per_token < 4.5
    assert c.train[-1] == c.val[-1] == 50256 and c.sha256.startswith("ec8f7c2f")
