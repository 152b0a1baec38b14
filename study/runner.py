"""One run, from wherever it was left to its score. Nothing here knows who started it or on what machine."""

from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import torch

from microdlm.corpus import Corpus, load_corpus
from microdlm.errors import UserError
from microdlm.likelihood import Estimate, cross_entropy_curve, estimate_nelbo
from microdlm.masking import mask_tokens, stratified
from microdlm.parallel import agreed, rank, ranks
from microdlm.runs import ROOT, Run
from microdlm.state import State, describe
from microdlm.training import Stopped, train
from microdlm.transformer import Transformer, TransformerConfig
from steps.step7_schedule_study import EXPONENTS, MASKINGS, bound, exam
from study import parts
from study.grid import PRESETS, Job, folder_of
from study.hardness import readiness
from study.shards import Shards

masks = partial(torch.Generator().manual_seed, 7)  # the same for every run: common random numbers


@cache
def text(preset: str) -> tuple[Corpus, Shards | None]:
    """The corpus of a preset, and its shards if it is large."""
    size = PRESETS[preset]
    if (folder := ROOT / size.data).is_dir():
        shards = Shards.open(folder, size.net["seq_len"])
        return shards.corpus, shards
    return load_corpus(size.data, size.tokenizer, min_length=size.net["seq_len"], n_chars=size.n_chars), None


def work(job: Job, out: Path, device: str = "cpu", accumulate: int = 1):
    """Train (or go on) and score, yielding every record of the training. Stopped: somebody stopped it, all is saved.
    A run that breaks is kept as failed, with its reason. Processes that are together share each batch, and each works
    its part off in `accumulate` parts; only the first writes."""
    parts.check(accumulate, job.how.batch_size)
    size, (corpus, shards) = PRESETS[job.preset], text(job.preset)
    c, hardness = readiness(folder_of(job.preset, out), corpus)
    mask_id, folder, c = len(corpus.tokenizer), job.folder(out), c.to(device)
    net = TransformerConfig(mask_id + 1, **size.net)
    asked = describe("diffusion", net, job.how, corpus) | {"preset": job.preset, "arm": asdict(job.arm)}
    asked |= {"hardness": hardness}
    run = opened(folder, asked)
    state = State(Transformer(net, torch.Generator().manual_seed(job.seed)), job.how, device)
    state.restore(run)
    x_0 = corpus.windows(net.seq_len, size.windows).to(device)
    some = x_0[:: max(1, len(x_0) // 64)]
    loss = partial(parts.loss, job.arm, c, mask_id, accumulate)

    def validate(model):
        return estimate_nelbo(model, some, mask_id, 4, masks())

    batch = shards.following(state, job.seed) if shards else corpus.batch
    try:
        yield from train(state, job.how, loss, batch, validate, run)
    except Stopped:
        raise
    except UserError as e:
        run.finish({"failed": str(e), "steps": state.step})
        return
    how = {"steps": state.step, "processes": ranks(), "accumulate": accumulate}
    run.finish(how | score(state.weights.eval(), job, x_0, mask_id, c))


def opened(folder: Path, asked: dict) -> Run:
    """The run, new or to go on with. The first process opens it; if it must not, none of them goes on."""
    run, why = parts.Onlooker(folder), None
    if rank() == 0:
        try:
            run = Run.open(folder, asked, resume=(folder / "config.json").exists())
        except UserError as e:
            why = e
    if agreed(int(why is not None)):
        raise why or UserError("the first process could not start, and says why")
    return run


def score(model, job: Job, x_0, mask_id: int, c) -> dict:
    """The one score of PLAN.md and what stands beside it. Nats per token; the score is kept window by window."""
    size, L = PRESETS[job.preset], x_0.size(1)
    nelbo = estimate_nelbo(model, x_0, mask_id, size.samples, masks())
    counts = torch.linspace(1, L, 9).round().long()
    curve = cross_entropy_curve(model, x_0[:128], mask_id, counts, 1, masks())
    beside = {"own_exam": exam(job.arm, c, mask_id, model, x_0[:128], masks())}
    if job.arm.weight == "exact":
        own = own_bound(model, job.arm.masking, x_0, mask_id, c, size.samples)
        beside |= {"own_bound": own.mean, "own_bound_stderr": own.stderr}
    return {
        "nelbo": nelbo.mean,
        "stderr": nelbo.stderr,
        "per_window": [round(v, 6) for v in nelbo.per_sequence.tolist()],
        "curve": {"k": counts.tolist(), "mean": curve.mean.tolist(), "stderr": curve.stderr.tolist()},
        **beside,
    }


@torch.no_grad()
def own_bound(model, masking: str, x_0, mask_id: int, c, samples: int) -> Estimate:
    """The bound of the run's own masking process (step 7, `bound`), t = part^3 so that its error bar is honest."""
    rng, w, draws = masks(), EXPONENTS[masking](c), []
    for part in stratified(samples, len(x_0), rng=rng).double().clamp(min=1e-3).to(x_0.device):
        rate = MASKINGS[masking]((part**3)[:, None], c)
        x_t, is_masked = mask_tokens(x_0, 1 - rate.gather(1, x_0), mask_id, rng)
        draws.append(bound(model, x_0, x_t, is_masked, rate, 3 / part, w, mask_id))
    return Estimate.of(torch.stack(draws))
