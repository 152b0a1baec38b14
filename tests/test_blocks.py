"""Blocks: one functional from the GPT's chain rule to the diffusion bound, and a cache that changes nothing."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from scipy.stats import chisquare

from microdlm.attention import KVCache
from microdlm.blocks import (
    block_attention,
    block_nelbo,
    estimate_block_nelbo,
    mask_blocks,
    next_block,
    one_by_one,
    one_pass,
    write_blocks,
)
from microdlm.cost import CountForwards
from microdlm.likelihood import estimate_nelbo
from microdlm.masking import mask_count, stratified, to_count
from microdlm.objectives import masked_nll
from microdlm.oracle import MarkovDenoiser
from microdlm.samplers import SAMPLERS, block

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32, sums in another order
MASK = 4  # of the network's five ids and of the chain's
lengths = pytest.mark.parametrize("block_length", [1, 2, 3, 4, 10])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(B: int = 3, L: int = 10) -> torch.Tensor:
    return torch.randint(0, MASK, (B, L), generator=seeded(5))


def block_causal(L: int, block_length: int) -> torch.Tensor:
    block = torch.arange(L) // block_length
    return block[:, None] >= block


class Reader:
    """An exact denoiser that answers as a Transformer does: each position from those tokens alone that `seen` lets it
    see. Tokens are their own keys, so that the cache it is given is the one that is tested."""

    takes_at = True

    def __init__(self, denoiser, L: int):
        self.denoiser, self.cfg = denoiser, SimpleNamespace(n_layer=1, seq_len=L)

    def __call__(self, x, at, cache=None, seen=None, positions=None):
        B, new = x.shape
        if cache is not None:
            x = cache.extend(0, x[:, None, :, None], x[:, None, :, None])[0][:, 0, :, 0]
        mask_id, total = self.denoiser.mask_id, x.size(1)
        positions = torch.arange(total) if positions is None else positions
        pages = torch.full((B, new, self.cfg.seq_len), mask_id)
        for j in range(total):
            for i in seen[:, j].nonzero().flatten().tolist():
                shown = x[:, j] != mask_id
                pages[shown, i, positions[j]] = x[shown, j]
        logits = self.denoiser(pages.flatten(0, 1)).unflatten(0, (B, new))
        return logits[:, torch.arange(new), positions[-new:]].flatten(0, 1)[at.flatten()]


# ---- masks ----


@pytest.mark.parametrize("given", [0, 1, 5])
@pytest.mark.parametrize("block_length", [1, 3, 4, 12])
def test_every_block_has_its_own_count(block_length, given, B=6000, L=10):
    """k uniform on 1..n, where n is what of the block is there and not given."""
    x_t, is_masked = mask_blocks(torch.zeros(B, L, dtype=torch.long), MASK, block_length, seeded(), given, samples=1)
    assert torch.equal(x_t == MASK, is_masked) and not is_masked[:, :given].any()
    for part in is_masked[:, given:].split(1, dim=1) if block_length == 1 else is_masked.split(block_length, dim=1):
        free = part[:, part.any(0)]
        counts = free.sum(1).bincount(minlength=free.size(1) + 1)
        assert counts[0] == 0 or free.size(1) == 0
        if free.size(1) > 1:
            assert chisquare(counts[1:]).pvalue > 1e-4
            assert chisquare(free.sum(0)).pvalue > 1e-4  # no place is favoured


def test_counts_of_two_blocks_are_independent():
    _, is_masked = mask_blocks(torch.zeros(4000, 4, dtype=torch.long), MASK, 2, seeded(), samples=1)
    pairs = 2 * (is_masked[:, :2].sum(1) - 1) + is_masked[:, 2:].sum(1) - 1
    assert chisquare(pairs.bincount(minlength=4)).pvalue > 1e-4


def test_over_copies_of_a_text_every_count_comes_equally_often():
    _, is_masked = mask_blocks(torch.zeros(8 * 3, 12, dtype=torch.long), MASK, 4, seeded(), samples=8)
    k = is_masked.view(8, 3, 3, 4).sum(-1)
    assert all((k == n).sum(0).eq(2).all() for n in (1, 2, 3, 4))


def test_one_block_is_masked_as_plain_diffusion_is():
    x_0 = texts(6)
    k = to_count(stratified(6, rng=(g := seeded())), 10)
    expected = mask_count(x_0, k, MASK, g)
    assert all(map(torch.equal, mask_blocks(x_0, MASK, 10, seeded()), expected))


def test_block_nelbo_by_hand():
    """Blocks of 2, 2 and 1; two nats over one MASK, (1 + 3) over two, five over one: 2 * 2 + 2 * 2 + 5."""
    nll = torch.tensor([[0.0, 2.0, 1.0, 3.0, 5.0]])
    assert block_nelbo(nll, nll > 0, 2).item() == pytest.approx(13 / 5)
    assert block_nelbo(nll, nll > 0, 2, given=1).item() == pytest.approx((2 + 4 + 5) / 4)


# ---- who sees whom ----


@lengths
def test_block_attention_by_its_rule(block_length, L=10):
    """Written out for each pair: (is it clean, its block) sees (is it clean, its block)."""
    block = [i // block_length for i in range(L)]
    page = [(False, b) for b in block] + [(True, b) for b in block if b < block[-1]]
    rule = [[a == b or (b[0] and b[1] < a[1]) for b in page] for a in page]
    assert torch.equal(block_attention(L, block_length), torch.tensor(rule))


@lengths
def test_nothing_flows_to_an_earlier_block(network, block_length, L=10):
    """Through all layers: a noised token tells its own block, a clean one the blocks after its own."""
    net, x_0, everywhere = network(), texts(1), torch.ones(1, L, dtype=torch.bool)
    x_t = x_0.masked_fill(torch.rand(1, L, generator=seeded(3)) < 0.5, MASK)
    block = torch.arange(L) // block_length

    def answers(noised, clean):
        return one_pass(net, clean, MASK, block_length)(noised, everywhere)

    for j in range(L):
        noised, clean = x_t.clone(), x_0.clone()
        noised[0, j], clean[0, j] = (x_t[0, j] + 1) % 5, (x_0[0, j] + 1) % 4
        changed = (answers(noised, x_0) != answers(x_t, x_0)).any(-1)
        assert torch.equal(changed, block == block[j])
        changed = (answers(x_t, clean) != answers(x_t, x_0)).any(-1)
        assert torch.equal(changed, block > block[j])


def test_every_weight_learns(network):
    net, x_0 = network().train(), texts()
    x_t, is_masked = mask_blocks(x_0, MASK, 3, seeded())
    block_nelbo(masked_nll(one_pass(net, x_0, MASK, 3), x_0, x_t, is_masked, MASK), is_masked, 3).mean().backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


# ---- the two ends ----


@pytest.mark.parametrize("given", [0, 3])
@pytest.mark.parametrize("block_length", [10, 16])
def test_one_block_is_plain_diffusion(network, block_length, given):
    """The same weights, the same masks, the same number."""
    net, x_0 = network(), texts()
    blocks = estimate_block_nelbo(net, x_0, MASK, block_length, 8, seeded(), given)
    plain = estimate_nelbo(net, x_0, MASK, 8, seeded(), given)
    torch.testing.assert_close(blocks.per_sequence, plain.per_sequence, **CLOSE)


@pytest.mark.parametrize("given", [0, 1, 4])
def test_blocks_of_one_are_the_chain_rule(network, given, L=10):
    """One position at a time: a clean prefix, a MASK, causal attention, and nothing else on the page."""
    net, x_0 = network(), texts()
    log_p = torch.zeros(3)
    for i in range(given, L):
        page = torch.cat([x_0[:, :i], torch.full((3, 1), MASK)], dim=1)
        logits = net(page, seen=torch.ones(i + 1, i + 1, dtype=torch.bool).tril())[:, -1, :MASK]
        log_p += logits.log_softmax(-1).gather(1, x_0[:, i : i + 1])[:, 0]
    blocks = estimate_block_nelbo(net, x_0, MASK, 1, samples=1, given=given)
    torch.testing.assert_close(blocks.per_sequence, -log_p.double() / (L - given), **CLOSE)


def test_blocks_of_one_leave_nothing_random(network):
    net, x_0 = network(), texts()
    one, other = (estimate_block_nelbo(net, x_0, MASK, 1, samples=1, rng=seeded(s)) for s in (1, 2))
    assert torch.equal(one.per_sequence, other.per_sequence)


def test_blocks_of_one_are_a_distribution(network, L=4):
    """Whatever the weights, the probabilities of all 4^4 texts sum to one: an exact value, not a bound."""
    every = torch.tensor(list(itertools.product(range(MASK), repeat=L)))
    nll = estimate_block_nelbo(network(), every, MASK, 1, samples=1).per_sequence
    assert (-L * nll).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_bound_is_a_bound(network, L=4):
    """exp(-bound) summed over all texts is at most one; with masks drawn, not enumerated, within a percent."""
    every = torch.tensor(list(itertools.product(range(MASK), repeat=L)))
    for block_length in (2, 4):
        bound = estimate_block_nelbo(network(), every, MASK, block_length, 64, seeded())
        assert (-L * bound.per_sequence).exp().sum() < 1.01


# ---- against the truth ----


@pytest.mark.parametrize("given", [0, 3])
@pytest.mark.parametrize("block_length", [1, 2, 3, 4, 12])
def test_an_exact_denoiser_scores_the_truth_at_every_block_length(chain, block_length, given, L=12):
    x_0 = chain.sample(150, L, seeded())
    found = estimate_block_nelbo(chain, x_0, MASK, block_length, 24, seeded(1), given, read=one_by_one)
    off = found.per_sequence - chain.nll(x_0, given)
    stderr = off.std() / len(off) ** 0.5
    assert stderr < 0.03 * found.mean and off.mean().abs() < 4 * stderr + 1e-9


@pytest.mark.parametrize("block_length", [1, 2, 3, 8])
def test_the_page_shows_what_one_block_at_a_time_shows(chain, block_length, L=8):
    """The exact reader sees the page through `seen`; the chain is shown a page for each block."""
    x_0 = chain.sample(5, L, seeded())
    x_t, is_masked = mask_blocks(x_0, MASK, block_length, seeded(1))
    page = one_pass(Reader(chain, L), x_0, MASK, block_length)(x_t, is_masked)
    torch.testing.assert_close(page, one_by_one(chain, x_0, MASK, block_length)(x_t)[is_masked])


@pytest.mark.parametrize("block_length, inside", [(1, "confidence"), (2, "first_hitting"), (3, "left_to_right")])
def test_it_writes_the_language(block_length, inside, n=3000, L=4):
    """Chi-square against the exact joint, through the cache: the reader is told nothing else."""
    chain = MarkovDenoiser(torch.tensor([0.7, 0.3]), torch.tensor([[0.85, 0.15], [0.25, 0.75]]))
    how = {"block_length": block_length, "inside": inside, "rng": seeded()}
    *_, x = write_blocks(Reader(chain, L), torch.full((n, L), chain.mask_id), chain.mask_id, L, **how)
    every = torch.tensor(list(itertools.product(range(2), repeat=L)))
    seen = (x * torch.tensor([8, 4, 2, 1])).sum(1).bincount(minlength=16)
    assert chisquare(seen, (-L * chain.nll(every)).exp() * n).pvalue > 1e-4


# ---- writing with the cache ----


@lengths
def test_the_cache_changes_no_logit(network, block_length, L=10):
    """A block is asked three times, with the cache, without it, and on the page it was trained on."""
    net, x_0, cache = network(), texts(), KVCache(2)
    x_t, _ = mask_blocks(x_0, MASK, block_length, seeded())
    page = one_pass(net, x_0, MASK, block_length)(x_t, torch.ones_like(x_t, dtype=torch.bool)).view(3, L, 5)
    for start in range(0, L, block_length):
        before, part = x_0[:, :start], x_t[:, start : start + block_length]
        whole = torch.cat([before, part], dim=1)
        bare = net(whole, seen=block_causal(whole.size(1), block_length))[:, start:]
        torch.testing.assert_close(page[:, start : whole.size(1)], bare, **CLOSE)
        ask = next_block(net, cache, before, block_length)
        at = torch.arange(part.numel())
        for noise in (part.roll(1, 1), part):  # what was asked before leaves no trace
            logits = ask(noise, at).view(*part.shape, -1)
        torch.testing.assert_close(logits, bare, **CLOSE)
        assert cache.length == start


@lengths
@pytest.mark.parametrize("inside", ["confidence", "ancestral", "remask", "left_to_right"])
def test_it_is_samplers_block_with_a_cache(network, block_length, inside):
    """The same draws from the same generator, state by state. In float64, and after a given block: on a page of nothing
    but MASK all blanks look alike, and rounding alone would say which of two equal guesses is the surer."""
    net, x = network().double(), texts(3)
    x[:, block_length % 10 :] = MASK
    how = {"num_steps": 10, "block_length": block_length, "inside": inside}

    def uncached(x, at):
        return net(x, at=at, seen=block_causal(10, block_length))

    uncached.takes_at = True
    ours, theirs = write_blocks(net, x, MASK, **how, rng=seeded()), block(uncached, x, MASK, **how, rng=seeded())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@hypothesis_given(
    st.lists(st.booleans(), min_size=20, max_size=20), st.integers(1, 11), st.sampled_from(sorted(SAMPLERS))
)
def test_visible_tokens_stay_and_every_mask_is_filled(network, holes, block_length, inside):
    x = texts(2).masked_fill(torch.tensor(holes).view(2, 10), MASK)
    for end_id in (None, 1):
        how = {"block_length": block_length, "inside": inside, "end_id": end_id, "rng": seeded()}
        states = list(write_blocks(network(), x, MASK, 6, **how))
        assert all(torch.equal(state[x != MASK], x[x != MASK]) for state in states)
        assert (states[-1] != MASK).all()


@pytest.mark.parametrize("block_length, per_block", [(1, 1), (4, 1), (4, 2), (4, 4), (16, 5), (5, 2)])
def test_what_it_costs(network, block_length, per_block, L=16):
    """A pass for each step. It reads the block, and once for each block but the last, its finished tokens."""
    blocks = -(-L // block_length)
    net, last = CountForwards(network()), L - (blocks - 1) * block_length
    states = list(write_blocks(net, torch.full((2, L), MASK), MASK, per_block * blocks, block_length=block_length))
    steps = (blocks - 1) * min(per_block, block_length) + min(per_block, last)
    assert net.passes == len(states) == steps
    read = (blocks - 1) * block_length * (min(per_block, block_length) + 1) + last * min(per_block, last)
    assert net.token_forwards == 2 * read


def test_a_prompt_is_read_once(network):
    """Nine given tokens and blocks of four: the first pass reads two full blocks and the one it writes in."""
    x = texts(1, 16)
    x[:, 9:] = MASK
    net = CountForwards(network())
    list(write_blocks(net, x, MASK, 2, block_length=4))
    assert (net.passes, net.token_forwards) == (2, 12 + 8)


# ---- the end of a text ----


@pytest.fixture(scope="module")
def letters() -> MarkovDenoiser:
    """A coin of 0 and 1 until END (2) comes, which stays. MASK is 3."""
    return MarkovDenoiser(
        torch.tensor([0.5, 0.4, 0.1]), torch.tensor([[0.3, 0.4, 0.3], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    )


@pytest.mark.parametrize("block_length", [1, 2, 3])
def test_texts_end_and_are_the_language(letters, block_length, n=3000, L=4):
    """In this language END is followed by END: writing it all and stopping early are one distribution."""
    how = {"block_length": block_length, "inside": "first_hitting", "end_id": 2, "rng": seeded()}
    *_, x = write_blocks(Reader(letters, L), torch.full((n, L), 3), 3, **how)
    every = torch.tensor(list(itertools.product(range(3), repeat=L)))
    expected = (-L * letters.nll(every)).exp() * n
    seen = (x * torch.tensor([27, 9, 3, 1])).sum(1).bincount(minlength=81)
    assert seen[expected == 0].sum() == 0
    assert chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-4


def always(token: int):
    """A reader that says one token everywhere."""

    def model(x, at, cache, seen):
        cache.extend(0, x[:, None, :, None], x[:, None, :, None])
        return torch.full((len(at), 5), -30.0).index_fill(1, torch.tensor([token]), 0.0)

    model.takes_at, model.cfg = True, SimpleNamespace(n_layer=1)
    return CountForwards(model)


def test_no_pass_after_the_last_text_has_ended():
    end, go_on = always(1), always(0)
    for model, passes in ((end, 1), (go_on, 4)):
        *_, x = write_blocks(model, torch.full((2, 16), MASK), MASK, 4, block_length=4, end_id=1, rng=seeded())
        assert model.passes == passes and (x == (model is end)).all()


def test_only_an_end_that_was_written_ends():
    """END in the prompt is text; what stands visible after the end stays."""
    x = torch.tensor([[1, 0, MASK, MASK, 0, MASK, 3, MASK]])
    *_, x = write_blocks(always(1), x, MASK, 2, block_length=4, end_id=1, rng=seeded())
    assert x.tolist() == [[1, 0, 1, 1, 0, 1, 3, 1]]
    x = torch.tensor([[1, 0, MASK, MASK, 0, MASK, 3, MASK]])
    *_, x = write_blocks(always(2), x, MASK, 2, block_length=4, end_id=1, rng=seeded())
    assert x.tolist() == [[1, 0, 2, 2, 0, 2, 3, 2]]


# ---- errors say what is wrong ----


def test_a_text_longer_than_the_window_is_refused(network):
    with pytest.raises(ValueError, match="17 positions do not fit a window of 16"):
        estimate_block_nelbo(network(), texts(1, 17), MASK, 4)
    with pytest.raises(ValueError, match="20 positions do not fit a window of 16"):
        list(write_blocks(network(), torch.full((1, 20), MASK), MASK, 5, block_length=4))


def test_scoring_nothing_is_refused(network):
    with pytest.raises(ValueError, match="given = 10 leaves nothing to score"):
        estimate_block_nelbo(network(), texts(), MASK, 4, given=10)
