"""What a model's weights and its KV cache take, by precision, from its config alone."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ptune.backbone.packed_experts import experts_of, weights_of
from ptune.errors import BackboneError
from ptune.export.decoder.state_kinds import kind_of
from ptune.export.decoder.trace import cache_layers

# Bytes of one weight of a layer with all that belongs to it: scales (and zeros, or what the rounding of a block left).
_NF4_TRAINED = 0.5 + 1 / 64 + 4 / (64 * 256)  # bitsandbytes: a byte for 64 weights, a float for 256 of those
_INT8, _NF4 = 1.0, 0.5 + 4 / 64
_INT4, _INT4_HEAD = (0.5 + 4.5 / 32) * (1 + 2 / 32), 1 + 4.5 / 32  # sums of blocks are inputs of their own


@dataclass(frozen=True)
class Sizes:
    """Numbers of weights, shared ones counted once."""

    parameters: int
    layers: int  # in what can be quantised: linear layers but the head's, and experts
    head: int  # 0 of a model without one
    tied: bool  # whether the head is the embedding
    largest: int  # in one linear layer, or an expert's

    def trained_on(self) -> dict[str, int]:
        """Bytes of the frozen weights by how they are held. Of nf4 and int8 the other weights are in bfloat16."""
        rest = 2 * (self.parameters - self.layers)
        return {
            "float32": 4 * self.parameters,
            "bfloat16": 2 * self.parameters,
            "nf4": rest + math.ceil(_NF4_TRAINED * self.layers),
            "int8": rest + self.layers,
        }

    def served(self) -> dict[str, int]:
        """Bytes of the exported weights by profile. A head of fewer bits is a copy where it is tied to the embedding."""
        head = 0 if self.tied else self.head
        rest = 4 * (self.parameters - self.layers - head)
        return {
            "fp32": 4 * self.parameters,
            "int8": rest + math.ceil(_INT8 * (self.layers + self.head)),
            "int4": rest + math.ceil(_INT4 * self.layers + _INT4_HEAD * self.head),
            "nf4": rest + math.ceil(_NF4 * self.layers) + 4 * head,
        }


def without_weights(
    config: PretrainedConfig, kind: Any, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model in shapes. kind: transformers' auto class, such as AutoModelForCausalLM.

    Raises: whatever a model's own code raises.
    """
    with init_empty_weights(include_buffers=False):
        model: PreTrainedModel = kind.from_config(copy.deepcopy(config), trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Counts the weights of a model, which may have shapes only."""
    head = model.get_output_embeddings()
    linear = [
        layer.weight.numel() for layer in model.modules() if type(layer) is nn.Linear and layer is not head
    ]
    experts = [
        parameter
        for _, module in experts_of(model)
        for parameter in (module.get_parameter(name) for name in weights_of(module))
    ]
    return Sizes(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=sum(linear) + sum(parameter.numel() for parameter in experts),
        head=0 if head is None else head.weight.numel(),
        tied=head is not None and head.weight is model.get_input_embeddings().weight,
        largest=max([*linear, *(one.numel() // len(one) for one in experts)], default=0),
    )


def cache_bytes_a_token(config: PretrainedConfig) -> int:
    """Bytes of float32 keys and values that the engine keeps for each token of a sequence; 0 where it could keep none."""
    try:
        layers = cache_layers(config)
    except BackboneError:
        return 0
    return sum(4 * layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in layers)


def state_bytes(model: PreTrainedModel) -> int:
    """Bytes of the states that the engine keeps for each sequence, of any length."""
    kinds = ((layer, kind_of(layer)) for layer in model.modules())
    shapes = (kind.shapes(layer) for layer, kind in kinds if kind is not None)
    return sum(4 * math.prod(shape) for each in shapes for shape in each)
