"""Every sampler with every denoiser keeps the contract; the exact ones write exactly the language; the others do not.

False alarms: each chi-square test fails a right sampler with probability 1e-4, each 4-sigma test with 6e-5. There are
about 50: 5 in 1,000 together, had the seeds not been fixed.
"""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils._python_dispatch import TorchDispatchMode

from microdlm.cost import CountForwards
from microdlm.drawing import ORDERS, draw, keep_top
from microdlm.oracle import MarkovDenoiser
from microdlm.pacing import PACES
from microdlm.samplers import (
    SAMPLERS,
    ancestral,
    block,
    confidence,
    entropy_bounded,
    first_hitting,
    forward_backward,
    left_to_right,
    refine,
    remask,
    threshold,
)
from microdlm.schedules import SCHEDULES


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Counter:
    """A denoiser that counts what it is asked."""

    def __init__(self, denoiser):
        self.denoiser, self.passes, self.tokens = denoiser, 0, 0

    def __call__(self, x, **kwargs):
        self.passes += 1
        self.tokens += x.size(1)
        return self.denoiser(x, **kwargs)

    def __getattr__(self, name):
        return getattr(self.denoiser, name)


MASK = 4
WAYS = {
    "ancestral": functools.partial(ancestral, num_steps=5),
    "ancestral, cosine": functools.partial(ancestral, num_steps=9, schedule="cosine"),
    "ancestral, clipped": functools.partial(ancestral, num_steps=4, schedule="clipped_cosine"),
    "first_hitting": first_hitting,
    **{f"confidence, {order}": functools.partial(confidence, num_steps=4, order=order) for order in ORDERS},
    **{f"confidence, {pace} pace": functools.partial(confidence, num_steps=3, pace=pace) for pace in PACES},
    "confidence, more steps than MASKs": functools.partial(confidence, num_steps=50),
    "threshold": threshold,
    "confidence, pace of counts": functools.partial(confidence, pace=[1, 2, 5]),
    "threshold, low": functools.partial(threshold, tau=0.4),
    "entropy_bounded": entropy_bounded,
    "entropy_bounded, loose": functools.partial(entropy_bounded, gamma=3.0),
    "left_to_right": left_to_right,
    "left_to_right, right to left": lambda d, x, m, **how: left_to_right(d, x, m, order=range(x.size(1))[::-1], **how),
    "left_to_right, any order": functools.partial(left_to_right, order="random"),
    "remask": functools.partial(remask, num_steps=6),
    "remask, as much as can be": functools.partial(remask, num_steps=6, eta=1.0, schedule="clipped_cosine"),
    "remask, the least sure": functools.partial(remask, num_steps=6, again="confidence"),
    "forward_backward": functools.partial(forward_backward, num_steps=4),
    "forward_backward, twice": functools.partial(forward_backward, num_steps=3, correctors=2, schedule="cosine"),
    "refine": functools.partial(refine, num_steps=3, share=0.4),
    "refine, the least sure": functools.partial(refine, num_steps=2, again="confidence"),
    "block": functools.partial(block, num_steps=6, block_length=3),
    **{f"block of {name}": functools.partial(block, num_steps=4, block_length=3, inside=name) for name in SAMPLERS},
}
REVISING = tuple(way for way in WAYS if any(name in way for name in ("remask", "refine", "forward_backward")))
SOME_STEPS_NEED_NONE = ("ancestral", "remask", "forward_backward")
PASSES_AT_MOST_STATES = tuple(way for way in WAYS if any(name in way for name in SOME_STEPS_NEED_NONE))
SEVERAL_PASSES_A_STATE = ("refine, the least sure",)
PAIRS = [(way, who) for way in WAYS for who in ("network", "oracle")] + [("left_to_right", "gpt")]
pairs = pytest.mark.parametrize("way, who", PAIRS, ids=[f"{way}-{who}" for way, who in PAIRS])


@pytest.fixture(scope="module")
def denoisers(network, chain):
    return {"network": network(), "oracle": chain, "gpt": network(causal=True)}


def write(way, denoiser, x, seed=0, **how):
    return list(WAYS[way](denoiser, x, MASK, rng=seeded(seed), **how))


