"""Attention as onnxruntime's GroupQueryAttention over a key-value cache, for any model that transformers routes
through its AttentionInterface (https://huggingface.co/docs/transformers/attention_interface)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from ptune.errors import BackboneError
from ptune.export.decoder.sockets import StepInputs

NAME = "ptune_group_query"
STEP = "_ptune_step"  # attribute in which traced modules find the step's inputs
# Indices of GroupQueryAttention's inputs of these names; others from 7 on stay empty (rotary is the model's own).
HEAD_SINK, QUERY_SEQLENS = 11, 16
_STEP_OF_WIDTHS = 8


def group_query_attention(
    module: nn.Module,
    query: Tensor,  # [groups, heads, tokens, dim]
    key: Tensor,  # [groups, kv_heads, tokens, dim]
    value: Tensor,  # [groups, kv_heads, tokens, value_dim]
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Gathers the padded view, attends over past and new keys, scatters back. Returns [groups, tokens, heads, value_dim].

    s_aux: [heads] an attention sink: a score of each head that takes its share of the attention and has no value.
    """
    check_attention(module, query, key, attention_mask, {"softcap": softcap, "s_aux": s_aux, **other})
    step: StepInputs = getattr(module, STEP)
    groups, heads, tokens, dim = query.shape
    value_dim, width = value.shape[-1], cache_width(key, value)
    batch, seq = step.pad_indices.shape
    past_key, past_value = step.next_cache()

    def padded(states: Tensor) -> Tensor:  # -> [batch, seq, heads * width]
        if states.shape[-1] < width:
            states = nn.functional.pad(states, (0, width - states.shape[-1]))
        return nn.functional.embedding(step.pad_indices, states.transpose(1, 2).reshape(groups * tokens, -1))

    attributes: dict[str, Any] = {"num_heads": heads, "kv_num_heads": key.shape[1]}
    attributes["scale"] = float(dim**-0.5 if scaling is None else scaling)
    if window := sliding_window or window_of(module):
        attributes["local_window_size"] = int(window)
    if softcap:
        attributes["softcap"] = float(softcap)
    inputs: list[Tensor | None] = [padded(query), padded(key), padded(value), past_key, past_value]
    inputs += [step.seqlens_k, step.capacity]
    inputs += [None] * (QUERY_SEQLENS - len(inputs)) + [step.query_seqlens]
    inputs[HEAD_SINK] = s_aux
    out, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        inputs,
        attributes,
        version=1,
        dtypes=[query.dtype] * 3,
        shapes=[[batch, seq, heads * width], past_key.shape, past_value.shape],
    )
    step.keep_cache(present_key, present_value)
    flat = nn.functional.embedding(step.unpad_indices, out.reshape(batch * seq, heads * width))
    attended = flat.reshape(groups, tokens, heads, width)
    return attended if value_dim == width else attended[..., :value_dim], None


def check_attention(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> None:
    """Raises: BackboneError for attention that GroupQueryAttention does not compute. options: what the model hands over beside it."""
    refused = {
        "takes a mask of its own": mask is not None,
        "adds something to its scores": options.get("position_bias") is not None,
        "sees later tokens": options.get("is_causal") is False or getattr(module, "is_causal", None) is False,
        "caps scores beside sinks": options.get("s_aux") is not None and bool(options.get("softcap")),
        "reads keys of another text": query.shape[-2] != key.shape[-2],
        "has heads that do not share keys evenly": query.shape[1] % key.shape[1] != 0,
    }
    for what in (what for what, found in refused.items() if found):
        raise BackboneError(
            f"the attention of {type(module).__name__} {what}, and onnxruntime's cannot; train and merge it, and serve it"
            " with transformers"
        )


def cache_width(key: Tensor, value: Tensor) -> int:
    """How wide a layer's keys and values lie in the cache: the operator has one width for both, a multiple of 8.

    Narrower ones are followed by zeros, which change neither a score nor a sum of values.
    """
    return -(-max(key.shape[-1], value.shape[-1]) // _STEP_OF_WIDTHS) * _STEP_OF_WIDTHS


def window_of(module: nn.Module) -> int | None:
    """The sliding window of a layer whose model puts it into the mask instead of passing it on."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return None
    layer: int = module.layer_idx
    kind = kinds[layer]
    if kind not in ("full_attention", "sliding_attention", "hybrid"):  # hybrid: beside a layer with states
        raise BackboneError(f"layers of kind {kind!r} cannot be exported")
    return getattr(config, "sliding_window", None) if kind == "sliding_attention" else None


AttentionInterface.register(NAME, group_query_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
