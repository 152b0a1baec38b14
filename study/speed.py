"""How fast text becomes shards and shards become batches, on this machine: one file of numbers."""

import hashlib
import os
import tempfile
import time
from pathlib import Path

from microdlm.errors import UserError
from microdlm.runs import provenance
from microdlm.tokenizers import GPT2Tokenizer
from study.prepare import documents, prepare
from study.shards import Shards


def seconds(work, turns: int = 3) -> list[float]:
    """Of several turns, sorted: the least is what the machine can do, the rest what else was going on."""
    found = []
    for _ in range(turns):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return sorted(found)


def measure(source: str, B: int = 32, L: int = 1024) -> dict:
    """Tokens a second: tiktoken alone, `prepare` with one and with two processes, and the loader."""
    tok, texts = GPT2Tokenizer(), list(documents(source))
    tokens = sum(len(tok.encode(text)) + 1 for text in texts)
    if tokens < 4 * L:
        raise UserError(f"{source} has {tokens:,} tokens, too few to measure with: name a longer file")
    found = {"tiktoken alone": rates(tokens, seconds(lambda: [tok.encode(text) for text in texts]))}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            turns = iter(Path(folder) / f"{processes}-{i}" for i in range(3))

            def fresh(processes=processes, turns=turns):
                list(prepare(source, next(turns), tokens, tokens // 3, processes, tok))

            found[f"prepare, {processes} process{'es' * (processes > 1)}, their start included"] = rates(
                tokens, seconds(fresh)
            )
        shards, batches = Shards.open(Path(folder) / "1-0", L), 200
        read = seconds(lambda: [shards.at(step, B) for step in range(batches)])
        found[f"loader, batches of {B} x {L}"] = rates(batches * B * L, read)
    text = hashlib.sha256("".join(texts).encode()).hexdigest()
    of = {"name": Path(source).name, "sha256": text, "documents": len(texts), "tokens": tokens}
    return {"source": of, "tokens_per_second": found, "load": os.getloadavg()[0], "seed": 0, "made_by": provenance()}


def rates(tokens: int, turns: list[float]) -> dict:
    return {"best": tokens / turns[0], "median": tokens / turns[len(turns) // 2], "worst": tokens / turns[-1]}
