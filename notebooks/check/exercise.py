"""How an answer is judged: ask the learner's function, look at what it returns, name the mistake if it has a name.

    @exercise
    def alpha(mine):
        compare(tensor(ask(mine, t), t.shape), truth, {"that is the share hidden, not visible": 1 - truth})
        return "alpha(1/2) = 0.7071"                 # what to say when all is well

A check never raises: whatever goes wrong in the learner's code comes back as a hint.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from check.say import right, wrong

EMPTY = "There is no answer yet: replace the ... in the cell above and run it again."


class NotYet(Exception):
    """A hint: what is wrong, in the learner's terms."""


def exercise(judge: Callable[..., str]) -> Callable[..., bool]:
    """From a judge, which returns praise or raises NotYet, to a check, which prints either and returns a bool."""

    @functools.wraps(judge)
    def check(*answer) -> bool:
        try:
            return right(judge(*answer))
        except NotYet as hint:
            return wrong(str(hint))

    check.is_exercise = True
    return check


def ask(function: Callable, *args):
    """What the learner's function returns for these arguments, which it must leave as they are."""
    if function is None or function is ...:
        raise NotYet(EMPTY)
    if not callable(function):
        raise NotYet(f"Hand over the function itself, not a {type(function).__name__}: its name without brackets.")
    before = [a.clone() if isinstance(a, Tensor) else a for a in args]
    try:
        answer = function(*args)
    except Exception as e:
        raise NotYet(f"Your function stopped with {type(e).__name__}: {e}") from e
    if answer is None or answer is ...:
        raise NotYet(EMPTY)
    for a, b in zip(args, before, strict=True):
        if isinstance(a, Tensor) and not torch.equal(a, b):
            raise NotYet("Your function changes what it is given. Make a new tensor: masked_fill, not masked_fill_.")
    return answer


def tensor(answer, shape=(), what: str = "The answer") -> Tensor:
    """The answer in float64, if it is numbers of this shape."""
    if answer is None or answer is ...:
        raise NotYet(EMPTY)
    try:
        found = torch.as_tensor(answer).detach().double()
    except (TypeError, ValueError, RuntimeError) as e:
        raise NotYet(f"{what} should be numbers, and is of type {type(answer).__name__}.") from e
    if found.shape != torch.Size(shape):
        want = f"a tensor of shape {tuple(shape)}" if shape else "a single number"
        raise NotYet(f"{what} should be {want}, and has the shape {tuple(found.shape)}.")
    if found.isnan().any():
        raise NotYet(f"{what} holds nan: a 0 / 0, or 0 times an infinite logarithm.")
    return found


def pair(answer, *names: str) -> tuple:
    """The answer, if it is as many things as there are names."""
    if answer is None or answer is ...:
        raise NotYet(EMPTY)
    if not isinstance(answer, (tuple, list)) or len(answer) != len(names):
        raise NotYet(f"Return {len(names)} things, separated by commas: {', '.join(names)}.")
    if any(part is None or part is ... for part in answer):
        raise NotYet(EMPTY)
    return tuple(answer)


def near(found: Tensor, value, rtol: float = 1e-3, atol: float = 1e-6) -> bool:
    value = torch.as_tensor(value, dtype=torch.float64)
    return found.shape == value.shape and torch.allclose(found, value, rtol=rtol, atol=atol, equal_nan=True)


def compare(found: Tensor, truth, mistakes: dict[str, object], tell: str = "", rtol: float = 1e-3) -> None:
    """Nothing if `found` is the truth; else a hint: the mistake that gives this value, or what was expected.

    `tell`: what was asked, for the last resort, which shows both values; without it they stay secret."""
    if near(found, truth, rtol):
        return
    for hint, value in mistakes.items():
        if near(found, value, rtol):
            raise NotYet(hint)
    if tell:
        raise NotYet(f"{tell}: expected {short(truth)}, and your answer is {short(found)}.")
    high = "large" if found.sum() > torch.as_tensor(truth).sum() else "small"
    raise NotYet(f"{short(found)} is too {high}. The hint below the cell may help.")


def short(values) -> str:
    """A few numbers, to be read in a line."""
    flat = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    shown = " ".join("inf" if math.isinf(v) else f"{v:.4g}" for v in flat[:6])
    return shown + (" .." if len(flat) > 6 else "")
