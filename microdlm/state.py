"""What a training run is: how it was asked for (`TrainConfig`), and all of it that changes (`State`)."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from microdlm.corpus import Corpus
from microdlm.errors import UserError
from microdlm.runs import Run
from microdlm.transformer import TransformerConfig


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 products are fast there, not merely possible: emulated, they are a hundred times slower."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if device == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@dataclass(frozen=True)
class TrainConfig:
    """How to train. All of it is in the run's config.json."""

    steps: int
    batch_size: int  # B
    optimizer: str = "adamw"  # adamw, or muon for the matrices inside the blocks (adamw for the others)
    lr: float = 3e-3  # the peak
    warmup: float = 0.05  # share of the steps in which the learning rate rises from 0
    final_lr: float = 0.0  # share of the peak at which the cosine ends
    weight_decay: float = 0.1
    grad_clip: float = 1.0  # gradients longer than this are shortened to it
    ema: float = 0.0  # decay of the weights' moving average; 0: none
    evals: int = 10  # validations, evenly spread; the best one's weights are kept
    checkpoints: int = 10  # likewise
    precision: str = "auto"  # auto, float32 or bfloat16 for the matrix products; weights stay float32
    compile: bool = False  # torch.compile: slow start, faster steps
    seed: int = 0


def describe(kind: str, net: TransformerConfig, how: TrainConfig, corpus: Corpus) -> dict:
    """What a run's config.json says: enough to load the weights anywhere and to know how they were made."""
    return {
        "kind": kind,
        "model": asdict(net),
        "training": asdict(how),
        "corpus": {"name": corpus.name, "sha256": corpus.sha256, "chars_per_token": corpus.chars_per_token},
        "tokenizer": corpus.tokenizer.to_json(),
    }


def adamw(model: nn.Module, cfg: TrainConfig, fused: bool) -> list[torch.optim.Optimizer]:
    """All weights alike (1711.05101)."""
    return [_adamw(model.parameters(), cfg, fused)]


class Muon(torch.optim.Muon):
    """torch's, which multiplies in bfloat16 everywhere. A processor that only emulates that (most laptops') takes ten
    times longer for it than in float32, so there the same step is written out in float32."""

    @torch.no_grad()
    def step(self) -> None:
        if has_bfloat16(str(self.param_groups[0]["params"][0].device)):
            return super().step()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                memory = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                memory.lerp_(p.grad, 1 - group["momentum"])
                turned = orthogonal(p.grad.lerp(memory, group["momentum"]), group["ns_coefficients"], group["ns_steps"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(turned, alpha=-0.2 * math.sqrt(max(p.shape)) * group["lr"])  # as long as AdamW's


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """The matrix x with all its singular values near one, by Newton and Schulz (2502.16982)."""
    (a, b, c), wide = coefficients, x if x.size(0) <= x.size(1) else x.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if x.size(0) <= x.size(1) else wide.T


def muon(model: nn.Module, cfg: TrainConfig, fused: bool) -> list[torch.optim.Optimizer]:
    """The matrices inside the blocks move by Muon (2502.16982), each step nearly orthogonal and as long as AdamW's,
    so one learning rate serves both. Embedding and head, which meet single characters, stay with AdamW."""
    outside = [p for name, p in model.named_parameters() if not name.startswith("blocks.")]
    how = {"lr": cfg.lr, "weight_decay": cfg.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    return [Muon(model.blocks.parameters(), **how), _adamw(outside, cfg, fused)]


def _adamw(parameters, cfg: TrainConfig, fused: bool) -> torch.optim.AdamW:
    how = {"lr": cfg.lr, "betas": (0.9, 0.95), "weight_decay": cfg.weight_decay}
    return torch.optim.AdamW(parameters, fused=fused, **how)


OPTIMIZERS = {"adamw": adamw, "muon": muon}
MOMENTS = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "Muon": ("momentum_buffer",)}  # what each keeps of a weight


class State:
    """Weights, optimizers, their average, random generators, position, best validation so far."""

    def __init__(self, model: nn.Module, cfg: TrainConfig, device: str = "cpu"):
        self.model, self.device = model.to(device), device
        fused = device.startswith(("cpu", "cuda"))
        self.optimizers = OPTIMIZERS[cfg.optimizer](self.model, cfg, fused)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(cfg.ema)) if cfg.ema else None
        self.rng = torch.Generator().manual_seed(cfg.seed)  # batches and masks
        self.step = 0
        self.best = math.inf
        torch.manual_seed(cfg.seed)  # dropout, which takes no generator

    @property
    def weights(self) -> nn.Module:
        """The model to use: the average where there is one."""
        return self.model if self.average is None else self.average.module

    def _optimized(self) -> Iterator[tuple[torch.optim.Optimizer, dict[str, Tensor]]]:
        """Each optimizer with its weights by name, in its order."""
        name_of = {p: name for name, p in self.model.named_parameters()}
        for optimizer in self.optimizers:
            yield optimizer, {name_of[p]: p for group in optimizer.param_groups for p in group["params"]}

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, flat and by name."""
        flat = {f"model.{name}": p for name, p in self.model.named_parameters()}
        if self.average is not None:
            flat |= {f"average.{name}": p for name, p in self.average.module.named_parameters()}
            flat["averaged"] = self.average.n_averaged
        for optimizer, weights in self._optimized():
            for name, p in weights.items():
                flat |= {f"optimizer.{key}.{name}": value for key, value in optimizer.state[p].items()}
        flat |= {"rng": self.rng.get_state(), "torch_rng": torch.get_rng_state()}
        if self.device.startswith("cuda"):
            flat["cuda_rng"] = torch.cuda.get_rng_state()
        return flat | {"step": torch.tensor(self.step), "best": torch.tensor(self.best, dtype=torch.float64)}

    @torch.no_grad()
    def load(self, flat: dict[str, Tensor]) -> None:
        """Take over what `tensors` gave. UserError if it is of another model."""
        try:
            for name, p in self.model.named_parameters():
                p.copy_(flat[f"model.{name}"])
            if self.average is not None:
                for name, p in self.average.module.named_parameters():
                    p.copy_(flat[f"average.{name}"])
                self.average.n_averaged.copy_(flat["averaged"])
            for optimizer, weights in self._optimized():
                keys = MOMENTS[type(optimizer).__name__]
                moments = [{key: flat[f"optimizer.{key}.{name}"] for key in keys} for name in weights]
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": dict(enumerate(moments)), "param_groups": groups})
            self.rng.set_state(flat["rng"])
            torch.set_rng_state(flat["torch_rng"])
            if self.device.startswith("cuda"):
                torch.cuda.set_rng_state(flat["cuda_rng"])
            self.step, self.best = int(flat["step"]), float(flat["best"])
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise UserError(f"the checkpoint is not of this model and configuration ({e})") from None

    def restore(self, run: Run) -> None:
        """Go back to the run's last checkpoint, if it has one, and drop what was measured after it."""
        if (flat := run.load_checkpoint()) is not None:
            self.load(flat)
        run.rewind(self.step)
