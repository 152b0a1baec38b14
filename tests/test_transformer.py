"""One backbone, one switch: what `causal` changes, and that `at`, the cache and the batch change nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from microdlm.attention import Attention, KVCache, attend, rotation_angles, seen_by_new
from microdlm.objectives import masked_nll, next_token_nll
from microdlm.transformer import Transformer, TransformerConfig

EXACT = {"rtol": 1e-4, "atol": 1e-5}  # float32, sums in another order

switch = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens(B: int = 2, L: int = 10, V: int = 5) -> torch.Tensor:
    return torch.randint(0, V, (B, L), generator=seeded(5))


# ---- sizes ----

SMALL = {"vocab_size": 66, "seq_len": 256, "n_layer": 6, "n_head": 6, "d_model": 384}
GPT2 = {
    "vocab_size": 50_258,
    "seq_len": 1024,
    "n_layer": 12,
    "n_head": 12,
    "d_model": 768,
    "mlp": "swiglu",
    "tied": True,
}


@switch
@pytest.mark.parametrize("sizes, count", [(SMALL, 10_667_520), (GPT2, 123_532_800)], ids=["10.7M", "124M"])
def test_parameter_counts(sizes, count, causal):
    """Twins weigh the same. By hand: 2 V D (V D if tied) + layers * (4 + 8) D^2; SwiGLU's 3 * 8/3 are the same 8."""
    with torch.device("meta"):
        net = Transformer(TransformerConfig(**sizes, causal=causal))
    V, D, layers = sizes["vocab_size"], sizes["d_model"], sizes["n_layer"]
    assert net.num_parameters() == count == (1 if "tied" in sizes else 2) * V * D + layers * 12 * D**2


def test_tied_means_one_table(network):
    net = network(tied=True)
    assert net.head.weight is net.embedding.weight
    assert network().num_parameters() - net.num_parameters() == net.embedding.weight.numel()


# ---- the switch ----


@switch
@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_an_edit_reaches_every_position_unless_causal(network, causal, mlp, n_layer, L=10):
    """Edit token j: the logits at i change if i >= j, and for i < j if and only if not causal."""
    net, x = network(causal=causal, mlp=mlp, n_layer=n_layer), tokens(1, L)
    for j in range(L):
        edited = x.clone()
        edited[0, j] = (x[0, j] + 1) % 5
        changed = (net(edited) != net(x)).any(-1)[0]
        assert changed.tolist() == [i >= j or not causal for i in range(L)]


def test_causal_is_the_only_switch(network):
    """Same weights, same function, but for what is seen: the last row of a GPT sees everything a denoiser of one
    layer sees there."""
    gpt, denoiser = network(causal=True, n_layer=1), network(causal=False, n_layer=1)
    assert all(map(torch.equal, gpt.parameters(), denoiser.parameters()))
    x = tokens()
    torch.testing.assert_close(gpt(x)[:, -1], denoiser(x)[:, -1], **EXACT)
    assert not torch.allclose(gpt(x)[:, 0], denoiser(x)[:, 0], atol=1e-3)


@switch
def test_rows_of_a_batch_do_not_meet(network, causal):
    net, x = network(causal=causal), tokens(4)
    torch.testing.assert_close(net(x), torch.cat([net(row[None]) for row in x]), **EXACT)


def test_a_denoiser_knows_positions(network):
    """The same tokens in another order are another text: without RoPE bidirectional attention could not tell."""
    net, x = network(), torch.tensor([[0, 1, 2, 3, 4]])
    swapped = torch.tensor([[1, 0, 2, 3, 4]])
    assert (net(x)[0, 4] - net(swapped)[0, 4]).abs().max() > 1e-3


# ---- what must change nothing ----


@switch
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_at_selects_rows_of_the_full_logits(network, causal, share):
    net, x = network(causal=causal), tokens(3)
    at = torch.rand(3, 10, generator=seeded()) < share
    torch.testing.assert_close(net(x, at=at), net(x)[at], **EXACT)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=10).filter(lambda sizes: sum(sizes) <= 16))
@settings(max_examples=30)
def test_reading_in_pieces_with_a_cache_is_reading_at_once(network, sizes):
    gpt, x, cache = network(causal=True), tokens(2, sum(sizes)), KVCache(2)
    pieces = torch.cat([gpt(piece, cache=cache) for piece in x.split(sizes, dim=1)], dim=1)
    assert cache.length == sum(sizes)
    torch.testing.assert_close(pieces, gpt(x), **EXACT)


def test_a_cache_with_room_never_moves_what_it_holds(network):
    """All of it is made at once; without room it grows by doubling, and what is read is the same."""
    gpt, x, cache, growing = network(causal=True), tokens(2, 16), KVCache(2, room=16), KVCache(2)
    places, sizes = set(), []
    for i in range(16):
        one, other = (gpt(x[:, i : i + 1], cache=c) for c in (cache, growing))
        torch.testing.assert_close(one, other, **EXACT)
        places.add(cache.layers[1].data_ptr())
        sizes.append(growing.layers[1].size(3))
    assert len(places) == 1 and sorted(set(sizes)) == [1, 2, 4, 8, 16] and cache.length == 16


