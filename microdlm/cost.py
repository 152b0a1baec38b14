"""What a text really costs: a denoiser that counts."""

import time

import torch


class CountForwards:
    """Wraps any denoiser or GPT and counts its forward passes, the tokens in them, and the seconds spent there.

    >>> import torch
    >>> model = CountForwards(lambda x_t: torch.zeros(*x_t.shape, 9))
    >>> _ = model(torch.zeros(2, 5)), model(torch.zeros(2, 5))
    >>> model.passes, model.token_forwards
    (2, 20)
    """

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.passes, self.token_forwards, self.seconds = 0, 0, 0.0

    def __call__(self, x, **options):
        start = now(x.device)
        logits = self.denoiser(x, **options)
        self.seconds += now(x.device) - start
        self.passes += 1
        self.token_forwards += x.numel()
        return logits

    def __getattr__(self, name: str):
        return getattr(self.denoiser, name)  # causal, cfg and the like


def now(device: torch.device) -> float:
    """Seconds on a clock. A GPU is asked first to finish what it was given: it works on while the host goes ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
