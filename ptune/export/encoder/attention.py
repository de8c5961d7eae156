"""Attention of an encoder as onnxruntime's MultiHeadAttention, for any model that transformers routes through its
AttentionInterface (https://huggingface.co/docs/transformers/attention_interface); in plain operators if a model
needs a feature that the operator lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from ptune.errors import BackboneError
from ptune.export.decoder.attention import window_of

NAME = "ptune_multi_head"
ROWS = "_ptune_rows"  # attribute in which traced modules find the batch's rows
MASKED = -1e9  # added to the scores of masked keys


@dataclass
class Rows:
    """The rows of a batch."""

    lengths: Tensor | None = None  # [batch] tokens; set for each trace
    used: bool = False  # whether the model's attention has read them


def multi_head_attention(
    module: nn.Module,
    query: Tensor,  # [batch, heads, seq, dim]
    key: Tensor,  # [batch, kv_heads, seq, dim]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attends within each row, over its own tokens. Returns [batch, seq, heads, dim]."""
    if other.get("s_aux") is not None:
        raise BackboneError(f"{type(module).__name__} uses attention sinks, which cannot be exported")
    heads, dim = query.shape[1], query.shape[-1]
    groups = heads // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    scale = float(dim**-0.5 if scaling is None else scaling)
    window = sliding_window or (window_of(module) if hasattr(module, "layer_idx") else None)
    bias = next((b for b in (attention_mask, other.get("position_bias")) if b is not None), None)
    rows: Rows = getattr(module, ROWS)
    rows.used, lengths = True, rows.lengths
    assert lengths is not None
    if window or softcap or bias is not None or query.shape[-1] != value.shape[-1]:
        return _plain(query, key, value, lengths, scale, causal, window, softcap, bias), None
    batch, _, seq, _ = query.shape
    attributes = {"num_heads": heads, "scale": scale, "unidirectional": int(causal)}
    inputs = [states.transpose(1, 2).reshape(batch, seq, -1) for states in (query, key, value)]
    out = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        [*inputs, None, lengths.to(torch.int32)],
        attributes,
        version=1,
        dtype=query.dtype,
        shape=[batch, seq, heads * dim],
    )
    return out.reshape(batch, seq, heads, dim), None


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Tensor,
    scale: float,
    causal: bool,
    window: int | None,
    softcap: float | None,
    bias: Tensor | None,
) -> Tensor:
    """Attends in plain operators, with a window, a soft cap or a bias of the scores."""
    scores = query @ key.transpose(2, 3) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias
    place = torch.arange(query.shape[2])
    distance = place[:, None] - place[None]  # query - key
    seen = place[None, None] < lengths[:, None, None]  # [batch, 1, seq]
    if causal:
        seen = seen & (distance >= 0)
    if window:
        seen = seen & (distance < window) & (distance > -window)
    scores = torch.where(seen[:, None], scores, MASKED)
    return (scores.softmax(-1) @ value).transpose(1, 2)


AttentionInterface.register(NAME, multi_head_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