def starts() -> torch.Tensor:
    """Rows with a prompt, a prompt and a suffix, holes, one hole, nothing open: different numbers of MASKs."""
    text = torch.randint(0, MASK, (6, 8), generator=seeded(3))
    open_at = ["01111111", "00111100", "01011010", "00000100", "00000000", "01101111"]
    return text.masked_fill(torch.tensor([[c == "1" for c in row] for row in open_at]), MASK)


# ---- what all samplers promise ----


@pairs
@given(st.data())
@settings(max_examples=12)
def test_every_mask_is_filled_once_and_nothing_else_changes(denoisers, way, who, data):
    """From any start: the last state holds no MASK, what was visible in it stays (so prompt, suffix and segments
    survive, and MASK is never drawn), what was revealed is final unless the sampler revises, every pass is worth a
    state, and one seed gives one text."""
    B, L = 3, 6
    rows = st.lists(st.integers(0, MASK), min_size=L, max_size=L)
    x = torch.tensor(data.draw(st.lists(rows, min_size=B, max_size=B)))
    x[:, 0] %= MASK if who == "gpt" else MASK + 1  # a GPT cannot write the first token
    before, counter = x.clone(), Counter(denoisers[who])
    states = write(way, counter, x)
    for earlier, later in itertools.pairwise([x, *states]):
        final = x != MASK if way in REVISING else earlier != MASK
        assert (~final | (earlier == later)).all()
        assert later.shape == x.shape and later.dtype == x.dtype and later.min() >= 0
    assert (states[-1] < MASK).all() and torch.equal(x, before)
    if not (x == MASK).any():
        assert counter.passes == 0 and len(states) == 1
    elif way in PASSES_AT_MOST_STATES:
        assert counter.passes <= len(states)
    elif way not in SEVERAL_PASSES_A_STATE:
        assert counter.passes == len(states)
    again = write(way, denoisers[who], x)
    assert len(again) == len(states) and all(map(torch.equal, again, states))


@pairs
def test_prompt_suffix_holes_and_rows_of_unequal_length(denoisers, way, who):
    x = starts()
    final = write(way, denoisers[who], x)[-1]
    assert torch.equal(final[x != MASK], x[x != MASK]) and (final < MASK).all()
    different = [write(way, denoisers[who], x, seed=s)[-1] for s in range(1, 13)]
    assert not all(torch.equal(final, other) for other in different)  # the generator matters


@pairs
def test_without_mask_the_text_comes_back_once(denoisers, way, who):
    x, counter = torch.randint(0, MASK, (2, 5), generator=seeded()), Counter(denoisers[who])
    (state,) = write(way, counter, x)
    assert torch.equal(state, x) and counter.passes == 0


# At temperature 0 these still choose where.
CHANCE_IN_ORDER = ("ancestral", "first_hitting", "confidence, random", "left_to_right, any", "remask", "refine")
CHANCE_IN_ORDER += ("forward_backward",)
CHANCE_IN_ORDER += tuple(f"block of {name}" for name in CHANCE_IN_ORDER if name in SAMPLERS)


@pairs
def test_temperature_zero_is_top_1_is_a_tiny_top_p(denoisers, way, who):
    """All three take the most probable token, so they agree, and the seed decides at most where."""
    x = starts()
    final = write(way, denoisers[who], x, temperature=0.0)[-1]
    if not way.startswith(CHANCE_IN_ORDER):
        for how in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}):
            assert torch.equal(final, write(way, denoisers[who], x, seed=9, **how)[-1]), how
    else:  # the same seed gives the same places only if the draws consume the same noise
        top_1, top_p = (write(way, denoisers[who], x, seed=9, **how)[-1] for how in ({"top_k": 1}, {"top_p": 1e-9}))
        assert torch.equal(top_1, top_p)
        one_hole = x[3:4]
        assert torch.equal(final[3:4], write(way, denoisers[who], one_hole, seed=9, temperature=0.0)[-1])


@pairs
def test_no_gradients_inside_and_none_switched_off_outside(denoisers, way, who):
    x = starts()
    for state in WAYS[way](denoisers[who], x, MASK, rng=seeded()):
        assert torch.is_grad_enabled() and not state.requires_grad


