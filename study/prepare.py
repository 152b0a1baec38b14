"""Text to shards: documents, in the order of their source, as uint16 ids with END after each.

    data/fineweb-edu/shard_0000.bin      ids, little-endian uint16
                     shard_0000.ends     uint64: where in the shard each document ends
                     metadata.json       vocabulary, sizes, sha256 of every file; and where to go on

The first shard is held out. Files are written beside and renamed, metadata last: after a crash the same command goes
on with the first shard that metadata does not name, and the bytes are those of a run that was never cut off.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from microdlm.errors import UserError
from microdlm.runs import atomic, read_json, write_json
from microdlm.tokenizers import END, GPT2Tokenizer, TextTokenizer, tokenizer_from_json

FINEWEB = "fineweb-edu"  # HuggingFaceFW/fineweb-edu, sample-10BT
AHEAD = 4096  # documents that are read before they are needed
FORMAT = {"format": "microdlm-shards", "version": 1, "dtype": "uint16"}


def documents(source: str, skip: int = 0) -> Iterator[str]:
    """The texts of a source, the first `skip` left out. UserError, in one line: it cannot be read."""
    readers = {".txt": from_txt, ".jsonl": from_jsonl, ".parquet": from_parquet}
    path = Path(source).expanduser()
    if source == FINEWEB:
        return from_hub(skip)
    if not path.is_file() or path.suffix not in readers:
        raise UserError(f"{source} is not {FINEWEB} and no file that ends with {', '.join(readers)}: name one")
    return islice(utf8(path, readers[path.suffix](path)), skip, None)


def utf8(path: Path, texts: Iterator[str]) -> Iterator[str]:
    try:
        yield from texts
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text (byte {e.object[e.start]:#x}): save it again as UTF-8") from None


def from_txt(path: Path) -> Iterator[str]:
    """Documents are what END separates; without END, all of it is one."""
    held = ""
    with open(path, encoding="utf-8", newline="") as f:
        while block := f.read(1 << 20):
            *whole, held = (held + block).split(END)
            yield from whole
    yield held


def from_jsonl(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            try:
                yield json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f'{path}, line {number}: not JSON with a "text" in it') from None


def from_parquet(path: Path) -> Iterator[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        for batch in ParquetFile(path).iter_batches(columns=["text"]):
            yield from batch.column("text").to_pylist()
    except (ArrowException, KeyError, OSError) as e:
        raise UserError(f'{path} is not parquet with a column "text" ({" ".join(str(e).split())[:80]})') from None


def from_hub(skip: int) -> Iterator[str]:
    from datasets import load_dataset

    try:
        rows = load_dataset("HuggingFaceFW/fineweb-edu", name="sample-10BT", split="train", streaming=True)
        for row in rows.skip(skip):
            yield row["text"]
    except OSError as e:  # what `datasets` and requests raise without a network
        raise UserError(f"FineWeb-Edu cannot be fetched ({type(e).__name__}): go online, or name a local file") from e


def tokenise(tok: TextTokenizer, text: str) -> tuple[np.ndarray, int]:
    """A document's ids with END, and how many characters it had. END inside of it is a mistake, and dropped."""
    text = text.replace(END, "")
    return np.asarray([*tok.encode(text), tok.end_id], dtype=np.uint16), len(text)


_TOKENIZER: list[TextTokenizer] = []  # of a worker process


def _start(data: dict) -> None:
    _TOKENIZER[:] = [tokenizer_from_json(data)]


def _work(text: str) -> tuple[np.ndarray, int]:
    return tokenise(_TOKENIZER[0], text)


def tokenised(texts: Iterator[str], tok: TextTokenizer, processes: int) -> Iterator[tuple[np.ndarray, int]]:
    """In order, whatever the number of processes."""
    if processes <= 1:
        yield from (tokenise(tok, text) for text in texts)
        return
    texts = iter(texts)
    with get_context("spawn").Pool(processes, _start, (tok.to_json(),)) as pool:
        # Some at a time: left to itself, a pool reads the whole source before its first answer is taken.
        while some := list(islice(texts, AHEAD)):
            yield from pool.imap(_work, some, chunksize=32)


def prepare(
    source: str,
    out: Path,
    tokens: int = 1_000_000_000,
    shard_tokens: int = 100_000_000,
    processes: int = 1,
    tok: TextTokenizer | None = None,
) -> Iterator[int]:
    """Write shards until `tokens` are there or the source ends; yields how many there are after each shard.
    Called again, it goes on. UserError: the source cannot be read, or the folder was started with something else."""
    tok = tok or GPT2Tokenizer()
    if len(tok) >= 2**16 or tok.end_id is None:
        raise UserError(f"a vocabulary of {len(tok)} ids does not do: shards need END, and ids below 65,536")
    meta = opened(out, {"source": source, "shard_tokens": shard_tokens, "tokenizer": tok.to_json()})
    have, at = sum(s["tokens"] for s in meta["shards"]), meta["next"]
    texts, begun = documents(source, at["document"]), at["token"]
    held, ends, size = [], [], 0
    for ids, characters in tokenised(texts, tok, processes):
        meta["characters"] += 0 if begun else characters
        meta["read"] += 0 if begun else len(ids)
        while have < tokens and size + len(ids) - begun >= shard_tokens:
            part = ids[begun : begun + shard_tokens - size]
            begun += len(part)
            at["token"] = begun
            add(out, meta, [*held, part], ends + [shard_tokens] * (begun == len(ids)))
            have, held, ends, size = have + shard_tokens, [], [], 0
            yield have
        if have >= tokens:
            return
        if begun < len(ids):
            held.append(ids[begun:])
            size += len(ids) - begun
            ends.append(size)
        at["document"], begun, at["token"] = at["document"] + 1, 0, 0
    if size:
        add(out, meta, held, ends)
        yield have + size


def opened(out: Path, asked: dict) -> dict:
    """The metadata of a folder, new or to go on with."""
    path = out / "metadata.json"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        empty = {"shards": [], "next": {"document": 0, "token": 0}, "characters": 0, "read": 0}
        return FORMAT | json.loads(json.dumps(asked)) | empty
    meta = read_json(path)
    for key, value in json.loads(json.dumps(asked)).items():
        if meta.get(key) != value:
            raise UserError(f"{out} was begun with another {key}: go on with the same, or choose another folder")
    return meta


def add(out: Path, meta: dict, parts: list[np.ndarray], ends: list[int]) -> None:
    """One more shard, and metadata that knows it."""
    name, ids = f"shard_{len(meta['shards']):04}", np.concatenate(parts)
    shard = {"file": f"{name}.bin", "tokens": len(ids), "documents": len(ends)}
    for suffix, array in ((".bin", ids.astype("<u2")), (".ends", np.asarray(ends, dtype="<u8"))):
        with atomic(out / (name + suffix)) as beside:
            array.tofile(beside)
        shard["sha256" + suffix] = hashlib.sha256(array.tobytes()).hexdigest()
    meta["shards"].append(shard)
    write_json(out / "metadata.json", meta)
