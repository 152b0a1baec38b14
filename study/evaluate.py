"""What the bound does not say of a run: what it writes, who finds that likely, and how it does on other text.

Every finished run writes from a blank page, with the same sampler, settings and random numbers, drawn in float64. A
judge reads it. Few nats alone mean little ("the the the" costs least), so the entropy of the same texts stands beside
them, and held-out text, read by the same judge, stands beside both: that is the goal, not zero. Weights: those after
the last step, which are the ones that `analyse` scores.
"""

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from rich.progress import track
from torch import Tensor

from microdlm.cli import one_of
from microdlm.diversity import average, entropy, interval, leave_one_out, ratio, tally
from microdlm.errors import UserError
from microdlm.likelihood import estimate_nelbo
from microdlm.pretrained import LanguageModel, fill, load
from microdlm.runs import provenance, read_json, read_tensors, write_json
from microdlm.samplers import SAMPLERS
from microdlm.terminal import console
from microdlm.tokenizers import TextTokenizer
from microdlm.training import pick_device
from study.analyse import collect, trained_by
from study.grid import PRESETS, Job, jobs
from study.judges import HUB, Evaluate, pick
from study.report import stem
from study.runner import masks, text

SETTINGS = ("sampler", "num_steps", "temperature", "texts", "batch", "seed", "windows", "mauve")


def last_weights(folder: Path, device: str = "cpu") -> LanguageModel:
    """The run's model after its last step; the file that `load` reads has the best by validation."""
    lm, flat = load(folder, device), read_tensors(folder / "checkpoint.safetensors")
    if int(flat["step"]) != read_json(folder / "done.json")["steps"]:
        raise UserError(f"{folder} is finished and its checkpoint is of step {int(flat['step'])}: run it again")
    prefix = "average." if "averaged" in flat else "model."
    fill(lm.model, {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}, folder)
    return lm


def write(lm: LanguageModel, ask: Evaluate) -> Int[Tensor, "B L"]:
    """ask.texts texts from a blank page."""
    done = []
    for i in range(0, ask.texts, ask.batch):
        x = lm.canvas("", n=min(ask.batch, ask.texts - i))
        *_, x = lm.write(x, ask.sampler, ask.seed + i, num_steps=ask.num_steps, temperature=ask.temperature)
        done.append(x.cpu())
    return torch.cat(done)


def read(x: Int[Tensor, "B L"], tok: TextTokenizer, judge) -> dict[str, dict]:
    """What texts are like; `judge` is in nats per token of the judge, its exp is the generative perplexity."""
    texts = [tok.decode(row) for row in x]
    fours = [[t[i : i + 4] for i in range(len(t) - 3)] for t in texts]
    found = {
        "judge": leave_one_out(ratio, judge.nats(texts)),
        "entropy": leave_one_out(entropy, tally(fours)),  # of 4-grams of characters, over all texts
        "text_entropy": average([entropy(np.bincount(row)) for row in x.numpy()]),  # of tokens, within a text
        **{name: leave_one_out(ratio, counts) for name, counts in judge.beside(texts).items()},
    }
    return {name: interval(*pair) for name, pair in found.items()}


def mauve(ours: np.ndarray, real: np.ndarray, seeds: int = 3) -> dict:
    """MAUVE (2102.01454) of two sets of features, by mauve-text. `sd` is that of its k-means alone."""
    try:
        from mauve import compute_mauve
    except ImportError:
        raise UserError("--mauve needs mauve-text: pip install mauve-text") from None
    found = [compute_mauve(p_features=ours, q_features=real, seed=s, verbose=False).mauve for s in range(seeds)]
    return {"value": float(np.mean(found)), "sd": float(np.std(found, ddof=1)), "texts": len(ours)}