@pytest.mark.parametrize("name", ["confidence", "threshold", "entropy_bounded", "first_hitting", "left_to_right"])
def test_one_at_a_time_takes_one_pass_a_mask(chain, name):
    how = {"confidence": {"num_steps": 50}, "threshold": {"tau": 2.0}, "entropy_bounded": {"gamma": 0.0}}.get(name, {})
    counter = Counter(chain)
    states = list(SAMPLERS[name](counter, torch.full((2, 7), MASK), MASK, rng=seeded(), **how))
    assert counter.passes == len(states) == 7
    assert [int((x == MASK).sum(1).max()) for x in states] == list(reversed(range(7)))


def test_threshold_keeps_only_one_of_two_equally_sure_guesses(ab):
    """On an empty page of ABAB.. each position is A with probability exactly 1/2: a tie everywhere. One may open; then
    the rest is certain and follows at once. All at once would write nonsense 127 times in 128."""
    states = list(threshold(ab, torch.full((50, 8), 2), 2, rng=seeded()))
    assert len(states) == 2 and ((states[0] != 2).sum(1) == 1).all()
    assert (states[-1][:, 1:] != states[-1][:, :-1]).all()


def test_confidence_follows_its_pace(chain):
    """12 MASKs in 4 steps: at a linear pace 3 a step; at a cosine pace floor(12 cos(pi s / 2)) remain."""
    for pace, remain in (("linear", [9, 6, 3, 0]), ("cosine", [11, 8, 4, 0])):
        states = confidence(chain, torch.full((2, 12), MASK), MASK, 4, pace=pace, rng=seeded())
        assert [(x == MASK).sum(1).tolist() for x in states] == [[r, r] for r in remain]


def test_as_many_steps_as_masks_open_one_at_a_time():
    """At a linear pace, for every length: 22 * (1 - 9/22) is 13 and not, in floating point, 12.99."""
    for L in range(1, 65):
        states = confidence(lambda x: torch.zeros(*x.shape, 3), torch.full((1, L), 2), 2, L, pace="linear")
        assert [int((x == 2).sum()) for x in states] == list(reversed(range(L))), L


def test_confidence_opens_the_surest_first(chain):
    """At temperature 0, one MASK a step: what opens is the most probable guess of all that are open."""
    x = starts()[:1]
    for state in confidence(chain, x, MASK, 50, temperature=0.0):
        sure = chain(x).exp().amax(-1).masked_fill(x != MASK, -1)
        assert (state != x).nonzero().tolist() == [[0, int(sure[0].argmax())]]
        x = state


def test_first_hitting_opens_in_uniformly_random_order(chain):
    """An exact denoiser cannot tell (every order is exact), a network can. Three MASKs, six orders, chi-square."""
    x = torch.tensor([[MASK, 1, MASK, 2, MASK]]).expand(6000, 5)
    counts = torch.stack([(state != MASK).long() for state in first_hitting(chain, x, MASK, rng=seeded())]).sum(0)
    orders = (counts[:, [0, 2, 4]] * torch.tensor([1, 10, 100])).sum(1).unique(return_counts=True)[1]
    assert len(orders) == 6 and chisquare(orders).pvalue > 1e-4


@pytest.mark.parametrize("name", ["linear", "sqrt", "clipped_cosine"])
def test_ancestral_keeps_the_share_of_its_schedule(chain, name, B=500, L=16):
    """After the step to time s a MASK is still there with probability u(s)/u(1). 5 steps at 4 sigma each."""
    share = 1 - SCHEDULES[name].alpha(torch.linspace(1, 0, 7, dtype=torch.float64))
    states = list(ancestral(chain, torch.full((B, L), MASK), MASK, 6, schedule=name, rng=seeded()))
    measured = torch.stack([(x == MASK).double().mean() for x in states])
    p = (share / share[0])[1:]
    p[-1] = 0  # the last step opens what is left
    assert ((measured - p).abs() <= 4 * (p * (1 - p) / (B * L)).sqrt()).all()


# ---- the exact samplers write the language ----


