"""The one backbone. A GPT and a denoiser are the same class: `causal` is the switch, `seen` is what lies between."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from microdlm.attention import Attention, KVCache, rms_norm, rotation_angles
from microdlm.conditioning import TimeEmbedding
from microdlm.errors import UserError
from microdlm.schedules import SCHEDULES


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `Transformer`. D = d_model, H = n_head, K = D / H, L = seq_len, V = vocab_size."""

    vocab_size: int  # V: how many ids there are; for a diffusion model the last of them is MASK
    seq_len: int  # L: the longest window
    n_layer: int = 4  # blocks
    n_head: int = 4  # H
    d_model: int = 128  # D
    causal: bool = False  # True: a position sees only itself and what is left of it (GPT)
    mlp: str = "relu2"  # relu2 (4 D wide) or swiglu (8/3 D wide, the same number of weights)
    dropout: float = 0.0  # on what attention and the MLP add to the stream; on only in training
    tied: bool = False  # the output head is the embedding table
    rope_base: float = 10_000.0  # the slowest rotation turns once in about 2 pi rope_base positions
    positions: str = "rope"  # rope, or learned: a vector for each place of the window, and attention turns nothing
    time: str = "none"  # none, or what the share of MASK says of t: add (a vector to the stream), adaln (to each block)
    schedule: str = "linear"  # by which t follows from that share

    def __post_init__(self):
        for name, kind in self.__annotations__.items():  # a file may hold anything
            value = getattr(self, name)
            if not isinstance(value, int | float if kind is float else kind):
                raise TypeError(f"{name} = {value!r} is not of type {kind.__name__}")
        if min(self.vocab_size, self.seq_len, self.n_layer, self.n_head, self.d_model) < 1:
            raise ValueError("sizes are whole numbers from 1")
        if not (0 <= self.dropout < 1 and 1 <= self.rope_base < float("inf")):
            raise ValueError(f"dropout = {self.dropout} is no share below 1, or rope_base = {self.rope_base} no number")
        if self.d_model % self.n_head or (self.d_model // self.n_head) % 2:
            raise ValueError(f"d_model = {self.d_model} does not split into {self.n_head} heads of even size")
        for name, known in (("mlp", MLPS), ("positions", POSITIONS), ("time", BLOCKS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.causal and self.time != "none":
            raise UserError(f"a GPT masks nothing and has no time to be told: leave time at none, not {self.time!r}")


class ReluSquared(nn.Module):
    """Linear, ReLU squared, linear (2109.08668)."""

    def __init__(self, D: int):
        super().__init__()
        self.up, self.out = nn.Linear(D, 4 * D, bias=False), nn.Linear(4 * D, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.up(x)).square())


class SwiGLU(nn.Module):
    """A gate times a value (2002.05202); 8/3 D wide, so that its three matrices weigh what ReLU²'s two do."""

    def __init__(self, D: int):
        super().__init__()
        self.up, self.out = nn.Linear(D, 2 * (8 * D // 3), bias=False), nn.Linear(8 * D // 3, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


MLPS = {"relu2": ReluSquared, "swiglu": SwiGLU}


class Block(nn.Module):
    """x + attention, then x + MLP, each reading a normalised copy of the stream."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.attention, self.mlp = Attention(cfg.n_head, cfg.d_model, cfg.causal), MLPS[cfg.mlp](cfg.d_model)
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, layer: int, cache: KVCache | None, seen=None) -> Tensor:
        x = x + self.dropout(self.attention(rms_norm(x), cos, sin, layer, cache, seen))
        return x + self.dropout(self.mlp(rms_norm(x)))


class TimedBlock(Block):
    """adaLN-Zero (2212.09748): t shifts and scales what both halves of the block read, and gates what they write.

    There the gates start at 0. Here what writes to the stream starts at 0 already, and of two zeros in a row neither
    ever learns: so a gate is 1 + what t says.
    """

    def forward(self, x, cos, sin, layer, cache, seen, scale, shift, gate, scale_mlp, shift_mlp, gate_mlp) -> Tensor:
        h = rms_norm(x) * (1 + scale) + shift
        x = x + (1 + gate) * self.dropout(self.attention(h, cos, sin, layer, cache, seen))
        h = rms_norm(x) * (1 + scale_mlp) + shift_mlp
        return x + (1 + gate_mlp) * self.dropout(self.mlp(h))


BLOCKS = {"none": Block, "add": Block, "adaln": TimedBlock}
POSITIONS = ("rope", "learned")


class Transformer(nn.Module):
    """Tokens in, logits out, one row of V for each position.

    The same class is the GPT and the denoiser. What it does not know:

    * t. The number of MASK in the input already tells how noisy it is, and the best prediction for masked
      diffusion needs nothing more (2406.03736; 2406.07524, table 12). `time` makes that number plain, to see what a
      hint is worth: it is counted in x_t, so the signature stays.
    * that MASK must not be predicted and visible tokens stay: objectives.denoise_log_probs says so.
    * any loss. objectives and likelihood are functions of what it returns.
    """

    takes_at = True  # see objectives.logits_at

    def __init__(self, cfg: TransformerConfig, rng: torch.Generator | None = None):
        super().__init__()
        self.cfg, self.causal = cfg, cfg.causal
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.blocks = nn.ModuleList(BLOCKS[cfg.time](cfg) for _ in range(cfg.n_layer))
        self.head = nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        if cfg.tied:
            self.head.weight = self.embedding.weight
        # Last, so that one seed gives the rest of the network the same weights, with them and without.
        self.places = nn.Embedding(cfg.seq_len, cfg.d_model) if cfg.positions == "learned" else None
        n = {"none": 0, "add": 1, "adaln": 6 * cfg.n_layer + 2}[cfg.time]
        self.time = TimeEmbedding(cfg.d_model, n, cfg.vocab_size - 1, cfg.schedule) if n else None
        self.reset(rng)

    def reset(self, rng: torch.Generator | None = None) -> None:
        """Matrices at standard deviation 1/sqrt(fan in); what writes to the stream starts at zero, so a fresh
        block is the identity and the first loss is close to ln V."""
        for name, p in self.named_parameters():
            std = 0.0 if name.endswith("out.weight") else p.size(1) ** -0.5
            if self.cfg.tied and p is self.embedding.weight:
                std = 1 / p.size(1)  # as a head it meets its own rows again: any larger and "repeat me" wins
            nn.init.normal_(p, std=std, generator=rng)
        if not self.cfg.tied:
            nn.init.zeros_(self.head.weight)

    def forward(
        self,
        x: Int[Tensor, "B L"],
        at: Bool[Tensor, "B L"] | Int[Tensor, "M"] | None = None,
        cache: KVCache | None = None,
        seen: Bool[Tensor, "L total"] | None = None,
        positions: Int[Tensor, "L"] | None = None,
    ) -> Float[Tensor, "*rows V"]:
        """Logits (B, L, V); with `at`, only some rows: (M, V), where it is True or at those places of the flat page.

        The head is a quarter of a small-vocabulary step and most of a large one, and a masked loss needs it at
        masked positions only. With `cache`, x is what follows the positions already read. `seen`, in place of the
        switch: whether a row's position sees a column's. `positions`: where x stands, if not one after another.
        """
        start = cache.length if cache is not None else 0
        if positions is None and start + x.size(1) > self.cfg.seq_len:
            raise ValueError(f"{start + x.size(1)} positions do not fit a window of {self.cfg.seq_len}")
        if cache is not None and not self.causal and seen is None:
            raise ValueError("a cache needs a causal model: elsewhere, what comes later changes what came before")
        positions = torch.arange(start, start + x.size(1), device=x.device) if positions is None else positions
        angles = rotation_angles(positions, self.cfg.d_model // self.cfg.n_head, self.cfg.rope_base)
        h, told = rms_norm(self.embedding(x)), self.told(x, cache, seen)
        if self.places is not None:
            h, angles = h + self.places(positions), 0 * angles
        if self.cfg.time == "add":
            h, told = h + told[0], ()
        cos, sin = angles.cos().to(h.dtype), angles.sin().to(h.dtype)
        for layer, block in enumerate(self.blocks):
            h = block(h, cos, sin, layer, cache, seen, *told[6 * layer : 6 * layer + 6])
        if told:
            h = h * (1 + told[-2]) + told[-1]
        return self.head(rms_norm(h if at is None else h.flatten(0, 1)[at.flatten()]))

    def told(self, x: Int[Tensor, "B L"], cache: KVCache | None, seen: Tensor | None) -> tuple[Tensor, ...]:
        """What t has to say: one vector (B, 1, D) to add, or six for each block and two for what leaves the last."""
        if self.time is None:
            return ()
        if cache is not None or seen is not None:
            raise ValueError("t is counted over a whole text: a network that is told t reads no blocks, and no pieces")
        return self.time(x)

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())
