"""One model, several processes: each takes some rows of every batch, and what they find is added up.

torchrun or srun starts them and says in the environment who is who. All have the same weights, draw the same numbers
and take the same steps, so gradients are all that they tell each other. Alone, nothing here does anything.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def together() -> Iterator[None]:
    """Inside, processes that were started together know of each other, and each has its own GPU if there are any."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if cuda := torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Which of them this is. The first, 0, is the one that writes."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def ranks() -> int:
    """How many they are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def add_up(*tensors: Tensor) -> None:
    """Each tensor becomes, in place, its sum over all processes."""
    if ranks() > 1:
        for sent in [dist.all_reduce(x, async_op=True) for x in tensors]:
            sent.wait()


def agreed(flag: int) -> int:
    """The highest flag of all. A signal comes to one earlier than to another: if each stopped by its own, the others
    would wait for it for ever."""
    highest = torch.tensor(flag)
    if ranks() > 1:
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    return int(highest)
