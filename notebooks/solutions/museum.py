"""Solutions to notebook 8: the repair of each exhibit, under the name of its check."""

import torch

from microdlm.masking import mask_count, stratified, to_count
from microdlm.objectives import masked_nll


def counted_twice(nll, is_masked, t):
    return nll.sum(1) / t / nll.size(1)  # 1/t stands for 1/n: with both, n is counted twice


def batch_ratio(nll, is_masked):
    return (nll.sum(1) / is_masked.sum(1)).mean()


def wrong_axis(logits, mask_id):
    logits = logits.clone()
    logits[..., mask_id] = -torch.inf
    return logits


def overwrite(x_t, drawn, is_open, mask_id):
    return torch.where((x_t == mask_id) & is_open, drawn, x_t)


def backwards(num_steps):
    return 1 - torch.arange(num_steps) / num_steps


def came_back(x_0, shares, mask_id, rng):
    number = torch.rand(len(x_0), generator=rng)  # one for each token, for its whole life
    return torch.where(number < shares[:, None], mask_id, x_0)


def first_loss(V, D, rng):
    return torch.randn(V, D, generator=rng) / D  # a logit is a sum of D products with numbers near 1: about D^-1/2


def gumbel(shape, rng):
    return -torch.log(-torch.log(torch.rand(shape, generator=rng, dtype=torch.float64)))


def spaces(text, alphabet):
    for place, c in enumerate(text):
        if c not in alphabet:
            raise ValueError(f"character {c!r} at position {place} has no id: replace it")
    return [alphabet.index(c) for c in text]


def resume(model, saved):
    plain = getattr(model, "_orig_mod", model)
    plain.load_state_dict({name.removeprefix("_orig_mod."): p for name, p in saved.items()})  # strict: the default
    return model


def frames(sampler, denoiser, x):
    passes = tokens = 0

    def counting(x_t, **options):
        nonlocal passes, tokens
        passes, tokens = passes + 1, tokens + x_t.numel()
        return denoiser(x_t, **options)

    for _ in sampler(counting, x):
        pass
    return passes, tokens


def ranking(denoiser, schedule, x_0, mask_id, rng):
    # The bound in counts: k uniform on 1..L, the mean over the k hidden tokens. `schedule` does not occur.
    k = to_count(stratified(len(x_0), rng=rng), x_0.size(1))
    x_t, is_masked = mask_count(x_0, k, mask_id, rng)
    nll = masked_nll(denoiser, x_0, x_t, is_masked, mask_id)
    return (nll.sum(1) / k).mean().item()
