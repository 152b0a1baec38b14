"""Playlets: the built-in language, endless text of tiny theatre scenes whose entropy is known.

`data/playlets.txt` holds the words and the sentence forms; this file turns them into an automaton, by one idea: **a
state is what is still to be said.** After "Enter Mi" that is "ra.\\n{act}Exit Mira.\\n\\n"; where several scripts agree
so far, it is all of them with their probabilities. So the states are finite in number, each emits one character, and
the next character tells the next state. From this come text, exact entropy rate, exact likelihood and exact denoiser.
"""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from microdlm.errors import UserError
from microdlm.oracle import FiniteStateDenoiser

SCENE = "Enter {0}.\n{{act}}Exit {0}.\n\n"  # the one form that is not in the file: it names the hero twice
STOPS = ".?!\n"  # every sentence comes to one of these
FORM = r"([^][{}]|{\w+}|\[([^][{}]|{\w+})*\])*"  # plain text, {slots}, and [either of them, or nothing]
Belief = dict[str, float]  # what is still to be said -> its probability
Arrows = list[dict[str, tuple[int, float]]]  # of each state: next character -> (next state, probability)


class Playlets:
    """The language of the file `path`, compiled. Likelihoods are nats per character. It never downloads.

    >>> play = Playlets()
    >>> play.accepts("Enter Mira."), play.accepts("Enter Macbeth.")
    (True, False)
    """

    def __init__(self, path: str | Path | None = None):
        """UserError, in one line, if the file is missing or malformed."""
        path = Path(path) if path else Path(__file__).parent.parent / "data" / "playlets.txt"
        try:
            self.arrows, self.emits = compile_states(read_lexicon(path))
            self.stationary = stationary(self.arrows, self.emits)
        except KeyError as slot:
            raise UserError(f"{path}: nothing fills the slot {slot}; give it a line of its own") from None
        except RecursionError:
            raise UserError(f"{path}: a form calls itself elsewhere than at the end of a sentence") from None
        self._line_ends = {s: 1.0 for s, c in enumerate(self.emits) if c == "\n"}
        self.alphabet = "".join(sorted(set(self.emits)))
        self.mask_id = len(self.alphabet)
        edges = [(s, t, p) for s, out in enumerate(self.arrows) for t, p in out.values()]
        *ends, prob = torch.tensor(edges, dtype=torch.float64).T
        transition = torch.sparse_coo_tensor(torch.stack(ends).long(), prob, check_invariants=True)
        symbol = torch.tensor([self.alphabet.index(c) for c in self.emits])
        self._denoiser = FiniteStateDenoiser(self.stationary, transition, symbol)

    def denoiser(self) -> FiniteStateDenoiser:
        """The exact denoiser for windows cut out of the middle of long text: it starts stationary."""
        return self._denoiser

    def entropy_rate(self) -> float:
        """Nats per character, exact: no model of this language can do better."""
        return self._denoiser.entropy_rate()

    def nll(self, text: str, given: int = 0) -> float:
        """-log p(text[given:] | text[:given]) / (len(text) - given), exact; inf if it cannot occur."""
        evidence = list(self._read(dict(enumerate(self.stationary.tolist())), text))
        log_p = sum(math.log(p) if p else -math.inf for p in evidence[given:])
        return -log_p / (len(text) - given)

    def accepts(self, line: str) -> bool:
        """Whether `line` can stand as one whole line of the language, from line break to line break."""
        return "\n" not in line and 0.0 not in self._read(self._line_ends, line + "\n")

    def _read(self, belief: dict[int, float], text: str) -> Iterator[float]:
        """p(character | those before it) for a reader who starts with `belief` about the state."""
        for c in text:
            after: dict[int, float] = defaultdict(float)
            for s, p in belief.items():
                if c in self.arrows[s]:
                    t, q = self.arrows[s][c]
                    after[t] += p * q
            evidence = sum(after.values(), 0.0)
            yield evidence
            belief = {s: p / evidence for s, p in after.items()}

    def text(self, n_chars: int, seed: int = 0) -> str:
        """The first `n_chars` of an endless text of independent scenes. The same seed, the same text."""
        rng, pieces = torch.Generator().manual_seed(seed), []
        while sum(map(len, pieces)) < n_chars:  # few scenes at first, so that a short text is quick
            pieces.append(self._scenes(min(64 * 2 ** len(pieces), 4096), rng))
        return "".join(pieces)[:n_chars]

    def _scenes(self, n: int, rng: torch.Generator) -> str:
        """n whole scenes, all written at once, a character of each at a time; one that is over drops out."""
        writing, state, columns = np.arange(n), np.zeros(n, np.int64), []  # mostly few write: torch would take longer
        codes = np.array([ord(c) for c in self.emits])
        while len(writing):
            state = self._denoiser.step(torch.from_numpy(state), rng).numpy()
            columns.append(np.bincount(writing, codes[state], n))  # 0 for those that are over
            writing, state = writing[state != 0], state[state != 0]
        page = np.stack(columns, axis=1)
        return page[page > 0].astype("<u4").tobytes().decode("utf-32-le")


