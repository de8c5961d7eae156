"""A model that computes in float32 on weights kept in fewer bytes: 4 bits, 8 bits or bfloat16.

It is the reference of the served graph, for which float32 copies of all weights would take 32 GB for 8 billion of them. A layer
makes its float32 weights when it runs, and drops them afterwards; passes in lockstep (`ptune.backbone.lockstep`) share them.
They have the same bits as copies made beforehand, so the model has, too.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.lockstep import shared
from ptune.backbone.packed.linear import PackedLinear
from ptune.backbone.packed_experts import Packing, experts_of, pack_experts
from ptune.backbone.quantize import Int8Linear, Nf4Linear
from ptune.backbone.weight_shapes import made

SMALL_BYTES = (
    1 << 30
)  # a reference that stays in memory beside a graph; a larger one is dropped before a graph is opened

_FLOATS: dict[torch.dtype, Packing] = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
_PACKED = (Nf4Linear, Int8Linear, PackedLinear)


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 and keeps its weights as `kept` has them.

    Its `weight` [out, in] is made anew whenever it is read. It is no parameter, and is missing from the state dict.
    """

    def __init__(self, kept: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = kept.in_features, kept.out_features
        self._kept = (kept,)  # not a submodule, so that peft sees a plain layer
        bias = kept.bias
        self.bias = None if bias is None else nn.Parameter(bias.data.float(), requires_grad=False)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the weights as they are kept."""
        (kept,) = self._kept
        if isinstance(kept, PackedLinear):
            return sum(part.nbytes for part in kept.parts.values())
        return kept.weight.nbytes

    @property
    def weight(self) -> torch.Tensor:
        shape = self.out_features, self.in_features
        return made(shape, torch.empty(0), torch.float32, partial(shared, self, self._made))

    def _made(self) -> torch.Tensor:
        (kept,) = self._kept
        if isinstance(kept, _PACKED):
            return kept.dequantised()
        return kept.weight.detach().float()


def in_float32(model: PreTrainedModel) -> None:
    """Has a frozen model on the CPU compute in float32, without its kernels for quantised weights; in place.

    The result is the model that an adapter of the quantised one belongs to. Its embedding and head, which an adapter may
    enlarge, its norms and biases are float32 copies.
    """
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        rounded = type(layer) is nn.Linear and layer is not head and layer.weight.dtype != torch.float32
        if rounded or isinstance(layer, _PACKED):
            model.set_submodule(name, Float32Linear(layer))
    for _, experts in list(experts_of(model)):
        kind = _FLOATS.get(next(experts.parameters()).dtype)
        if kind is not None:
            pack_experts(experts, kind)
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
    model.float()


def held_bytes(model: PreTrainedModel) -> int:
    """Bytes of a model's weights in memory or in mapped files, those that its float32 weights are made of among them."""
    computed = sum(layer.kept_bytes for layer in computed_weights(model).values())
    return int(model.get_memory_footprint()) + computed


def computed_weights(model: nn.Module) -> dict[str, Float32Linear]:
    """The layers whose weights the model's state dict lacks, by the names that these would have there."""
    return {
        f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, Float32Linear)
    }
