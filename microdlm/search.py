"""A search: variants of one base, each trained with a few seeds, and compared with the base seed by seed.

Stopped, it goes on where it was: what has run stands in the file. `factors` is the plan, factor -> variant -> what it
changes; the base is the variant "base". First, the losses that several measurements train: (model, x_0 (B, L), rng) ->
a scalar, nats per token.
"""

import math
import statistics
import time
from collections.abc import Callable, Container, Iterable
from itertools import zip_longest
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Int
from rich.progress import track
from rich.table import Table
from torch import Tensor

from microdlm.corpus import Corpus
from microdlm.errors import UserError
from microdlm.likelihood import estimate_nelbo
from microdlm.masking import mask_count, mask_tokens, stratified, to_count, uniform
from microdlm.objectives import count_nelbo, masked_nll, next_token_nll
from microdlm.runs import provenance, read_json, write_json
from microdlm.state import State, TrainConfig
from microdlm.terminal import console
from microdlm.training import update

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's: half a 95 % interval in standard errors, by seeds


def in_counts(model, x_0, rng):
    """The bound in counts, as diffusion.py trains it: counts of hidden tokens are spread evenly over the batch."""
    nll, is_masked = _hidden_in_counts(model, x_0, rng)
    return count_nelbo(nll, is_masked).mean()


def ratio_in_counts(model, x_0, rng):
    """The same masks, and the mean over all hidden tokens of the batch: no bound, texts with many weigh more."""
    nll, is_masked = _hidden_in_counts(model, x_0, rng)
    return nll.sum() / is_masked.sum()


def _hidden_in_counts(model, x_0, rng):
    k, mask_id = to_count(stratified(len(x_0), rng=rng, device=x_0.device), x_0.size(1)), model.cfg.vocab_size - 1
    x_t, is_masked = mask_count(x_0, k, mask_id, rng)
    return masked_nll(model, x_0, x_t, is_masked, mask_id), is_masked


def ratio_in_time(model, x_0, rng):
    """What one would write first: each token hidden with probability t, the mean over all that are hidden."""
    t, mask_id = uniform((len(x_0),), x_0.device, rng), model.cfg.vocab_size - 1
    x_t, is_masked = mask_tokens(x_0, 1 - t, mask_id, rng)
    return masked_nll(model, x_0, x_t, is_masked, mask_id).sum() / is_masked.sum().clamp(min=1)


def left_to_right(model, x_0, rng):
    """A GPT's, exactly -log p; nothing is drawn."""
    return next_token_nll(model(x_0), x_0).mean()


def unigram(corpus: Corpus) -> float:
    """Nats per held-out token of what knows only how frequent each is in the training text (and one more)."""
    counts = torch.bincount(corpus.train, minlength=len(corpus.tokenizer)).double() + 1
    return -(counts / counts.sum()).log()[corpus.val].mean().item()


def trained(
    label: str, state: State, how: TrainConfig, loss: Callable, batch: Callable, x_0: Int[Tensor, "B L"], samples: int
) -> dict:
    """Train to the end on what `batch(rng)` gives; then the bound on held-out windows x_0, with the same masks for
    everyone, nats per token."""
    start, same_masks = time.perf_counter(), torch.Generator().manual_seed(0)
    for _ in track(range(how.steps), label, console=console, transient=True):
        update(state, how, loss, batch(state.rng).to(state.device))
    seconds, mask_id = time.perf_counter() - start, state.model.cfg.vocab_size - 1
    score = estimate_nelbo(state.weights.eval(), x_0.to(state.device), mask_id, samples, same_masks, given=1)
    return {"nelbo": score.mean, "stderr_over_windows": score.stderr, "steps": how.steps, "seconds": seconds}


def paired(runs: list[dict], base: list[dict]) -> dict:
    """Mean over seeds of the differences to the base, with its standard error; negative is better."""
    of = {r["seed"]: r["nelbo"] for r in base}
    d = [r["nelbo"] - of[r["seed"]] for r in runs if r["seed"] in of]
    if len(d) < 2:
        return {}
    error = statistics.stdev(d) / math.sqrt(len(d))
    return {"difference": statistics.mean(d), "stderr": error, "clear": abs(statistics.mean(d)) > T_95[len(d)] * error}


def summary(runs: list[dict], factors: dict[str, dict]) -> list[dict]:
    """One row a variant, in the order of the plan; those that have not run are left out."""
    rows = []
    for factor, variants in factors.items():
        for name in variants:
            mine = [r for r in runs if r["variant"] == name]
            if mine:
                row = {"factor": factor, "variant": name, "seeds": [r["seed"] for r in mine]}
                row["nelbo"] = statistics.mean(r["nelbo"] for r in mine)
                rows.append(row | paired(mine, [r for r in runs if r["variant"] == "base" != name]))
    return rows


def table(rows: list[dict]) -> Table:
    t = Table("recipe", "nats per character", "against the base", "seeds")
    for r in rows:
        against = f"{r['difference']:+.4f} ± {r['stderr']:.4f}{' *' * r['clear']}" if "difference" in r else ""
        t.add_row(r["variant"], f"≤ {r['nelbo']:.4f}", against, str(len(r["seeds"])))
    return t


def search(
    out: Path,
    setting: dict,
    factors: dict[str, dict],
    seeds: Iterable[int],
    run: Callable[[str, int], dict],
    only: Container[str] = (),
) -> None:
    """Run what `out` does not hold yet, first one variant of each factor; only these variants, if any are named: the
    others are left to another process, which may write to the same file. `run(variant, seed)` gives at least nelbo and
    seconds. UserError: what `out` holds was made under another `setting`."""
    made = {"made_by": provenance()}

    def known() -> list[dict]:
        numbers = read_json(out) if out.exists() else {"runs": []}
        if numbers["runs"] and any(numbers.get(name) != value for name, value in setting.items()):
            raise UserError(f"{out} holds runs of another size or length: give another --out")
        return numbers["runs"]

    rounds = [name for names in zip_longest(*factors.values()) for name in names if name and (not only or name in only)]
    for name, seed in ((name, seed) for name in rounds for seed in seeds):
        if (name, seed) not in {(r["variant"], r["seed"]) for r in known()}:
            found = {"variant": name, "seed": seed, **run(name, seed), **made}
            console.print(f"{name}, seed {seed}: ≤ {found['nelbo']:.4f}, {found['seconds']:.0f} s")
            with FileLock(out.with_suffix(".lock")):
                runs = [*known(), found]
                left = [v for variants in factors.values() for v in variants if v not in {r["variant"] for r in runs}]
                numbers = {"summary": summary(runs, factors), "not_run": left}
                write_json(out, {**setting, "seed": list(seeds)[0], **numbers, "runs": runs, **made})
    console.print(table(summary(known(), factors)))
