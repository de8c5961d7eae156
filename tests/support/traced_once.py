"""Tracing a tiny model takes seconds, and the suite exports the same few again and again: each is traced once a process.

The key is everything that a trace depends on: the model's class, config and buffers, which of its parameters are one, the
inputs, and the code that traces. A test that plants a fault there gets a trace of its own; a model whose weights are in the
graph is always traced.
"""

from __future__ import annotations

import json
from hashlib import sha256
from types import FunctionType
from typing import Any

import onnx_ir
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from ptune.backbone import rope
from ptune.export import independence
from ptune.export.decoder import attention, end_sockets, gains, sockets, state_kinds, states
from ptune.export.decoder import trace as tracing
from ptune.export.decoder.recurrence import (
    convolution,
    delta_rule,
    layer_states,
    linear_attention,
    selective_scan,
    state_space,
)
from ptune.export.encoder import attention as encoder_attention
from ptune.export.encoder import sockets as encoder_sockets
from ptune.export.encoder import trace as encoder
from ptune.export.seq2seq import attention as seq2seq_attention
from ptune.export.seq2seq import trace as seq2seq

CODE = (
    rope, attention, encoder, encoder_attention, encoder_sockets, end_sockets, gains, independence, seq2seq, seq2seq_attention, sockets, state_kinds, states, tracing,
    convolution, delta_rule, layer_states, linear_attention, selective_scan, state_space,
)  # fmt: skip
IN_PASSING = {
    "_name_or_path",
    "architectures",
    "dtype",
    "transformers_version",
}  # said in a config, not traced
fresh = tracing.onnx_of
_traced: dict[Any, tuple[onnx_ir.Model, bool]] = {}


def use() -> None:
    """Lets every export of this process trace a model once."""
    for module in (tracing, encoder, seq2seq):
        module.onnx_of = onnx_of  # type: ignore[attr-defined]


def onnx_of(module: nn.Module, *arguments: Any, **options: Any) -> onnx_ir.Model:
    """As `ptune.export.decoder.trace.onnx_of`: a graph of the caller's own, to be changed at will."""
    model, rows = getattr(module, "model", None), getattr(module, "rows", None)
    if not isinstance(model, PreTrainedModel) or not is_bare(model):
        return fresh(module, *arguments, **options)
    key = (type(module), type(model), described(model, arguments, options), code())
    if key not in _traced:
        graph = fresh(module, *arguments, **options)
        _traced[key] = graph, rows is not None and rows.used
    graph, used = _traced[key]
    if rows is not None:
        rows.used = used  # what the trace of an encoder tells its caller beside the graph
    return graph.clone()


def is_bare(model: nn.Module) -> bool:
    """Whether it has shapes for weights, and does nothing beside what its class says."""
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    return not hooked and all(isinstance(parameter, FakeTensor) for parameter in model.parameters())


def described(model: PreTrainedModel, arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    config = {name: value for name, value in model.config.to_dict().items() if name not in IN_PASSING}
    how = (model.config._attn_implementation, getattr(model.config, "_experts_implementation", None))
    buffers = {name: [str(one.dtype), [*one.shape], hash_of(one)] for name, one in model.named_buffers()}
    tensors, *named = arguments
    shapes = [[str(tensor.dtype), *tensor.shape] for tensor in tree_leaves(tensors) if tensor is not None]
    tied = tracing.tied_names(model)
    return json.dumps([config, how, buffers, tied, shapes, *named, options], sort_keys=True, default=repr)


def hash_of(tensor: torch.Tensor) -> str:
    return sha256(tensor.flatten().contiguous().view(torch.uint8).numpy()).hexdigest()


def code() -> tuple[Any, ...]:
    """Every function and class of the modules that trace, as they are now."""
    functions = tuple(
        value for module in CODE for value in vars(module).values() if isinstance(value, (FunctionType, type))
    )
    return (*functions, *state_kinds.KERNELS.values())