def read_lexicon(path: Path) -> dict[str, Belief]:
    """Name of a slot -> what may fill it, with probabilities. The file itself explains its format."""
    if not path.is_file():
        raise UserError(f"no lexicon at {path}: put playlets.txt there, or name another file")
    slots, header = {}, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            if line.startswith(" "):
                weight, _, form = line.strip().partition(" ")
                slots[header][form.strip().replace("\\n", "\n")] = float(weight)
            elif line.strip() and not line.startswith("#"):
                header, words = line.split(":")
                rows = [header.split("/"), *(word.replace("_", " ").split("/") for word in words.split())]
                for name, *column in zip(*rows, strict=True):
                    slots[name] = {word: 1 / (k + 10) for k, word in enumerate(column)}
            if any(p <= 0 or not re.fullmatch(FORM, form) for form, p in slots.get(header, {}).items()):
                raise ValueError
        except (ValueError, KeyError):
            raise UserError(f"{path}, line {number}: expected `name: words` or `  weight form`") from None
    return {name: {f: p / sum(of.values()) for f, p in of.items()} for name, of in slots.items() if of}


def compile_states(slots: dict[str, Belief]) -> tuple[Arrows, str]:
    """(arrows, emits): state 0 ends a scene; emits[s] is the character that state s emits."""
    number = {("\n", frozenset({("", 1.0)})): 0}
    beliefs: list[Belief] = [{"": 1.0}]
    arrows: Arrows = []
    for belief in beliefs:  # the list grows while we walk along it
        after: dict[str, Belief] = defaultdict(lambda: defaultdict(float))
        for rest, p in belief.items():
            for q, head in heads(rest, slots):
                after[head[0]][head[1:]] += p * q
        arrows.append({})
        for c, weights in after.items():
            p = sum(weights.values())
            to_say = {rest: q / p for rest, q in weights.items()}
            key = c, frozenset((rest, round(q, 12)) for rest, q in to_say.items())
            arrows[-1][c] = number.setdefault(key, len(number)), p
            if len(number) > len(beliefs):
                beliefs.append(to_say)
    return arrows, "".join(character for character, _ in number)


def heads(rest: str, slots: dict[str, Belief]) -> list[tuple[float, str]]:
    """Open `rest` up until it begins with a plain character: all ways, with their probabilities."""
    agenda = [(1.0, rest)]
    for p, rest in agenda:  # the list grows while we walk along it
        if len(agenda) > 10_000 or len(rest) > 1_000:
            raise RecursionError
        if not rest or rest[0] in "{[":
            agenda += [(p * q, opened) for q, opened in _open(rest, slots)]
    return [(p, head) for p, head in agenda if head and head[0] not in "{["]


def _open(rest: str, slots: dict[str, Belief]) -> list[tuple[float, str]]:
    """The first thing to decide: which scene, whether to say [this], or what fills {slot}."""
    if not rest:
        return [(p, SCENE.format(hero)) for hero, p in slots["hero"].items()]
    inside, tail = rest[1:].split("]" if rest[0] == "[" else "}", 1)
    if rest[0] == "[":
        return [(0.5, inside + tail), (0.5, tail)]
    if inside in ("a", "A"):  # what follows decides between a and an
        noun = heads(tail.lstrip(), slots)
        return [(p, inside + ("n " if head[0] in "aeiou" else " ") + head) for p, head in noun]
    leaving = tail.partition("Exit ")[2].partition(".")[0]  # the hero: whoever has still to leave
    ways = {leaving: 1.0} if inside.lower() == "hero" else slots[inside.lower()]
    if inside.islower():
        return [(p, form + tail) for form, p in ways.items()]
    count = 0 if inside.isupper() else 1  # {FOX} gives OWL, {Fox} gives Owl; a form hands it on to its slots
    first = re.compile("[A-Za-z]")
    return [(p, first.sub(lambda c: c[0].upper(), form, count) + tail) for form, p in ways.items()]


def stationary(arrows: Arrows, emits: str) -> torch.Tensor:
    """The share of time spent in each state, exact. Within a sentence no state comes twice. So: find
    where sentences stop, solve the small chain from stop to stop, let its visits flow on between."""
    order = []  # filled from the stops back: every state after all that it leads to

    @functools.cache
    def lead(s: int) -> dict[int, float]:  # {next stop: probability}
        ways: dict[int, float] = defaultdict(float)
        for t, p in arrows[s].values():
            for stop, q in [(t, 1.0)] if emits[t] in STOPS else lead(t).items():
                ways[stop] += p * q
        order.append(s)
        return ways

    stops = [s for s, c in enumerate(emits) if c in STOPS]
    chain = torch.tensor([[lead(s)[t] for t in stops] for s in stops], dtype=torch.float64)
    balance = chain.T - torch.eye(len(stops))  # visits = visits @ chain ...
    balance[-1] = 1.0  # ... and they sum to one: balance @ visits = (0, .., 0, 1)
    visits = defaultdict(float, zip(stops, torch.linalg.inv(balance)[:, -1].tolist(), strict=True))
    for s in reversed(order):
        for t, p in arrows[s].values():
            visits[t] += 0.0 if emits[t] in STOPS else visits[s] * p
    return torch.tensor([visits[s] for s in range(len(emits))], dtype=torch.float64) / sum(visits.values())
