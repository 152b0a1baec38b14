"""A text while it is written: every state, when it was reached, and what it had cost by then.

A recording is plain data. The terminal plays it, the page plays it, and a test counts it; what a model wrote and what
it cost are measured once, here, whatever then shows them.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from microdlm.cost import CountForwards, now
from microdlm.errors import UserError
from microdlm.objectives import without_mask
from microdlm.pretrained import LanguageModel
from microdlm.runs import provenance, read_json, write_json

FORMAT, VERSION = "microdlm-recording", 1
Token = str | None  # None is MASK


@dataclass(frozen=True)
class Step:
    """One state: what changed, and totals since the start."""

    seconds: float
    passes: int
    read: int  # token-forwards: positions in those passes
    at: list[int]  # which positions changed
    to: list[Token]  # what stands there now; None: masked again
    p: list[float | None]  # how probable the model held it, at temperature 1


@dataclass(frozen=True)
class Lane:
    """One model that writes one text."""

    name: str
    kind: str  # diffusion or gpt
    model: str
    parameters: int
    sampler: str
    num_steps: int
    start: list[Token]
    steps: list[Step]
    judge: dict | None = None  # {"model", "nats_per_char", "held_out"}: see `judged`

    def state(self, i: int) -> tuple[list[Token], list[float | None]]:
        """The text after i steps, and how probable each of its tokens was held."""
        text, p = list(self.start), [None] * len(self.start)
        for step in self.steps[:i]:
            for at, token, sure in zip(step.at, step.to, step.p, strict=True):
                text[at], p[at] = token, sure
        return text, p

    @property
    def written(self) -> str:
        return "".join(token or "" for token in self.state(len(self.steps))[0])


@dataclass(frozen=True)
class Recording:
    """Lanes that began with the same text."""

    prompt: str
    length: int  # tokens, the prompt included
    temperature: float
    seed: int
    lanes: list[Lane]
    made_by: dict = field(default_factory=provenance)

    def save(self, path: Path) -> None:
        write_json(path, {"format": FORMAT, "version": VERSION, **asdict(self)})


def load_recording(path: Path) -> Recording:
    """What `save` wrote. UserError, in one line: anything else."""
    if not path.is_file():
        raise UserError(f"there is no recording {path}: make one with visualize.py --save {path.stem or 'race'}.json")
    data = read_json(path)
    try:
        if (data.pop("format"), data.pop("version")) != (FORMAT, VERSION):
            raise ValueError("another format")
        lanes = [Lane(**lane | {"steps": [Step(**step) for step in lane["steps"]]}) for lane in data.pop("lanes")]
        recording = Recording(**data, lanes=lanes)
        if not lanes or not all(sound(lane) for lane in lanes) or not whole(recording):
            raise ValueError("its steps do not fit its text")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
        raise UserError(f"{path} is not a recording of this program ({e!s:.80}): make one with --save") from None
    return recording


# What a file may hold is told to a terminal: a name must be printable, a number a number.


def whole(recording: Recording) -> bool:
    """The settings are what they are called, and so is what each lane is called and was judged."""
    counts = all(isinstance(n, int) for n in (recording.length, recording.seed))
    named = [name for lane in recording.lanes for name in (lane.name, lane.model, lane.sampler)]
    for judge in (lane.judge for lane in recording.lanes if lane.judge is not None):
        named.append(judge["model"])
        counts = counts and math.isfinite(judge["nats_per_char"]) and math.isfinite(judge["held_out"] or 0)
    kinds = all(lane.kind in ("diffusion", "gpt") for lane in recording.lanes)
    names = all(isinstance(name, str) and name.isprintable() for name in named)
    return counts and kinds and names and isinstance(recording.prompt, str) and math.isfinite(recording.temperature)


def sound(lane: Lane) -> bool:
    """There is a text and somebody wrote it. Every change lies in it, is a token or None, and no total ever falls."""
    totals = [(0, 0, 0), *((s.seconds, s.passes, s.read) for s in lane.steps)]
    grows = all(b >= a for before, after in pairwise(totals) for a, b in zip(before, after, strict=True))
    counts = all(isinstance(n, int) for s in lane.steps for n in (s.passes, s.read, *s.at))
    tokens = all(isinstance(t, str | None) for s in [lane.start, *(s.to for s in lane.steps)] for t in s)
    places = all(0 <= at < len(lane.start) for s in lane.steps for at in s.at)
    shares = all(p is None or 0 <= p <= 1 for s in lane.steps for p in s.p)
    grows = grows and all(math.isfinite(total) for total in totals[-1])
    lengths = all(len(s.at) == len(s.to) == len(s.p) for s in lane.steps) and lane.start and lane.steps
    return bool(grows and counts and tokens and places and shares and lengths)


class Witness(CountForwards):
    """Counts, and remembers what it was last asked and said."""

    def __call__(self, x: Int[Tensor, "B L"], at=None, **options):
        logits = super().__call__(x, at=at, **options)
        self.asked, self.said = at, logits
        return logits

    def probability(self, position: int, token: int, mask_id: int) -> float | None:
        """How probable `token` was held at this position of the window, MASK being no token (SUBS); None if that was
        not asked last."""
        row = (self.asked == position).nonzero() if not self.causal else torch.zeros(1, 1, dtype=torch.long)
        if not len(row):
            return None
        return without_mask(self.said[row[0, 0]].double(), mask_id).softmax(-1)[token].item()


def record(lm: LanguageModel, x: Int[Tensor, "1 L"], sampler: str, num_steps: int, seed: int, **how) -> Iterator[Step]:
    """Write x and yield a `Step` for each state. Only the writing is on the clock, and a model that has warmed up."""
    witness = Witness(lm.model)
    watched, how = replace(lm, model=witness), how | {"sampler": sampler, "num_steps": num_steps, "seed": seed}
    next(lm.write(x, **how))  # what a first pass costs more is nobody's fault
    states, before, seconds = watched.write_windows(x, **how), x, 0.0
    while True:
        start = now(x.device)
        window, after = next(states, (0, None))
        seconds += now(x.device) - start
        if after is None:
            return
        at = (after != before)[0].nonzero().squeeze(1).tolist()
        ids = after[0, at].tolist()
        to = [None if i == lm.mask_id else lm.tokenizer.decode([i]) for i in ids]
        p = [
            None if i == lm.mask_id else witness.probability(place - window, i, lm.mask_id)
            for place, i in zip(at, ids, strict=True)
        ]
        yield Step(seconds, witness.passes, witness.token_forwards, at, to, p)
        before = after


def judged(judge: LanguageModel, name: str, lane: Lane) -> dict | None:
    """Nats per character of what was written, the mean over its characters, given all that stands to their left in the
    judge's window (at least half of it, once there is that much). None: the judge does not know these characters."""
    first = [token is not None for token in lane.start]
    text, _ = lane.state(len(lane.steps))
    written = [not given for token, given in zip(text, first, strict=True) for _ in token or ""]
    try:
        ids = torch.tensor(judge.tokenizer.encode(lane.written))
    except UserError:
        return None
    if len(ids) != len(written) or not any(written[1:]):
        return None
    nats = next_token_nlls(judge.model, ids)[torch.tensor(written[1:])].mean().item()
    best = judge.config.get("summary", {}).get("best")  # its own held-out text, on the windows it was validated with
    return {"model": name, "nats_per_char": nats, "held_out": best}


@torch.inference_mode()
def next_token_nlls(gpt, ids: Int[Tensor, "N"]) -> Float[Tensor, "N-1"]:
    """-log p of each token but the first, the window moved on by half of itself."""
    W, nll = gpt.cfg.seq_len, torch.empty(len(ids) - 1, dtype=torch.float64)
    for start in range(0, max(1, len(ids) - W // 2), W // 2):
        part = ids[start : start + W]
        log_p = gpt(part[None])[0, :-1].double().log_softmax(-1).gather(1, part[1:, None]).squeeze(1)
        fresh = 0 if start == 0 else W - W // 2 - 1  # what the window before has scored, with more on its left
        nll[start + fresh : start + len(part) - 1] = -log_p[fresh:]
    return nll
