"""Attention as onnxruntime's GroupQueryAttention over a key-value cache, for any model that transformers routes
through its AttentionInterface (https://huggingface.co/docs/transformers/attention_interface)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from ptune.errors import BackboneError
from ptune.export.sockets import StepInputs

NAME = "ptune_group_query"
STEP = "_ptune_step"  # attribute in which traced modules find the step's inputs
QUERY_SEQLENS = (
    16  # index of GroupQueryAttention's input of that name; 7 to 15 stay empty (rotary is the model's own)
)


def group_query_attention(
    module: nn.Module,
    query: Tensor,  # [groups, heads, tokens, dim]
    key: Tensor,  # [groups, kv_heads, tokens, dim]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Gathers the padded view, attends over past and new keys, scatters back. Returns [groups, tokens, heads, dim]."""
    step: StepInputs = getattr(module, STEP)
    if attention_mask is not None or other.get("s_aux") is not None or other.get("position_bias") is not None:
        raise BackboneError(
            f"{type(module).__name__} uses an attention mask, sink or bias that cannot be exported"
        )
    if query.shape[-1] != value.shape[-1]:
        raise BackboneError(
            f"{type(module).__name__} has keys and values of different width; that cannot be exported"
        )
    groups, heads, tokens, dim = query.shape
    batch, seq = step.pad_indices.shape
    past_key, past_value = step.cache_of(module.layer_idx)

    def padded(states: Tensor) -> Tensor:  # -> [batch, seq, heads * dim]
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
    out, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        inputs,
        attributes,
        version=1,
        dtypes=[query.dtype] * 3,
        shapes=[[batch, seq, heads * dim], past_key.shape, past_value.shape],
    )
    step.present += [present_key, present_value]
    flat = nn.functional.embedding(step.unpad_indices, out.reshape(batch * seq, heads * dim))
    return flat.reshape(groups, tokens, heads, dim), None


def window_of(module: nn.Module) -> int | None:
    """The sliding window of a layer whose model puts it into the mask instead of passing it on."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return None
    kind = kinds[module.layer_idx]
    if kind not in ("full_attention", "sliding_attention", "hybrid"):  # hybrid: beside a layer with states
        raise BackboneError(f"layers of kind {kind!r} cannot be exported")
    return getattr(config, "sliding_window", None) if kind == "sliding_attention" else None


AttentionInterface.register(NAME, group_query_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
