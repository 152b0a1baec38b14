"""Options of the backbone: what they change, and that a network that is told t is a denoiser like any other."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from microdlm.attention import KVCache
from microdlm.errors import UserError
from microdlm.likelihood import estimate_nelbo
from microdlm.objectives import masked_nll
from microdlm.samplers import SAMPLERS
from microdlm.schedules import SCHEDULES
from microdlm.state import State, TrainConfig
from microdlm.stories import PRESETS, TEXTS, VOCABULARY
from microdlm.transformer import BLOCKS, Transformer, TransformerConfig

MASK = 4
TIMES = ("add", "adaln")
times = pytest.mark.parametrize("time", TIMES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def half_masked(B: int = 3, L: int = 10) -> torch.Tensor:
    x = torch.randint(0, MASK, (B, L), generator=seeded(5))
    return x.masked_fill(torch.rand(B, L, generator=seeded(6)) < torch.tensor([[0.2], [0.5], [1.0]])[:B], MASK)


# A hint that says nothing yet


@times
@pytest.mark.parametrize("tied", [False, True])
def test_a_fresh_hint_changes_no_bit(network, time, tied):
    """All other weights far from zero and the same: every logit is equal, not nearly equal."""
    plain, told = network(tied=tied), network(tied=tied, time=time)
    told.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.zeros_(told.time.out.weight)  # as a fresh network has it
    assert torch.equal(told(half_masked()), plain(half_masked()))
    torch.nn.init.normal_(told.time.out.weight, generator=seeded())
    assert not torch.allclose(told(half_masked()), plain(half_masked()), atol=1e-2)


@pytest.mark.parametrize("option", [{"time": "add"}, {"time": "adaln"}, {"positions": "learned"}], ids=str)
def test_one_seed_gives_the_rest_of_the_network_the_same_weights(option):
    sizes = dict(vocab_size=5, seq_len=16, n_layer=2, n_head=2, d_model=16)
    plain, other = (Transformer(TransformerConfig(**sizes, **o), seeded(3)).state_dict() for o in ({}, option))
    assert all(torch.equal(other[name], p) for name, p in plain.items())
    assert "time" not in option or (other["time.out.weight"] == 0).all()


@times
def test_what_is_told_is_learnt(time):
    """Not two zeros in a row: after a few steps of training every weight has moved, the gates among them."""
    sizes = dict(n_layer=2, n_head=2, d_model=16, time=time, positions="learned")
    net = Transformer(TransformerConfig(5, 16, **sizes), seeded())
    before, cfg = {name: p.clone() for name, p in net.named_parameters()}, TrainConfig(steps=9, batch_size=4)
    state, x_0 = State(net, cfg), torch.randint(0, MASK, (4, 16), generator=seeded())
    for _ in range(4):
        x_t = x_0.masked_fill(torch.rand(4, 16, generator=state.rng) < 0.5, MASK)
        masked_nll(net, x_0, x_t, x_t == MASK, MASK).sum().backward()
        state.optimizers[0].step()
    assert all((p != before[name]).any() for name, p in net.named_parameters())
    moved = net.time.out.weight.view(-1, 16, 16).abs().amax((1, 2))
    assert len(moved) == {"add": 1, "adaln": 6 * 2 + 2}[time] and (moved > 0).all()


# t is counted


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_t_is_where_the_schedule_masks_so_many(network, schedule):
    """Every k of L: alpha of the t that is told is the share that is visible, where the schedule reaches it."""
    net, s, L = network(time="add", schedule=schedule), SCHEDULES[schedule], 16
    rows = torch.arange(L + 1)[:, None] > torch.arange(L)  # k of L, for every k
    u, (low, high) = rows.float().mean(1), s.ends
    t = net.time.time(torch.where(rows, MASK, 1))
    torch.testing.assert_close(1 - s.alpha(t), u.clamp(low, high), atol=2e-3, rtol=0)
    assert t.diff().min() >= 0


@times
def test_t_says_how_many_and_not_which(network, time):
    net = network(time=time)
    a, b, c = torch.tensor([[[MASK, MASK, 1, 2]], [[1, MASK, 2, MASK]], [[MASK, MASK, MASK, 2]]])
    told = [torch.cat(net.time(x)) for x in (a, b, c)]
    assert torch.equal(told[0], told[1]) and not torch.allclose(told[0], told[2], atol=1e-3)


@times
def test_near_shares_are_told_apart(network, time):
    """One of 1,024 more: the waves must not be too slow."""
    net = network(time=time, d_model=64, seq_len=1024)
    x = torch.where(torch.arange(1024) < torch.tensor([[511], [512], [0], [1]]), MASK, 1)
    one, two, none, first = torch.cat(net.time(x), dim=1)
    assert (one - two).norm() > 0.05 * one.norm() and (none - first).norm() > 0.05 * none.norm()


# A denoiser like any other


@times
def test_rows_do_not_hear_of_one_another_and_at_selects(network, time):
    """A text alone, in a batch, or asked at a few places: the same logits."""
    net, x = network(time=time), half_masked()
    whole = net(x)
    torch.testing.assert_close(torch.cat([net(row[None]) for row in x]), whole, rtol=1e-4, atol=1e-5)
    at = torch.rand(x.shape, generator=seeded()) < 0.4
    torch.testing.assert_close(net(x, at=at), whole[at], rtol=1e-4, atol=1e-5)


@times
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_it(network, time, sampler):
    """The samplers know of no t; what is given stays, and no MASK is left."""
    x = half_masked()
    *_, written = SAMPLERS[sampler](network(time=time), x, MASK, 8, rng=seeded())
    assert (written < MASK).all() and torch.equal(written[x != MASK], x[x != MASK])


@times
def test_its_bound_is_the_mean_over_every_mask_there_is(network, time):
    """estimate_nelbo against all subsets by hand, where t is told from the subset."""
    net, x_0 = network(time=time), torch.tensor([[0, 3, 1]])
    exact = 0.0
    for bits in range(1, 8):
        here = torch.tensor([[bool(bits >> i & 1) for i in range(3)]])
        k = int(here.sum())
        log_p = net(x_0.masked_fill(here, MASK))[..., :MASK].double().log_softmax(-1)
        exact -= log_p[here].gather(1, x_0[here][:, None]).mean().item() / math.comb(3, k) / 3
    draws = torch.tensor([estimate_nelbo(net, x_0, MASK, 60, seeded(s)).mean for s in range(40)])
    assert abs(draws.mean() - exact) < 4 * draws.std() / 40**0.5 and draws.std() / 40**0.5 < 0.02 * exact


# Learned positions


def test_learned_positions_are_all_that_tells_places_apart(network):
    """With the vectors at zero and no rotation, tokens in another order give the same logits in that order."""
    net, x, order = network(positions="learned"), torch.tensor([[0, 1, 2, 3, MASK]]), torch.tensor([3, 0, 4, 1, 2])
    assert not torch.allclose(net(x[:, order]), net(x)[:, order], atol=1e-2)
    torch.nn.init.zeros_(net.places.weight)
    torch.testing.assert_close(net(x[:, order]), net(x)[:, order], rtol=1e-4, atol=1e-5)
    rotated = network()
    assert not torch.allclose(rotated(x[:, order]), rotated(x)[:, order], atol=1e-2)


def test_a_gpt_with_learned_positions_reads_in_pieces(network):
    gpt, cache = network(positions="learned", causal=True), KVCache(2)
    x = torch.randint(0, 4, (2, 16), generator=seeded())
    pieces = torch.cat([gpt(piece, cache=cache) for piece in x.split([5, 1, 10], dim=1)], dim=1)
    torch.testing.assert_close(pieces, gpt(x), rtol=1e-4, atol=1e-5)


# Refused, and old


@times
def test_a_gpt_is_told_no_time(time):
    with pytest.raises(UserError, match="a GPT masks nothing") as refused:
        TransformerConfig(5, 16, causal=True, time=time)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [{"time": "film"}, {"positions": "alibi"}, {"schedule": "cosin"}], ids=str)
def test_unknown_options_are_refused(wrong):
    with pytest.raises(ValueError, match="is not one of"):
        TransformerConfig(5, 16, **wrong)


@times
def test_t_of_a_part_is_no_t(network, time):
    seen = torch.ones(10, 10, dtype=torch.bool)
    for part in ({"seen": seen}, {"seen": seen, "cache": KVCache(2)}):
        with pytest.raises(ValueError, match="t is counted over a whole text"):
            network(time=time)(half_masked(), **part)


def test_a_configuration_from_before_is_the_plain_network():
    new = {"positions": "rope", "time": "none", "schedule": "linear"}
    old = {key: value for key, value in asdict(TransformerConfig(66, 256)).items() if key not in new}
    assert TransformerConfig(**old) == TransformerConfig(66, 256)
    assert {key: getattr(TransformerConfig(66, 256), key) for key in new} == new
    assert set(BLOCKS) == {"none", *TIMES}


# The presets


@pytest.mark.parametrize("name, millions", [("tinystories-45m", 44.8), ("tinystories-142m", 141.6)])
def test_the_presets_are_as_large_as_their_names(name, millions):
    """By hand: 12 D² a layer, the tables, and for adaLN six D² a layer, two at the end, and the waves' matrix."""
    (L, sizes, _), V = PRESETS[name], VOCABULARY[name] + 1
    with torch.device("meta"):
        net = Transformer(TransformerConfig(V, L, **sizes))
    D, layers = sizes["d_model"], sizes["n_layer"]
    by_hand = 12 * D**2 * layers + V * D * (1 if "tied" in sizes else 2)
    if "time" in sizes:
        by_hand += (6 * layers + 2) * D**2 + 256 * D + L * D
    assert net.num_parameters() == by_hand and by_hand / 1e6 == pytest.approx(millions, abs=0.05)


def test_each_budget_has_a_text():
    assert TEXTS.keys() == PRESETS.keys() == VOCABULARY.keys()
    assert all(replace(how, seed=1).steps > 0 for *_, how in PRESETS.values())
