"""A batch in parts: processes take them side by side, and each takes its own one after the other.

The noise of a batch is drawn whole, by every process alike, and what a loss is divided by is counted whole. So how a
batch is cut changes nothing but the order in which numbers are added.
"""

import torch

from microdlm.errors import UserError
from microdlm.objectives import masked_nll
from microdlm.parallel import rank, ranks
from microdlm.runs import Run
from steps.step7_schedule_study import EXPONENTS, bound, hide


def exact(arm, c, mask_id: int, model, part: list, whole: list):
    """Step 7's exact_loss, as much of it as comes from the rows of `part`."""
    return bound(model, *part, EXPONENTS[arm.masking](c), mask_id).sum() / len(whole[0])


def plain(arm, c, mask_id: int, model, part: list, whole: list):
    """Likewise of its plain_loss, which divides by the number of masked tokens."""
    x_0, x_t, is_masked, *_ = part
    return masked_nll(model, x_0, x_t, is_masked, mask_id).sum() / whole[2].sum().clamp(min=1)


PARTS = {"exact": exact, "plain": plain}


def loss(arm, c, mask_id: int, accumulate: int, model, x_0, rng):
    """Step 7's loss of a batch x_0 (B, L), or what this process has of it, in `accumulate` parts. The gradients of all
    but the last part are taken here, so that one at a time is in memory."""
    whole, n, done = [x_0, *hide(arm, x_0, c, mask_id, rng)], ranks() * accumulate, 0.0
    for k in range(rank(), n, ranks()):
        part = [v[k::n] for v in whole]  # noise levels rise from row to row: this way each part has all of them
        value = PARTS[arm.weight](arm, c, mask_id, model, part, whole)
        if k + ranks() < n:
            with torch.autocast(x_0.device.type, enabled=False):
                value.backward()
            value = value.detach()
        done = done + value
    return done


def check(accumulate: int, B: int) -> None:
    """UserError: there are not enough rows for so many parts."""
    if not 1 <= accumulate * ranks() <= B:
        several = f" by each of {ranks()} processes" * (ranks() > 1)
        raise UserError(f"a batch of {B} rows cannot be cut into {accumulate} parts{several}: choose fewer, at least 1")


class Onlooker(Run):
    """A run as all processes but the first have it: they read what the first one writes."""

    def log(self, _) -> None:
        pass

    save_checkpoint = save_model = rewind = finish = log
