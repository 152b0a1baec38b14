"""Data at scale: shards are a function of their source, batches of their step, and damage is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from microdlm.errors import UserError
from microdlm.playlets import Playlets
from microdlm.tokenizers import END, BPETokenizer
from steps.step7_schedule_study import rates_by_type
from study import grid, prepare, runner
from study.hardness import by_pairs
from study.shards import Shards

TEXTS = [scene + "\n\n" for scene in Playlets().text(40_000).split("\n\n")[:-1]]


@pytest.fixture(scope="module")
def tok():
    return BPETokenizer.train("".join(TEXTS), 300)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "scenes.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def shards(source, out, tok, **options) -> list[int]:
    return list(prepare.prepare(str(source), out, **{"tokens": 10**9, "shard_tokens": 4000, "tok": tok} | options))


@pytest.fixture(scope="module")
def folder(source, tok, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    shards(source, out, tok)
    return out


def everything(out: Path) -> dict[str, bytes]:
    meta = json.loads((out / "metadata.json").read_text())
    meta.pop("source")
    return {p.name: p.read_bytes() for p in out.glob("shard_*")} | {"metadata": json.dumps(meta).encode()}


# ---- preparing ----


def test_shards_hold_the_documents_and_nothing_else(folder, tok):
    meta = json.loads((folder / "metadata.json").read_text())
    ids, ends, before = [], [], 0
    for shard in meta["shards"]:
        part = np.fromfile(folder / shard["file"], "<u2")
        ends += (np.fromfile((folder / shard["file"]).with_suffix(".ends"), "<u8") + before).tolist()
        ids, before = ids + part.tolist(), before + len(part)
        assert len(part) == shard["tokens"] == 4000 or shard is meta["shards"][-1]
    assert ids == [i for text in TEXTS for i in (*tok.encode(text), tok.end_id)]
    assert ends == [i + 1 for i, v in enumerate(ids) if v == tok.end_id] and len(ends) == len(TEXTS)
    assert sum(s["documents"] for s in meta["shards"]) == len(TEXTS)
    assert meta["read"] == len(ids) and meta["characters"] == sum(map(len, TEXTS))


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_prepared_in_parts_the_bytes_are_the_same(source, tok, folder, tmp_path, stop):
    """Cut off after some shards, with the half of the next one lost; documents lie across the cut."""
    cut = prepare.prepare(str(source), tmp_path, 10**9, 4000, tok=tok)
    for _ in range(stop):
        next(cut)
    cut.close()
    (tmp_path / f"shard_{stop:04}.bin").write_bytes(b"half a shard")  # written, but not in metadata
    shards(source, tmp_path, tok)
    assert everything(tmp_path) == everything(folder)


def test_two_processes_write_what_one_does(source, tok, folder, tmp_path):
    shards(source, tmp_path, tok, processes=2)
    assert everything(tmp_path) == everything(folder)


def test_two_processes_read_only_a_little_ahead(tok, monkeypatch):
    """A source of a billion tokens is not in memory before the first shard is written."""
    monkeypatch.setattr(prepare, "AHEAD", 16)
    read = []
    stream = prepare.tokenised((read.append(text) or text for text in TEXTS), tok, 2)
    next(stream)
    stream.close()
    assert len(read) == 16


def test_the_kind_of_file_makes_no_difference(tok, folder, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    (tmp_path / "a.txt").write_text(END.join(TEXTS), encoding="utf-8", newline="")
    write_table(pyarrow.table({"id": range(len(TEXTS)), "text": TEXTS}), tmp_path / "b.parquet", row_group_size=50)
    for name in ("a.txt", "b.parquet"):
        shards(tmp_path / name, tmp_path / f"{name}.out", tok)
        assert everything(tmp_path / f"{name}.out") == everything(folder)


def test_it_stops_where_it_is_told_and_goes_on_when_told_more(source, tok, folder, tmp_path):
    assert shards(source, tmp_path, tok, tokens=6000) == [4000, 8000]
    assert shards(source, tmp_path, tok, tokens=6000) == []
    shards(source, tmp_path, tok)
    assert everything(tmp_path) == everything(folder)


def test_what_cannot_be_read_is_one_clear_line(tok, tmp_path):
    bad = {
        "a.jsonl": b'{"text": "fine"}\n{"txt": 1}\n',
        "b.jsonl": b"no json\n",
        "c.txt": b"\xff\xfe",
        "d.parquet": b"PAR",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    for name in [*bad, "missing.txt", "e.csv"]:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        with pytest.raises(UserError) as refused:
            shards(tmp_path / name, tmp_path / "out" / name, tok)
        assert "\n" not in str(refused.value) and name in str(refused.value)


def test_a_folder_of_another_source_is_not_gone_on_with(folder, tok, tmp_path):
    (tmp_path / "other.txt").write_text("something else")
    with pytest.raises(UserError, match="another source"):
        shards(tmp_path / "other.txt", folder, tok)


# ---- reading ----


def test_an_epoch_has_every_window_once_and_the_next_has_another_order(folder):
    data, B = Shards.open(folder, 32), 7
    n = len(data.starts)
    rows = torch.cat([data.at(step, B) for step in range(2 * n)])[: 2 * n]  # more than two epochs
    ids = [torch.from_numpy(np.asarray(f).astype(np.int64)) for f in data.files[1:]]
    known = torch.cat([f[: len(f) // 32 * 32].view(-1, 32) for f in ids])
    first, second = rows[:n], rows[n : 2 * n]
    assert (
        sorted(map(tuple, first.tolist())) == sorted(map(tuple, known.tolist())) == sorted(map(tuple, second.tolist()))
    )
    assert not torch.equal(first, second) and not torch.equal(first, known)
    assert torch.equal(data.at(5, B), Shards.open(folder, 32).at(5, B))  # a function of the step alone
    assert not torch.equal(data.at(5, B), replace(data, seed=1).at(5, B))


def test_the_last_shard_may_be_shorter_than_a_window(source, tok, folder, tmp_path):
    total = json.loads((folder / "metadata.json").read_text())["read"]
    shards(source, tmp_path, tok, shard_tokens=(total - 5) // 3)
    data = Shards.open(tmp_path, 32)
    assert [len(f) for f in data.files][-1] < 32 and set(data.starts[:, 0]) == {1, 2}
    shards(source, tmp_path / "two", tok, shard_tokens=total - 5)
    with pytest.raises(UserError, match="two of at least"):
        Shards.open(tmp_path / "two", 32)


def test_held_out_text_is_never_trained_on(folder):
    data = Shards.open(folder, 32)
    assert (data.starts[:, 0] > 0).all()
    first = np.fromfile(folder / "shard_0000.bin", "<u2")[:32].tolist()
    assert data.corpus.windows(32, 5)[0].tolist() == first


def test_a_truncated_shard_is_found_and_named_and_never_trained_on(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    whole = (copy / "shard_0002.bin").read_bytes()
    for damaged in (b"", whole[:100], whole[:-1]):
        (copy / "shard_0002.bin").write_bytes(damaged)
        with pytest.raises(UserError, match="shard_0002.bin.*truncated") as refused:
            Shards.open(copy, 32)
        assert "\n" not in str(refused.value)
    (copy / "shard_0002.bin").write_bytes(bytes([whole[0] ^ 1]) + whole[1:])  # as long as it should be
    Shards.open(copy, 32)
    with pytest.raises(UserError, match="shard_0002.bin.*sha256"):
        Shards.open(copy, 32, thorough=True)
    (copy / "shard_0002.bin").unlink()
    with pytest.raises(UserError, match="shard_0002.bin.*missing"):
        Shards.open(copy, 32)


def test_rates_counted_by_pairs_are_those_of_the_step(folder, tok):
    ids = Shards.open(folder, 32).corpus.train
    torch.testing.assert_close(by_pairs(ids, len(tok)), rates_by_type(ids, len(tok)))


@pytest.fixture
def job(folder, monkeypatch) -> grid.Job:
    """A run of seconds on the shards in `folder`, under the name of the large preset."""
    how = replace(grid.PRESETS["nano"].how, steps=12, batch_size=4, evals=2, checkpoints=2)
    net = dict(seq_len=32, n_layer=1, n_head=2, d_model=16, mlp="swiglu", tied=True)
    small = grid.Preset(str(folder), net, how, seeds=(0,), windows=8, samples=2)
    monkeypatch.setitem(grid.PRESETS, "fineweb-124m", small)
    runner.text.cache_clear()
    yield grid.jobs("fineweb-124m")[7]
    runner.text.cache_clear()


def test_a_run_on_shards_that_was_cut_off_ends_as_if_it_had_not_been(job, tmp_path):
    list(runner.work(job, tmp_path / "never"))
    lost = runner.work(job, tmp_path / "lost")
    next(record for record in lost if record.step == 9)
    lost.close()
    list(runner.work(job, tmp_path / "lost"))
    one, two = (json.loads((job.folder(tmp_path / n) / "done.json").read_text()) for n in ("never", "lost"))
    assert one["per_window"] == two["per_window"] and len(one["per_window"]) == 8


def test_no_run_begins_or_goes_on_with_a_truncated_shard(job, folder, tmp_path, monkeypatch):
    lost = runner.work(job, tmp_path / "lost")
    next(record for record in lost if record.step == 9)
    lost.close()
    steps = (job.folder(tmp_path / "lost") / "metrics.jsonl").read_text()
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "shard_0001.bin").write_bytes((copy / "shard_0001.bin").read_bytes()[:-2])
    monkeypatch.setitem(grid.PRESETS, "fineweb-124m", replace(grid.PRESETS["fineweb-124m"], data=str(copy)))
    for out in ("lost", "new"):
        runner.text.cache_clear()
        with pytest.raises(UserError, match="shard_0001.bin.*truncated"):
            list(runner.work(job, tmp_path / out))
    assert (job.folder(tmp_path / "lost") / "metrics.jsonl").read_text() == steps
    assert not (tmp_path / "new").exists()
