"""The training loop as a generator: it yields one record a step, the caller keeps the for.

    for record in train(state, cfg, loss, corpus.batch, validate, run):
        print(record.step, record.loss)

Everything that decides the next step is in `State`, and a checkpoint is all of it: weights, optimizer, average,
random generators, position. So a run that was killed goes on bit for bit where its checkpoint left it.
"""

import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from microdlm.errors import UserError
from microdlm.likelihood import Estimate
from microdlm.parallel import add_up, agreed
from microdlm.runs import Run
from microdlm.state import State, TrainConfig, has_bfloat16
from microdlm.transformer import Transformer

STOP = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@dataclass(frozen=True)
class Record:
    """One step. Losses are in nats per token; `val` is a likelihood on held-out text, on validation steps only."""

    step: int
    tokens: int  # seen so far
    loss: float
    lr: float
    grad_norm: float
    seconds: float  # of this step, validation not counted
    val: float | None = None
    val_stderr: float | None = None


class Stopped(UserError):
    """The signal `by` asked the run to stop. All of it is saved, and it can go on."""

    def __init__(self, what: str, by: int):
        super().__init__(what)
        self.by = by


def wants_bfloat16(precision: str, device: str) -> bool:
    """float32, bfloat16, or auto: bfloat16 where it is fast."""
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))


def pick_device(name: str = "auto") -> str:
    """auto, cpu, cuda or cuda:N. (Apple's GPUs have no float64, which the samplers draw with.)"""
    cuda = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if cuda else "cpu"
    if name != "cpu" and not (cuda and re.fullmatch(r"cuda(:\d+)?", name)):
        raise UserError(f"device {name!r} is not one that this machine offers: give cpu{' or cuda' if cuda else ''}")
    return name


def learning_rate(step: int, cfg: TrainConfig) -> float:
    """Up a straight line, down half a cosine. `step` counts from 0."""
    rise = max(1, round(cfg.warmup * cfg.steps))
    if step < rise:
        return cfg.lr * (step + 1) / rise
    done = (step - rise) / max(1, cfg.steps - rise)
    return cfg.lr * (cfg.final_lr + (1 - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))


def autocast(cfg: TrainConfig, device: str) -> torch.autocast:
    """Matrix products in bfloat16 where the hardware multiplies it fast, or where it is asked for."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=wants_bfloat16(cfg.precision, device))


def update(state: State, cfg: TrainConfig, loss: Callable, x_0: Tensor) -> tuple[float, float, float]:
    """One step. Returns (loss, learning rate, gradient norm); a loss that is no number changes nothing."""
    lr = learning_rate(state.step, cfg)
    for group in (group for optimizer in state.optimizers for group in optimizer.param_groups):
        group["lr"] = lr
    state.model.train()
    state.model.zero_grad(set_to_none=True)
    with autocast(cfg, state.device):
        value = loss(state.model, x_0, state.rng)
    value.backward()
    add_up(value.detach(), *(p.grad for p in state.model.parameters()))  # of several processes, if there are
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), cfg.grad_clip)
    if not math.isfinite(value.item() + norm.item()):
        raise UserError(
            f"the loss is {value.item()} at step {state.step + 1} (gradient norm {norm.item():.3g}): training "
            "stopped, the last good checkpoint is kept; try a smaller --lr"
        )
    for optimizer in state.optimizers:
        optimizer.step()
    if state.average is not None:
        state.average.update_parameters(state.model)
    state.step += 1
    return value.item(), lr, norm.item()


def train(
    state: State,
    cfg: TrainConfig,
    loss: Callable[[Transformer, Tensor, torch.Generator], Tensor],
    batch: Callable[[int, int, torch.Generator], Tensor],
    validate: Callable[[Transformer], Estimate],
    run: Run,
) -> Iterator[Record]:
    """Train to cfg.steps, yielding a `Record` a step. `loss(model, x_0, rng)` is a scalar in nats per token,
    `batch(B, L, rng)` gives x_0 (B, L), `validate(model)` a likelihood on held-out text.

    The run's folder gets every record, a checkpoint now and then and at Ctrl-C, and the best weights by
    validation. UserError: the loss is not finite. Stopped: somebody stopped it.
    """
    if cfg.compile:
        state.model.compile()
    L = state.model.cfg.seq_len
    with interruptible() as interrupted:
        while state.step < cfg.steps:
            start = time.perf_counter()
            numbers = update(state, cfg, loss, batch(cfg.batch_size, L, state.rng).to(state.device))
            seconds = time.perf_counter() - start
            val = None
            if due(state.step, cfg.steps, cfg.evals):
                val = validate(state.weights.eval())
                keep_if_best(state, val, run)
            record = Record(
                state.step,
                state.step * cfg.batch_size * L,
                *numbers,
                seconds,
                *(val and (val.mean, val.stderr) or ()),
            )
            run.log(vars(record))
            if due(state.step, cfg.steps, cfg.checkpoints):
                run.save_checkpoint(state.tensors())
            yield record
            if (by := agreed(interrupted())) and state.step < cfg.steps:
                run.save_checkpoint(state.tensors())
                where = f"all saved in {run.folder}"
                said = f"stopped after step {state.step}, {where}: the same command with --resume goes on"
                raise Stopped(said, by)


def due(step: int, steps: int, times: int) -> bool:
    """True at `times` evenly spread steps, the last one among them."""
    return times > 0 and step * times // steps > (step - 1) * times // steps


def keep_if_best(state: State, val: Estimate, run: Run) -> None:
    if not math.isfinite(val.mean):
        raise UserError(
            f"validation gives {val.mean} after step {state.step}: training stopped, the last good checkpoint is kept; "
            "try a smaller --lr"
        )
    if val.mean < state.best:
        state.best = val.mean
        run.save_model(dict(state.weights.named_parameters()))


@contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Inside, the first Ctrl-C (or SIGTERM, or a cluster's SIGUSR1) only raises a flag, so that a step is never cut in
    half. The second one is meant."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # signals are the main thread's
        return
    asked = []

    def ask(signum, frame):
        asked.append(signum)
        for s, handler in before.items():
            signal.signal(s, handler)

    before = {s: signal.signal(s, ask) for s in STOP}
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