def test_attention_depends_on_distance_only(network):
    """RoPE: the same vectors 1000 positions further along attend alike; stretched apart they do not."""
    attention: Attention = network().blocks[0].attention
    x = torch.randn(1, 6, 16, generator=seeded())

    def attend(positions):
        angles = rotation_angles(positions, 8, 10_000.0)
        return attention(x, angles.cos(), angles.sin(), 0, None)

    here = attend(torch.arange(6))
    torch.testing.assert_close(attend(torch.arange(6) + 1000), here, rtol=1e-3, atol=1e-4)
    assert (attend(torch.arange(6) * 2) - here).abs().max() > 1e-2


def test_rotation_turns_pair_i_by_base_to_the_minus_2i_over_k():
    angles = rotation_angles(torch.tensor([0, 1, 7]), 6, 10_000.0)
    expected = torch.tensor([[p * 10_000 ** (-2 * i / 6) for i in range(3)] for p in (0, 1, 7)])
    torch.testing.assert_close(angles, expected)


# ---- a fresh model ----


@switch
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("D", [64, 768])
def test_a_fresh_model_knows_nothing_and_claims_nothing(causal, tied, D, V=1000):
    """The first loss is ln V, within 2%, at any width: the GPT's on the next token, the denoiser's on MASKs."""
    cfg = TransformerConfig(V, 64, n_layer=1, n_head=4, d_model=D, causal=causal, tied=tied)
    net, x = Transformer(cfg, seeded()), tokens(4, 64, V - 1)
    with torch.no_grad():
        if causal:
            loss = next_token_nll(net(x), x).mean()
        else:
            at = torch.rand(x.shape, generator=seeded()) < 0.5
            loss = masked_nll(net, x, x.masked_fill(at, V - 1), at, V - 1).sum() / at.sum()
    assert loss.item() == pytest.approx(math.log(V), rel=0.02)


def test_a_fresh_block_is_the_identity():
    net = Transformer(TransformerConfig(5, 16, n_layer=3, n_head=2, d_model=16), seeded())
    h, angles = torch.randn(2, 7, 16), rotation_angles(torch.arange(7), 8, 10_000.0)
    for block in net.blocks:
        assert torch.equal(block(h, angles.cos(), angles.sin(), 0, None), h)


def test_the_generator_decides_the_weights():
    cfg = TransformerConfig(5, 16, n_layer=1, n_head=2, d_model=16)
    one, same, other = (Transformer(cfg, seeded(s)) for s in (1, 1, 2))
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


@switch
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
def test_every_weight_learns(network, causal, tied, mlp):
    """No dead branch: each parameter matrix gets a gradient."""
    net = network(causal=causal, tied=tied, mlp=mlp).train()
    net(tokens()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_dropout_only_while_training(network):
    net, x = network(dropout=0.5), tokens()
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))
    assert torch.equal(network(dropout=0.0).train()(x), network()(x))


# ---- errors say what is wrong ----


def test_a_text_longer_than_the_window_is_refused(network):
    gpt, cache = network(causal=True), KVCache(2)
    with pytest.raises(ValueError, match="17 positions do not fit a window of 16"):
        gpt(tokens(1, 17))
    gpt(tokens(1, 12), cache=cache)
    with pytest.raises(ValueError, match="17 positions do not fit a window of 16"):
        gpt(tokens(1, 5), cache=cache)


def test_a_cache_for_a_bidirectional_model_is_refused(network):
    with pytest.raises(ValueError, match="a cache needs a causal model"):
        network()(tokens(), cache=KVCache(2))


@pytest.mark.parametrize(
    "wrong, says", [({"n_head": 5}, "5 heads"), ({"n_head": 16}, "even"), ({"mlp": "gelu"}, "gelu")]
)
def test_impossible_sizes_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        TransformerConfig(**{"vocab_size": 5, "seq_len": 8, "n_head": 2, "d_model": 16} | wrong)


@pytest.mark.parametrize("how", ["everyone", "causal", "a mask"])
def test_attention_written_out_is_attention(how):
    """On a CPU, bfloat16 takes another way than float32. Both against the formula in float64, value and gradient: the
    rounding of bfloat16 (8 bits) is all that may lie between them."""
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 7, 8, generator=g).bfloat16().double()
    seen = {"everyone": None, "causal": None, "a mask": torch.rand(7, 7, generator=g) < 0.5}[how]
    seen = None if seen is None else seen | torch.eye(7, dtype=torch.bool)
    allowed = seen_by_new(7, 7, "cpu") if how == "causal" else torch.ones(7, 7).bool() if seen is None else seen

    def formula(q):
        return ((q @ k.transpose(-1, -2)) / 8**0.5).masked_fill(~allowed, -torch.inf).softmax(-1) @ v

    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        x, y = q.to(dtype).requires_grad_(), q.clone().requires_grad_()
        found = attend(x, k.to(dtype), v.to(dtype), seen, causal=how == "causal")
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), formula(y), atol=tolerance, rtol=tolerance)
        found.double().square().sum().backward()
        formula(y).square().sum().backward()
        torch.testing.assert_close(x.grad.double(), y.grad, atol=5 * tolerance, rtol=5 * tolerance)
