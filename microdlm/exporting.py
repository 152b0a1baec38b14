"""A model as an ONNX file, in float32 or eight bits; and such a file as a denoiser.

The denoiser takes ids (B, L) and gives logits (B, L, V). The GPT takes what is new, and the keys and values of what it
has read, `past` (layers, 2, B, H, P, K); it gives logits and `present`, P + L long. P = 0 is a text not begun.
"""

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim

from microdlm.attention import KVCache
from microdlm.pretrained import LanguageModel


class GrowingCache(KVCache):
    """A cache that makes longer tensors instead of writing in place: an exporter can follow that."""

    length = 0  # no property: while a model is exported it is a symbol, not a number

    def __init__(self, past: Float[Tensor, "layers 2 B H P K"]):
        self.past, self.present, self.length = past, [], past.size(4)

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        self.present.append(torch.cat([self.past[layer], torch.stack([k, v])], dim=3))
        return self.present[-1].unbind(0)


class Reads(nn.Module):
    """The denoiser as it is exported."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        return self.model(x, positions=torch.arange(x.size(1)))


class Continues(Reads):
    """The GPT as it is exported. Which keys a query sees is said outright, so that no size decides a branch."""

    def forward(self, x: Int[Tensor, "B L"], past: Float[Tensor, "layers 2 B H P K"]) -> tuple[Tensor, Tensor]:
        cache, total = GrowingCache(past), torch.arange(past.size(4) + x.size(1))
        new = total[past.size(4) :]
        logits = self.model(x, cache=cache, seen=new[:, None] >= total, positions=new)
        return logits, torch.stack(cache.present)


def no_past(model, B: int, P: int = 0) -> Float[Tensor, "layers 2 B H P K"]:
    return torch.zeros(model.cfg.n_layer, 2, B, model.cfg.n_head, P, model.cfg.d_model // model.cfg.n_head)


def export(lm: LanguageModel, path: Path) -> None:
    """Write `lm` to `path` as float32 ONNX; batch and lengths stay open."""
    ids = torch.zeros(2, 5, dtype=torch.int32)
    wrapped, args, inputs, outputs = Reads(lm.model), (ids,), ["x"], ["logits"]
    if lm.kind == "gpt":
        wrapped, args = Continues(lm.model), (ids, no_past(lm.model, 2, 3))
        inputs, outputs = ["x", "past"], ["logits", "present"]
    shapes = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {2: Dim.DYNAMIC, 4: Dim.DYNAMIC})[: len(inputs)]
    options = dict(input_names=inputs, output_names=outputs, dynamic_shapes=shapes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        torch.onnx.export(wrapped.eval(), args, path, dynamo=True, external_data=False, verbose=False, **options)


def dynamic(path: Path, small: Path, per_channel: bool = False) -> None:
    """Matrices and what they meet in eight bits; activations are scaled as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, small, weight_type=QuantType.QInt8, per_channel=per_channel)


def weights_only(path: Path, small: Path) -> None:
    """Matrices in eight bits, a scale for each 32 of a column; sums in float32."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    config = nbits.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, bits=8)
    quantizer = nbits.MatMulNBitsQuantizer(onnx.load(path), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(small))


# Fastest first; the page gets the first that passes the checks. How much eight bits cost depends on the network.
VERSIONS = {"int8": dynamic, "int8, per channel": partial(dynamic, per_channel=True), "int8 weights": weights_only}


class Session:
    """An exported file as a denoiser: ids in, logits out."""

    def __init__(self, path: Path, model):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        self.run, self.model = onnxruntime.InferenceSession(path, options).run, model

    def __call__(self, x: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        past = {"past": no_past(self.model, len(x)).numpy()} if self.model.causal else {}
        return torch.from_numpy(self.run(["logits"], {"x": x.numpy().astype(np.int32), **past})[0])