def wikitext(ask: Evaluate, tok: TextTokenizer, L: int) -> Int[Tensor, "n L"] | None:
    """Disjoint windows of WikiText-2 raw's test text, evenly spread; None if it was not asked for."""
    if not ask.wikitext:
        return None
    raw = fetch() if ask.wikitext == HUB else Path(ask.wikitext)
    try:
        raw = raw if isinstance(raw, str) else raw.read_text(encoding="utf-8")
    except (OSError, ValueError) as e:
        raise UserError(f"{ask.wikitext} cannot be read ({type(e).__name__}): name wiki.test.raw, or hub") from None
    ids = torch.tensor(tok.encode(raw))
    n = min(total := len(ids) // L, ask.windows)
    if not n:
        raise UserError(f"{ask.wikitext} has {len(ids)} tokens and a window needs {L}")
    return ids[: total * L].view(total, L)[torch.arange(n) * total // n]


def fetch() -> str:
    try:
        from datasets import load_dataset

        return "".join(load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="test")["text"])
    except (ImportError, OSError) as e:
        raise UserError(f"WikiText-2 cannot be fetched ({type(e).__name__}): name a file with --wikitext") from None


def measure(job: Job, ask: Evaluate, judge, real: np.ndarray | None, other, device: str) -> dict:
    """One run. `real`: features of held-out text, for MAUVE; `other`: windows of WikiText-2."""
    lm = last_weights(job.folder(ask.out), device)
    x = write(lm, ask)
    found = read(x, lm.tokenizer, judge)
    if other is not None:
        e = estimate_nelbo(lm.model, other.to(device), lm.mask_id, PRESETS[job.preset].samples, masks())
        found["wikitext"] = {"value": e.mean, "stderr": e.stderr}  # nats per token, an upper bound
    if real is not None:
        found["mauve"] = mauve(judge.features([lm.tokenizer.decode(row) for row in x]), real)
    return found | {"sample": lm.tokenizer.decode(x[0])}


def kept(folder: Path, settings: dict, make: Callable[[], dict]) -> dict:
    """What `make` makes, kept in the run's folder: the same call, stopped, goes on where it was."""
    weights = sha256((folder / "checkpoint.safetensors").read_bytes()).hexdigest()
    path, settings = folder / "samples.json", settings | {"weights": weights}
    old = read_json(path) if path.exists() else {}
    if old.get("settings") != settings:
        write_json(path, old := {"settings": settings, "found": make()})
    return old["found"]


def evaluate(ask: Evaluate) -> Path:
    """All numbers, into a file; its path."""
    one_of(ask.sampler, SAMPLERS, "sampler")
    path = ask.results / f"{stem(ask.preset, ask.grid)}_samples.json"
    made_by, device = provenance(), pick_device(ask.device)
    found, lost = collect(jobs(ask.preset, ask.grid, ask.seeds), ask.out)
    if not found:
        raise UserError(f"{ask.out / ask.preset} has no finished run: python -m study run --preset {ask.preset}")
    corpus, L = text(ask.preset)[0], PRESETS[ask.preset].net["seq_len"]
    judge, other = pick(ask.judge, corpus.name, device), wikitext(ask, corpus.tokenizer, L)
    x_0 = corpus.windows(L, ask.texts)
    if len(x_0) < ask.texts:
        raise UserError(f"there are {len(x_0)} held-out windows to compare with: ask for so many texts at most")
    real = judge.features([corpus.tokenizer.decode(row) for row in x_0]) if ask.mauve else None
    settings = {name: getattr(ask, name) for name in SETTINGS}
    settings |= {"judge": judge.name, "wikitext": Path(ask.wikitext).name}
    runs = []
    for job, done in track(found.items(), "writing and judging", console=console):
        row = kept(job.folder(ask.out), settings, partial(measure, job, ask, judge, real, other, device))
        arm = {"schedule": job.arm.schedule, "masking": job.arm.masking, "seed": job.seed}
        runs.append(arm | {"nelbo": done["nelbo"]} | row)
    numbers = {"preset": ask.preset, "grid": ask.grid, **settings, "real_text": read(x_0, corpus.tokenizer, judge)}
    numbers |= {"arms": by_arm(runs), "rank_correlation": rank_correlation(runs), "runs": runs, "lost": lost}
    numbers["trained_by"] = trained_by([job.folder(ask.out) for job in found])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, numbers | {"made_by": made_by})
    return path


def by_arm(runs: list[dict]) -> list[dict]:
    """Means over seeds. `stderr` is of the training where there are seeds, else of the texts."""
    arms: dict[tuple, list[dict]] = {}
    for run in runs:
        arms.setdefault((run["schedule"], run["masking"]), []).append(run)
    rows = []
    for (schedule, masking), mine in arms.items():
        names = [k for k, v in mine[0].items() if isinstance(v, dict) and "value" in v]
        rows.append({"schedule": schedule, "masking": masking} | {k: mean([run[k] for run in mine]) for k in names})
    return rows


def mean(values: list[dict]) -> dict:
    at = np.array([v["value"] for v in values])
    error = at.std(ddof=1) / len(at) ** 0.5 if len(at) > 1 else values[0].get("stderr", values[0].get("sd"))
    return {"value": float(at.mean()), "stderr": float(error), "seeds": at.tolist()}


def rank_correlation(runs: list[dict]) -> float | None:
    """Spearman's, over runs, of the bound and the judge: do likelier models write likelier texts?"""
    if len(runs) < 3:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr([r["nelbo"] for r in runs], [r["judge"]["value"] for r in runs]).statistic)
