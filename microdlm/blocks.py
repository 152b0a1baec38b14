"""What lies between a GPT and a diffusion model: blocks from left to right, inside a block any order (2503.09573).

A text is cut in blocks of `block_length` tokens. The chain rule over blocks, and in each the bound of diffusion, give

    -log p(x_0)  <=  sum over blocks of  n E_k 1/k  sum over its masked i of  -log p(x_0,i | the block, what is before)

with k ~ U{1..n} of the block's n tokens masked. One block is plain diffusion. In blocks of one token k can only be 1:
nothing is random, and the bound is the GPT's exact chain rule, asked of a MASK that stands where the answer belongs.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from microdlm.attention import KVCache
from microdlm.likelihood import ROWS, Estimate, num_scored
from microdlm.masking import stratified, uniform
from microdlm.objectives import logits_at, masked_nll
from microdlm.samplers import SAMPLERS
from microdlm.stepping import States, sampler


def fold(values: Tensor, block_length: int, fill: float | bool) -> Tensor:
    """(B, L) -> (B, blocks, block_length); what the last block lacks is `fill`."""
    return F.pad(values, (0, -values.size(1) % block_length), value=fill).unflatten(1, (-1, block_length))


def scored_in(x_0: Int[Tensor, "B L"], block_length: int, given: int) -> Int[Tensor, "blocks"]:
    """n of each block: its tokens, but for the first `given` of the text."""
    num_scored(x_0, given)  # says so if that is none
    return fold(torch.arange(x_0.size(1), device=x_0.device)[None] >= given, block_length, False).sum(-1)[0]


def mask_blocks(
    x_0: Int[Tensor, "B L"], mask_id: int, block_length: int, rng=None, given: int = 0, samples: int | None = None
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """In each block mask k ~ U{1..n} of its n tokens, every subset alike. The first `given` of the text stay visible.

    k is spread evenly over the rows, or if they are `samples` copies of some texts, over the copies."""
    n, samples = scored_in(x_0, block_length, given), samples or len(x_0)
    u = stratified(samples, len(x_0) // samples, len(n), rng=rng, device=x_0.device).flatten(0, 1)
    k = torch.minimum((u * n).long() + 1, n)
    order = uniform(x_0.shape, x_0.device, rng)
    order[:, :given] = 2.0  # last in line
    rank = fold(order, block_length, 2.0).argsort(-1).argsort(-1)  # among the random numbers of its block
    is_masked = (rank < k[..., None]).flatten(1)[:, : x_0.size(1)]
    return x_0.masked_fill(is_masked, mask_id), is_masked


def block_nelbo(nll: Float[Tensor, "B L"], is_masked: Bool[Tensor, "B L"], block_length: int, given=0) -> Tensor:
    """(B,) the bound, nats per token: of each block the mean over its masked tokens, for each of its n."""
    n, k = scored_in(is_masked.long(), block_length, given), fold(is_masked, block_length, False).sum(-1)
    return (n * fold(nll, block_length, 0.0).sum(-1) / k.clamp(min=1)).sum(1) / n.sum()


def block_attention(L: int, block_length: int, device=None) -> Bool[Tensor, "page page"]:
    """Who (row) sees whom (column) on the page [x_t, x_0]: everyone their own block, noised or clean as they are, and
    the clean blocks before it. The last clean block is left out: nobody would see it.

    >>> block_attention(3, 1).int().tolist()  # three blocks noised, then two clean
    [[1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    """
    block = torch.arange(L, device=device) // block_length
    block = torch.cat([block, block[block < block[-1]]])
    is_clean = torch.arange(len(block), device=device) >= L
    own = (block[:, None] == block) & (is_clean[:, None] == is_clean)
    return own | (is_clean & (block < block[:, None]))


def one_pass(model, x_0: Int[Tensor, "B L"], mask_id: int, block_length: int, attention=block_attention) -> Callable:
    """x_t -> logits, where each block of x_t knows the blocks of x_0 before it: a Transformer reads both at once."""
    L, seen = x_0.size(1), attention(x_0.size(1), block_length, x_0.device)
    positions = torch.arange(L, device=x_0.device).repeat(2)[: len(seen)]  # a token and its clean copy share a place
    if L > model.cfg.seq_len:
        raise ValueError(f"{L} positions do not fit a window of {model.cfg.seq_len}")

    def denoiser(x_t, at):
        page, at = torch.cat([x_t, x_0], dim=1)[:, : len(seen)], F.pad(at, (0, len(seen) - L), value=False)
        return model(page, at=at, seen=seen, positions=positions)

    denoiser.takes_at = True
    return denoiser


def one_by_one(denoiser, x_0: Int[Tensor, "B L"], mask_id: int, block_length: int) -> Callable:
    """The same of any denoiser, an exact one for instance: a pass for each block, and what comes after it is MASK."""
    place = torch.arange(x_0.size(1), device=x_0.device)

    def rows(x_t, here):
        page = torch.where(place < here[0], x_0, torch.where(place > here[-1], mask_id, x_t))
        return denoiser(page)[:, here]

    return lambda x_t: torch.cat([rows(x_t, here) for here in place.split(block_length)], dim=1)


@torch.no_grad()
def estimate_block_nelbo(
    model, x_0: Int[Tensor, "B L"], mask_id: int, block_length: int, samples: int = 16, rng=None, given=0, read=one_pass
) -> Estimate:
    """Upper bound on -log p(x_0), nats per token, from `samples` masks a sequence; in blocks of one token the exact
    value, and one sample is enough. `read` is one_pass, or one_by_one for whatever is not a Transformer."""
    repeated = x_0.repeat(samples, 1)
    x_t, is_masked = mask_blocks(repeated, mask_id, block_length, rng, given, samples)
    chunks = zip(repeated.split(ROWS), x_t.split(ROWS), is_masked.split(ROWS), strict=True)
    nll = [masked_nll(read(model, x, mask_id, block_length), x, *noised, mask_id) for x, *noised in chunks]
    return Estimate.of(block_nelbo(torch.cat(nll).double(), is_masked, block_length, given).view(samples, -1))


@sampler
def write_blocks(
    model, x: Int[Tensor, "B L"], mask_id: int, num_steps=32, *, block_length=8, inside="confidence", end_id=None, **how
) -> States:
    """One more sampler: block after block, each written by the sampler `inside` with its share of num_steps.
    For a Transformer trained on such blocks, which reads each finished one once; samplers.block is for the others. What
    is given further right stays, and is not seen before its block. `end_id`: after it a text is over. The row's other
    MASKs become end_id too; when no row has any, passes end.
    """
    is_open, cache = x == mask_id, KVCache(model.cfg.n_layer, room=x.size(1))
    starts = block_length * fold(is_open, block_length, False).any(-1).any(0).nonzero().squeeze(1)
    for start in starts.tolist():
        before, gap, after = x.tensor_split((start, start + block_length), dim=1)
        part_of = next_block(model, cache, before, block_length)
        for part in SAMPLERS[inside](part_of, gap, mask_id, max(1, num_steps // len(starts)), **how):
            x = torch.cat([before, part, after], dim=1)
            if end_id is not None and not (part == mask_id).any():
                over = ((x == end_id) & is_open).cumsum(1) > 0
                x = torch.where(over & is_open, end_id, x)
            yield x
        if end_id is not None and not (x == mask_id).any():
            return


def next_block(model, cache: KVCache, before: Int[Tensor, "B start"], block_length: int) -> Callable:
    """A denoiser for the block after `before`. Each pass reads what of `before` is not in the cache yet, and the block
    as it is; the block is then forgotten: its next state has other keys, and only the finished one is kept."""

    def denoiser(part, at):
        new = torch.cat([before[:, cache.length :], part], dim=1)
        block = torch.arange(before.size(1) + part.size(1), device=part.device) // block_length
        seen = block[cache.length :, None] >= block
        at = (at // part.size(1) + 1) * new.size(1) - part.size(1) + at % part.size(1)  # the same places of `new`
        logits = logits_at(model, new, at, cache=cache, seen=seen)
        cache.forget(after=before.size(1))
        return logits

    denoiser.takes_at = denoiser.every_row = True  # the cache holds every row: see stepping.ask
    return denoiser