@pytest.fixture(scope="module")
def small():
    """Two symbols, a strong memory, L = 4: sixteen texts of known probability. MASK is 2."""
    return MarkovDenoiser(torch.tensor([0.7, 0.3]), torch.tensor([[0.85, 0.15], [0.25, 0.75]]))


def p_value(denoiser, texts) -> float:
    """Chi-square of texts (N, 4) of two symbols against the exact joint distribution."""
    all_texts = torch.tensor(list(itertools.product(range(2), repeat=4)))
    expected = (-4 * denoiser.nll(all_texts)).exp() * len(texts)
    seen = (texts * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    return chisquare(seen, expected).pvalue


def last(states):
    *_, x = states
    return x


@pytest.mark.parametrize(
    "steps",
    [
        first_hitting,
        left_to_right,
        functools.partial(left_to_right, order=[2, 0, 3, 1]),
        functools.partial(left_to_right, order="random"),
        functools.partial(confidence, num_steps=4, order="entropy"),
        functools.partial(confidence, num_steps=4, order="margin"),
        functools.partial(confidence, num_steps=4, order="random", pace=[1, 1, 1, 1]),
        functools.partial(entropy_bounded, gamma=0.0),
        functools.partial(block, block_length=2, inside="first_hitting"),
        functools.partial(block, block_length=3, inside="left_to_right", order="random"),
        functools.partial(block, block_length=2, inside="ancestral", num_steps=400),
    ],
    ids=lambda f: str(f.keywords) if isinstance(f, functools.partial) else f.__name__,
)
def test_one_at_a_time_reproduces_the_language(small, steps):
    """In an order that is fixed, random, or decided by what is visible: the chain rule. With 200 steps a block of two
    opens both in one step once in 200 texts, too seldom to show."""
    assert p_value(small, last(steps(small, torch.full((20_000, 4), 2), 2, rng=seeded()))) > 1e-4


def test_ancestral_with_many_steps_reproduces_the_language(small):
    """Two of 4 MASKs open in one of 600 steps with probability 1%, too seldom to show in 4,000 texts."""
    assert p_value(small, last(ancestral(small, torch.full((4000, 4), 2), 2, 600, rng=seeded()))) > 1e-4


@pytest.mark.parametrize(
    "steps",
    [
        functools.partial(confidence, num_steps=2),  # the surest first, two at a time
        functools.partial(confidence, num_steps=4),  # one at a time: even so easy text wins
        functools.partial(ancestral, num_steps=2),
        functools.partial(first_hitting, temperature=0.8),
        functools.partial(threshold, tau=0.8),
        functools.partial(entropy_bounded, gamma=1.0),
        functools.partial(block, num_steps=2, block_length=2, inside="ancestral"),  # each block at once
        functools.partial(block, num_steps=4, block_length=2, inside="confidence"),
    ],
    ids=["confidence 2", "confidence 4", "ancestral 2", "temperature .8", "tau", "gamma", "block", "block confidence"],
)
def test_the_same_chi_square_sees_what_is_not_exact(small, steps):
    """Power: 4,000 texts are enough to reject each of these."""
    assert p_value(small, last(steps(small, torch.full((4000, 4), 2), 2, rng=seeded()))) < 1e-8


def test_in_one_step_tokens_do_not_see_each_other(small):
    """ancestral with one step draws the product of marginals: against that it passes, against the joint it fails."""
    texts = last(ancestral(small, torch.full((20_000, 4), 2), 2, 1, rng=seeded()))
    marginals = small(torch.full((1, 4), 2))[0].exp()
    all_texts = list(itertools.product(range(2), repeat=4))
    product = [20_000 * float(torch.stack([marginals[i, s] for i, s in enumerate(text)]).prod()) for text in all_texts]
    seen = (texts * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert chisquare(seen, product).pvalue > 1e-4 and p_value(small, texts) < 1e-8


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_k_tokens_at_once_are_valid_with_probability_2_to_the_1_minus_k(ab, k, B=4000):
    """ABABABAB or BABABABA: the first k tokens are drawn blind, the others follow from them."""
    texts = last(confidence(ab, torch.full((B, 8), 2), 2, 8 // k, order="random", pace="linear", rng=seeded()))
    p, valid = 2.0 ** (1 - k), (texts[:, 1:] != texts[:, :-1]).all(1).sum().item()
    assert abs(valid - B * p) <= 4 * (B * p * (1 - p)) ** 0.5


def test_a_condition_is_a_condition(small):
    """x_1 and x_4 visible: first_hitting fills the middle from p(x_2, x_3 | x_1, x_4). 4 cells."""
    texts = last(first_hitting(small, torch.tensor([[0, 2, 2, 1]]).expand(20_000, 4), 2, rng=seeded()))
    ways = torch.tensor([[0, a, b, 1] for a in (0, 1) for b in (0, 1)])
    p = (-4 * small.nll(ways)).exp()
    seen = (texts[:, 1] * 2 + texts[:, 2]).bincount(minlength=4)
    assert chisquare(seen, 20_000 * p / p.sum()).pvalue > 1e-4


# ---- by how much the others miss it, enumerated ----

TEXTS = torch.tensor(list(itertools.product(range(2), repeat=4)))


def follow(opens) -> torch.Tensor:
    """The exact law of a sampler over TEXTS. opens(page) -> [(what is on it a step later, with what probability)]."""
    pages, law = {(2, 2, 2, 2): 1.0}, torch.zeros(16, dtype=torch.float64)
    while pages:
        page, mass = pages.popitem()
        if 2 not in page:
            law[TEXTS.tolist().index(list(page))] += mass
            continue
        for later, p in opens(page):
            pages[later] = pages.get(later, 0.0) + mass * p
    return law


def guesses(denoiser, page):
    """Every way to fill the MASKs of a page, each from its own marginal: (tokens by position, their probabilities)."""
    p, where = denoiser(torch.tensor([page]))[0].exp(), [i for i in range(4) if page[i] == 2]
    for tokens in itertools.product(range(2), repeat=len(where)):
        yield dict(zip(where, tokens, strict=True)), {i: p[i, v].item() for i, v in zip(where, tokens, strict=True)}


def put(page, where, tokens) -> tuple:
    return tuple(tokens[i] if i in where else page[i] for i in range(4))


def surest(denoiser, k):
    """confidence, k tokens a step."""

    def opens(page):
        for tokens, p in guesses(denoiser, page):
            yield put(page, sorted(p, key=lambda i: -p[i])[:k], tokens), math.prod(p.values())

    return opens


def kl(p, q) -> float:
    return (p * (p / q).log()).sum().item()


@pytest.mark.parametrize("k, tv, entropy", [(1, 0.4551, 0.6280), (2, 0.3430, 1.3132)])
def test_by_how_much_confidence_misses_the_language(small, k, tv, entropy):
    """With an exact denoiser. The language has 2.0155 nats; one at a time confidence writes texts of 0.628 nats, and
    some event has a probability that is wrong by 0.455. Two at a time it is wrong by less: more steps, more bias.
    In the enumeration as in 20,000 texts."""
    truth, law = (-4 * small.nll(TEXTS)).exp(), follow(surest(small, k))
    assert law.sum().item() == pytest.approx(1) and torch.special.entr(truth).sum().item() == pytest.approx(
        2.0155, abs=1e-4
    )
    assert (law - truth).abs().sum().item() / 2 == pytest.approx(tv, abs=1e-4)
    assert torch.special.entr(law).sum().item() == pytest.approx(entropy, abs=1e-4)
    texts = last(confidence(small, torch.full((20_000, 4), 2), 2, 4 // k, pace="linear", rng=seeded()))
    seen = (texts * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    often = law > 1e-3  # the rare texts in one cell: chi-square needs some counts in each
    cells = (
        torch.cat([seen[often], seen[~often].sum()[None]]),
        torch.cat([law[often], law[~often].sum()[None]]) * 20_000,
    )
    assert chisquare(*cells).pvalue > 1e-4


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.6, 1.0, 3.0])
def test_entropy_bounded_keeps_its_bound(small, gamma):
    """Where it opens is decided by what is visible, so its law can be enumerated: its own first step says where.
    KL(language || texts) <= gamma a step that opens several; at gamma = 0 nothing is lost."""
    longest = 0

    def opens(page):
        nonlocal longest
        step = next(entropy_bounded(small, torch.tensor([page]), 2, gamma=gamma, rng=seeded()))[0].tolist()
        where = [i for i in range(4) if page[i] == 2 and step[i] != 2]
        longest = max(longest, len(where))
        for tokens, p in guesses(small, page):
            yield put(page, where, tokens), math.prod(p.values())

    truth, law = (-4 * small.nll(TEXTS)).exp(), follow(opens)
    texts = last(entropy_bounded(small, torch.full((20_000, 4), 2), 2, gamma=gamma, rng=seeded()))
    seen = (texts * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert chisquare(seen, law * 20_000).pvalue > 1e-4
    lost = kl(truth, law)
    assert -1e-9 <= lost <= gamma * (4 - longest + 1) + 1e-9 and (longest > 1) == (lost > 1e-6) == (gamma >= 0.6)


def test_entropy_bounded_writes_ab_in_two_steps(ab):
    """One letter of ABABABAB is a coin; after it nothing has any entropy, and all of it costs nothing."""
    states = list(entropy_bounded(ab, torch.full((50, 8), 2), 2, rng=seeded()))
    assert [(x != 2).sum(1).unique().tolist() for x in states] == [[1], [8]]
    assert (states[-1][:, 1:] != states[-1][:, :-1]).all()


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_a_block_at_once_is_valid_with_probability_2_to_the_1_minus_k(ab, k, B=4000):
    texts = last(block(ab, torch.full((B, 8), 2), 2, 1, block_length=k, inside="ancestral", rng=seeded()))
    p, valid = 2.0 ** (1 - k), (texts[:, 1:] != texts[:, :-1]).all(1).sum().item()
    assert abs(valid - B * p) <= 4 * (B * p * (1 - p)) ** 0.5


def test_blocks_come_one_after_the_other(chain):
    """From the first MASK on: columns 2-4, 5-7 and 8-9. What lies to the right is MASK, and seen as such."""
    x, seen = torch.full((3, 10), MASK), []
    x[:, :2] = x[0, 6] = 1

    def spy(x):
        seen.append(x.clone())
        return chain(x)

    states = list(block(spy, x, MASK, 6, block_length=3, rng=seeded()))
    assert all(x.shape == (3, 10) for x in seen) and len(seen) == len(states) == 6
    for i, end in ((1, 5), (3, 8), (5, 10)):
        assert (states[i][:, :end] != MASK).all() and torch.equal(states[i][:, end:], x[:, end:])


def test_left_to_right_in_an_order(chain):
    """A permutation names the positions in turn; what is visible is passed over."""
    x = torch.tensor([[MASK, 1, MASK, MASK], [MASK, MASK, MASK, 0]])
    states = [x, *left_to_right(chain, x, MASK, order=[3, 1, 0, 2], rng=seeded())]
    opened = [(a != b).nonzero()[:, 1].tolist() for a, b in itertools.pairwise(states)]
    assert opened == [[3, 1], [0, 0], [2, 2]]
    for wrong in ([0, 1, 2], [0, 0, 1, 2], [1, 2, 3, 4]):
        with pytest.raises(ValueError, match="each of the positions"):
            list(left_to_right(chain, x, MASK, order=wrong))


# ---- what a step costs ----


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: a number read, or a shape that depends on the data."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"):
            self.count += 1
        return op(*args, **(kwargs or {}))


NO_WAITING = {
    "ancestral": [{"num_steps": n} for n in (4, 16)],
    "confidence": [{"num_steps": n} for n in (4, 16)],
    "refine": [{"num_steps": n} for n in (4, 16)],
    "first_hitting": [{}],
    "left_to_right": [{}, {"order": "random"}],
}


@pytest.mark.parametrize("way", ["ancestral", "threshold, low", "entropy_bounded", "remask", "forward_backward"])
def test_a_row_that_is_asked_nothing_is_not_read(network, way):
    """In a batch, too, a text costs what it would cost alone: a pass for each step that draws a token of it. (A network
    of no meaning draws the very token that was masked again so seldom that a step is known by what it changed.)"""
    counter, x = CountForwards(network(vocab_size=1001)), torch.randint(0, 1000, (40, 16), generator=seeded(1))
    x = x.masked_fill(torch.arange(16) <= torch.arange(40)[:, None] % 16, 1000)  # rows of 1 to 16 MASKs
    write = WAYS[way].func if isinstance(WAYS[way], functools.partial) else WAYS[way]
    states = [x, *write(counter, x, 1000, num_steps=100, rng=seeded())]
    drawn = sum(((a != b) & (b != 1000)).any(1).sum().item() for a, b in itertools.pairwise(states))
    assert counter.token_forwards / 16 == pytest.approx(drawn, rel=0.02)
    assert counter.token_forwards < 0.95 * counter.passes * x.numel()


@pytest.mark.parametrize("name", NO_WAITING)
def test_a_step_does_not_wait_for_the_one_before(network, name):
    """However many steps, the same few looks at the data: all at the start."""
    counts = []
    for how, causal in [(how, False) for how in NO_WAITING[name]] + [({}, True)] * (name == "left_to_right"):
        for L in (8, 16):
            x = torch.full((3, L), MASK)
            x[:, 0] = 1
            with Waits() as waits:
                list(SAMPLERS[name](network(causal=causal), x, MASK, rng=seeded(), **how))
            counts.append(waits.count)
    assert max(counts) <= 3, counts


def test_logits_are_made_where_a_token_is_drawn_and_nowhere_else(network):
    """Rows of the head: all MASKs where guesses are compared, only the opened ones elsewhere."""
    net, rows = network(), []
    net.head.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    x = starts()[:2]  # seven MASKs and four
    for name, how, expected in (
        ("confidence", {"num_steps": 11, "pace": "linear"}, None),
        ("first_hitting", {}, [2] * 7),
        ("left_to_right", {}, [2] * 7),
        ("ancestral", {"num_steps": 1}, [11]),
        ("refine", {"num_steps": 2, "share": 0.0}, [11, 2, 2]),
        ("block", {"block_length": 8, "num_steps": 1}, [11]),
    ):
        rows.clear()
        states = [x, *SAMPLERS[name](net, x, MASK, rng=seeded(), **how)]
        open_rows = [int((state == MASK).sum()) for state in states[:-1]]
        assert rows == (open_rows if expected is None else expected), name
    rows.clear()
    gpt = network(causal=True)
    gpt.head.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    x = torch.full((2, 8), MASK)
    x[:, :5] = 1
    list(left_to_right(gpt, x, MASK, rng=seeded()))
    assert rows == [2, 2, 2]  # of the prompt's five rows only the last


@pairs
def test_a_state_can_be_trained_on(network, denoisers, way, who):
    """No tensor of inference mode leaves a sampler: autograd would refuse to keep it."""
    state, net = write(way, denoisers[who], starts())[-1], network()
    net(state).square().sum().backward()
    assert net.embedding.weight.grad is not None and not state.is_inference()


# ---- the end of a text ----


@pytest.mark.parametrize("who", ["gpt", "network", "oracle"])
def test_left_to_right_stops_at_the_end(denoisers, who, END=3):
    """With end_id the texts are those without up to their END; after it there is only END, given tokens apart; and as
    soon as the last text is over no pass is made."""
    x = torch.full((4, 16), MASK)
    x[:, 0], x[0, 15] = END, 1  # an END that was given ends nothing
    counter, early = Counter(denoisers[who]), 0
    for seed in range(20):
        plain = write("left_to_right", denoisers[who], x, seed)[-1]
        counter.passes = 0
        ended = write("left_to_right", counter, x, seed, end_id=END)[-1]
        over = ((plain == END) & (x == MASK)).cumsum(1) > 0
        assert torch.equal(ended, torch.where(over & (x == MASK), END, plain))
        assert counter.passes == min(int((~over).sum(1).max()), 15)
        early += counter.passes < 15
    assert early > 0


def test_no_end_and_no_cache_in_another_order(network, chain):
    x = torch.tensor([[1, MASK, MASK]])
    for denoiser, how in ((network(causal=True), {"order": "random"}), (chain, {"order": [0, 2, 1], "end_id": 3})):
        with pytest.raises(ValueError, match="reading order"):
            list(left_to_right(denoiser, x, MASK, **how))


# ---- a GPT writes with its cache ----


def test_the_cache_changes_nothing_and_saves_everything_else(network):
    """At temperature 0 the text is what reading everything again for each token gives; with the cache each token is
    read once."""
    gpt, x = network(causal=True), torch.tensor([[1, MASK, MASK, 2, MASK, MASK, 3], [0, 2, MASK, 3, 1, MASK, 0]])
    expected = x.clone()
    for i in range(1, 7):
        token = gpt(expected[:, :i])[:, -1, :MASK].argmax(-1)
        expected[:, i] = torch.where(expected[:, i] == MASK, token, expected[:, i])
    counter = Counter(gpt)
    states = list(left_to_right(counter, x, MASK, temperature=0.0))
    assert torch.equal(states[-1], expected)
    assert counter.tokens == 5 and counter.passes == len(states) == 4  # 0..4 are read to write 5; 6 is visible


def test_a_gpt_cannot_write_the_first_token(network):
    with pytest.raises(ValueError, match="first token must be visible"):
        list(left_to_right(network(causal=True), torch.full((1, 4), MASK), MASK))


# ---- draw ----

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 5.0])  # the last is MASK, and the most probable


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draw_follows_softmax_at_its_temperature(temperature):
    tokens = draw(LOGITS.expand(40_000, 5), MASK, temperature, rng=seeded())
    expected = (LOGITS[:4].double() / temperature).softmax(0) * 40_000
    assert tokens.max() < MASK and chisquare(tokens.bincount(minlength=4), expected).pvalue > 1e-4


def test_draw_makes_its_noise_in_float64(monkeypatch):
    rand, dtypes = torch.rand, []
    monkeypatch.setattr(torch, "rand", lambda *a, **kw: dtypes.append(kw.get("dtype")) or rand(*a, **kw))
    draw(LOGITS.bfloat16().expand(3, 5), MASK, rng=seeded())
    assert dtypes == [torch.float64]


def test_draw_with_top_k_and_top_p_keeps_the_proportions():
    """Of softmax (.64 .24 .09 .03) top_k = 2 leaves the first two, top_p = .9 the first three."""
    for how, n in (({"top_k": 2}, 2), ({"top_p": 0.9}, 3), ({"top_k": 3, "top_p": 0.5}, 1)):
        seen = draw(LOGITS.expand(20_000, 5), MASK, rng=seeded(), **how).bincount(minlength=4)
        assert (seen > 0).tolist() == [True] * n + [False] * (4 - n)
        assert n == 1 or chisquare(seen[:n], LOGITS[:n].double().softmax(0) * 20_000).pvalue > 1e-4


def test_temperature_scales_before_top_p_counts():
    """At temperature 3 the most probable token holds 43%: top_p = .6 then keeps two, at temperature 1 one."""
    tokens = [draw(LOGITS.expand(5000, 5), MASK, t, top_p=0.6, rng=seeded()) for t in (3.0, 1.0)]
    assert [len(x.unique()) for x in tokens] == [2, 1]


def test_draw_of_no_rows_is_no_tokens():
    assert draw(torch.empty(0, 5), MASK).shape == (0,)


rows = st.lists(st.integers(-40, 40), min_size=6, max_size=6, unique=True).map(lambda z: torch.tensor(z) / 10)


@given(rows.map(lambda row: row.double()), st.integers(1, 8))
def test_top_k_keeps_the_k_largest_unchanged(logits, k):
    kept = keep_top(logits, k, None)
    assert kept.isfinite().sum() == min(k, 6)
    assert torch.equal(kept[kept.isfinite()], logits[kept.isfinite()]) and kept.topk(min(k, 6)).values.isfinite().all()


@given(rows.map(lambda row: row.double()), st.floats(0, 1))
def test_top_p_keeps_the_smallest_set_that_holds_p(logits, top_p):
    """At least p together (up to rounding), less than p without the last; the most probable token is always there."""
    inside = keep_top(logits, None, top_p).isfinite()
    p = logits.softmax(-1)
    assert inside[logits.argmax()] and p[inside].sum() >= top_p - 1e-12
    assert p[inside].min() >= p[~inside].amax() if (~inside).any() else True
    assert inside.sum() == 1 or p[inside].sum() - p[inside].min() < top_p
