"""SUBS, the two forms of the bound and the next-token loss, each against a version with loops and no tricks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from microdlm.cost import CountForwards
from microdlm.masking import mask_count
from microdlm.objectives import count_nelbo, denoise_log_probs, logits_at, masked_nll, nelbo, next_token_nll

B, L, V, MASK = 3, 6, 5, 4


def case(seed: int, k: int = 3):
    """Random logits, clean text, the same text with k tokens masked in each row."""
    g = torch.Generator().manual_seed(seed)
    x_0 = torch.randint(0, MASK, (B, L), generator=g)
    x_t, is_masked = mask_count(x_0, torch.full((B,), k), MASK, g)
    return torch.randn(B, L, V, generator=g) * 3, x_0, x_t, is_masked


@given(st.integers(0, 1000), st.integers(0, L))
def test_subs_is_a_distribution_over_clean_text(seed, k):
    """Normalised; nothing on MASK; a visible token is certain; a masked one is softmax over the other V - 1."""
    logits, x_0, x_t, is_masked = case(seed, k)
    p = denoise_log_probs(logits, x_t, MASK).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones(B, L))
    assert (p[..., MASK] == 0).all()
    assert torch.equal(p[~is_masked], torch.nn.functional.one_hot(x_0[~is_masked], V).float())
    torch.testing.assert_close(p[is_masked][:, :MASK], logits[is_masked][:, :MASK].softmax(-1))


@given(st.integers(0, 1000), st.integers(0, L))
def test_nelbo_is_the_weighted_sum_over_masked_tokens_divided_by_length(seed, k):
    logits, x_0, x_t, is_masked = case(seed, k)
    weight = torch.tensor([0.5, 1.0, 7.0])
    expected = torch.zeros(B)
    for b in range(B):
        for i in range(L):
            if x_t[b, i] == MASK:
                p = logits[b, i, :MASK].softmax(-1)[x_0[b, i]]
                expected[b] -= weight[b] * p.log() / L
    torch.testing.assert_close(nelbo(denoise_log_probs(logits, x_t, MASK), x_0, is_masked, weight), expected)


def test_masked_nll_is_the_gathered_log_probability_and_zero_where_visible():
    logits, x_0, x_t, is_masked = case(0)
    expected = -denoise_log_probs(logits, x_t, MASK).gather(-1, x_0[..., None]).squeeze(-1)
    got = masked_nll(lambda x: logits, x_0, x_t, is_masked, MASK)
    torch.testing.assert_close(got, expected)
    assert (got[~is_masked] == 0).all() and (got[is_masked] > 0).all()


def test_masked_nll_keeps_the_digits_of_an_exact_denoiser():
    """An oracle answers in float64; float32 would cost 9 of its 16 digits. Half precision is raised to float32."""
    logits, x_0, x_t, is_masked = case(0)
    assert masked_nll(lambda x: logits.double(), x_0, x_t, is_masked, MASK).dtype == torch.float64
    assert masked_nll(lambda x: logits.bfloat16(), x_0, x_t, is_masked, MASK).dtype == torch.float32


@pytest.mark.parametrize("k", [0, 1, L])
def test_our_network_makes_logits_only_where_masked_and_the_same_ones(network, k):
    net, (_, x_0, x_t, is_masked) = network(vocab_size=V), case(0, k)
    rows = []
    net.head.register_forward_hook(lambda module, inputs, logits: rows.append(logits.shape[:-1].numel()))
    own = masked_nll(net, x_0, x_t, is_masked, MASK)
    torch.testing.assert_close(own, masked_nll(lambda x: net(x), x_0, x_t, is_masked, MASK))
    assert rows == [B * k, B * L]
    torch.testing.assert_close(own, masked_nll(CountForwards(net), x_0, x_t, is_masked, MASK))
    where = is_masked.flatten().nonzero().squeeze(1)
    for denoiser in (net, CountForwards(net), lambda x: net(x)):
        torch.testing.assert_close(logits_at(denoiser, x_t, where), net(x_t)[is_masked])
        torch.testing.assert_close(logits_at(denoiser, x_t, is_masked), net(x_t)[is_masked])


def test_count_nelbo_is_the_mean_over_the_masked():
    logits, x_0, x_t, is_masked = case(0, 2)
    nll = masked_nll(lambda x: logits, x_0, x_t, is_masked, MASK)
    expected = torch.stack([nll[b][is_masked[b]].mean() for b in range(B)])
    torch.testing.assert_close(count_nelbo(nll, is_masked), expected)


def test_next_token_nll_is_the_chain_rule():
    """Row i answers for token i + 1: the last row and the first token answer for nothing."""
    logits, x_0, *_ = case(0)
    expected = [-sum(logits[b, i].log_softmax(-1)[x_0[b, i + 1]] for i in range(L - 1)) / (L - 1) for b in range(B)]
    torch.testing.assert_close(next_token_nll(logits, x_0), torch.stack(expected))


@pytest.mark.parametrize("form", ["time", "counts"])
def test_only_masked_positions_teach(form):
    """The gradient with respect to the logits: zero where visible, zero on MASK, finite, and p - one-hot elsewhere."""
    logits, x_0, x_t, is_masked = case(0, 2)
    logits.requires_grad_()
    if form == "time":
        loss = nelbo(denoise_log_probs(logits, x_t, MASK), x_0, is_masked, torch.full((B,), L / 2))
    else:
        loss = count_nelbo(masked_nll(lambda x: logits, x_0, x_t, is_masked, MASK), is_masked)
    loss.sum().backward()
    p = denoise_log_probs(logits, x_t, MASK).exp().detach()
    expected = (p - torch.nn.functional.one_hot(x_0, V)) / 2  # weight / L = 1/2 = one over the number masked
    assert (expected[~is_masked] == 0).all() and (expected[is_masked].abs().sum(-1) > 0).all()
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-6)
