"""Training objectives. All are negative log-likelihoods, or bounds on one, in nats per token.

The bound of masked diffusion is written twice. In time (2406.07524, eq. 10):

    nelbo = E_t  -alpha'/(1 - alpha)  1/L  sum over masked i of  -log p(x_0,i | x_t)

and in counts. Integrating over t leaves no schedule: with k ~ U{1..L} tokens masked,

    nelbo = E_k  1/k  sum over masked i of  -log p(x_0,i | x_t)

The second *is* the bound with no weight at all, and has less variance: it is what we train on.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def denoise_log_probs(logits: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], mask_id: int) -> Float[Tensor, "B L V"]:
    """SUBS (2406.07524, sec. 3.2.3): log p(x_0 | x_t) from logits, with the two things we know beforehand.

    Zero masking probability: clean text holds no MASK. Carry-over: a visible token is already x_0.
    """
    log_p = without_mask(logits, mask_id).log_softmax(-1)
    carried = torch.full_like(log_p, -torch.inf).scatter(-1, x_t[..., None], 0.0)
    return torch.where((x_t == mask_id)[..., None], log_p, carried)


def without_mask(logits: Float[Tensor, "*rows V"], mask_id: int) -> Float[Tensor, "*rows V"]:
    """The first half of SUBS. A model whose vocabulary has no MASK (GPT) passes through."""
    is_mask = torch.arange(logits.size(-1), device=logits.device) == mask_id
    return logits.masked_fill(is_mask, -torch.inf)


def logits_at(
    denoiser, x_t: Int[Tensor, "B L"], at: Bool[Tensor, "B L"] | Int[Tensor, "M"], **options
) -> Float[Tensor, "M V"]:
    """The rows of denoiser(x_t) at `at`, given as a mask or as positions in the flattened page. A network that says
    `takes_at` (ours does) makes no other rows."""
    if getattr(denoiser, "takes_at", False):
        return denoiser(x_t, at=at, **options)
    return denoiser(x_t, **options).flatten(0, 1)[at.flatten()]


def masked_nll(denoiser, x_0, x_t, is_masked, mask_id: int) -> Float[Tensor, "B L"]:
    """-log p(x_0,i | x_t) in nats where is_masked, 0 elsewhere. Our own network makes logits only there."""
    rows = logits_at(denoiser, x_t, is_masked)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))  # a sum of logs in bfloat16 is no number
    nll = F.cross_entropy(without_mask(rows, mask_id), x_0[is_masked], reduction="none")
    return torch.zeros(x_0.shape, dtype=nll.dtype, device=nll.device).masked_scatter(is_masked, nll)


def nelbo(
    log_p: Float[Tensor, "B L V"],
    x_0: Int[Tensor, "B L"],
    is_masked: Bool[Tensor, "B L"],
    weight_t: Float[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """The bound in time, one draw of t for each sequence: weighted sum over masked tokens, divided by L.

    By L, not by how many are masked: the weight already knows how many are.
    """
    nll = -log_p.gather(-1, x_0[..., None]).squeeze(-1)
    return weight_t * torch.where(is_masked, nll, 0.0).sum(1) / x_0.size(1)


def count_nelbo(nll: Float[Tensor, "B L"], is_masked: Bool[Tensor, "B L"]) -> Float[Tensor, "B"]:
    """The bound in counts, when k ~ U{1..L} tokens of each sequence were masked: the mean over those k."""
    return nll.sum(1) / is_masked.sum(1)


def next_token_nll(logits: Float[Tensor, "B L V"], x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
    """GPT's exact -log p(x_1.. | x_0), nats per token. Row i predicts token i + 1; nothing predicts the first."""
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), x_0[:, 1:], reduction="none")
    return nll.mean(1)
