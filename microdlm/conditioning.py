"""The time t as a hint. Masked diffusion needs none (see transformer.Transformer); here is how to try.

Nobody hands t over. A schedule turns it into the share of the text that is masked, and that share can be counted: t is
the schedule's inverse of it. So a network that is told t still is x_t -> logits, and every sampler, bound and oracle
takes it as it is. It is also the better hint: the t that noise was drawn with is off by what the draw was off, and a
text half written by a sampler was drawn with no t at all.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from microdlm.schedules import SCHEDULES

WAVES = 128  # of how many speeds; the fastest turns once while t moves by 2 pi / 1000


def waves(t: Float[Tensor, "B"]) -> Float[Tensor, "B waves"]:
    """A number as cosines and sines of many speeds, in which near numbers lie close and far ones apart (1706.03762)."""
    speed = 1000 * 10_000 ** (-torch.arange(WAVES, device=t.device) / WAVES)
    return torch.cat([torch.cos(t[:, None] * speed), torch.sin(t[:, None] * speed)], dim=1)


class TimeEmbedding(nn.Module):
    """x_t -> t -> `n` vectors of width D for each text. All are 0 in a fresh network, which so is the one without t."""

    def __init__(self, D: int, n: int, mask_id: int, schedule: str):
        super().__init__()
        self.mask_id, self.schedule = mask_id, SCHEDULES[schedule]
        self.up, self.out = nn.Linear(2 * WAVES, D, bias=False), nn.Linear(D, n * D, bias=False)

    def time(self, x_t: Int[Tensor, "B L"]) -> Float[Tensor, "B"]:
        return self.schedule.time((x_t == self.mask_id).float().mean(1))

    def forward(self, x_t: Int[Tensor, "B L"]) -> tuple[Float[Tensor, "B 1 D"], ...]:
        seen = self.up(waves(self.time(x_t)).to(self.up.weight.dtype))
        return self.out(F.silu(seen)).unflatten(1, (-1, 1, self.up.out_features)).unbind(1)
