"""Attention for packed rows: several examples lie one after another in a row, and each attends only to itself.

A model is switched to it from outside, through transformers' AttentionInterface. The lengths of the examples are set
around each forward pass; attention that meets a row which they do not cover raises instead of leaking.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "ptune_segments"

# Set around a forward pass. Not a context variable: autograd recomputes checkpointed layers in threads of its own.
_lengths: Sequence[int] = ()


class _UnsupportedAttentionError(Exception):
    """The model asks attention for something that segments do not do."""


@contextlib.contextmanager
def segments(lengths: Sequence[int]) -> Iterator[None]:
    """Rows of forward passes inside hold examples of these lengths."""
    global _lengths
    before, _lengths = _lengths, lengths
    try:
        yield
    finally:
        _lengths = before


def checkpoint_contexts() -> tuple[
    contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]
]:
    """`context_fn` of torch.utils.checkpoint: the recomputation sees the lengths that the forward pass saw."""
    return contextlib.nullcontext(), segments(_lengths)


@contextlib.contextmanager
def packing(model: PreTrainedModel) -> Iterator[bool]:
    """Inside, `model` attends per segment; yields False, with the model as it was, where it cannot.

    It can where its attention goes through transformers' interface, its layers attend fully or in a sliding window,
    and changing one example is seen to change nothing in its neighbour.
    """
    own = model.config._attn_implementation
    able = _routable(model)
    if able:
        model.set_attn_implementation(NAME)
        able = _isolated(model)
        if not able:
            model.set_attn_implementation(own)
    try:
        yield able
    finally:
        if able:
            model.set_attn_implementation(own)


def _routable(model: PreTrainedModel) -> bool:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return (
        model._can_set_attn_implementation()
        and "position_ids" in inspect.signature(model.forward).parameters
        and kinds <= {"full_attention", "sliding_attention"}
    )


@torch.no_grad()
def _isolated(model: PreTrainedModel) -> bool:
    """Whether the second of two packed examples keeps its logits when the first one changes.

    Layers that mix neighbours by other means than attention (convolutions, recurrent states) are found out here.
    """
    training = model.training
    model.eval()
    size = 8
    first, other, second = (torch.arange(size) + offset for offset in (3, 3 + size, 3 + 2 * size))
    position_ids = torch.arange(size).repeat(2)[None].to(model.device)
    try:
        with segments([size, size]):
            kept, moved = (
                model(
                    torch.cat([head, second])[None].to(model.device),
                    position_ids=position_ids,
                    use_cache=False,
                )
                .logits[0, size:]
                .float()
                for head in (first, other)
            )
    except _UnsupportedAttentionError:
        return False
    finally:
        model.train(training)
    return bool((kept - moved).abs().max() <= 1e-4 * kept.abs().max())


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, tokens, dim]
    key: torch.Tensor,  # [1, kv_heads, tokens, dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment; returns [1, tokens, heads, dim]."""
    if attention_mask is not None or is_causal is False or s_aux is not None or position_bias is not None:
        raise _UnsupportedAttentionError
    if sum(_lengths) != query.shape[2] or query.shape[0] != 1:
        raise RuntimeError(f"segments of {sum(_lengths)} tokens do not cover a row of {list(query.shape)}")
    lengths = list(_lengths)
    parts = [
        _causal(q, k, v, scaling, dropout, sliding_window, softcap)
        for q, k, v in zip(
            query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """One example's attention, [1, heads, n, dim]."""
    n, grouped = query.shape[2], query.shape[1] != key.shape[1]
    if softcap is None and (window is None or window >= n):
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    seen = torch.ones(n, n, dtype=torch.bool, device=query.device).tril()
    if window is not None:
        seen = seen.triu(1 - window)  # a token sees itself and the window - 1 tokens before it
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=dropout, scale=scaling, enable_gqa=grouped
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~seen, float("-inf"))
    weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(
        query.dtype
    )
    return F.dropout(weights, dropout) @ value


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)  # segments need no mask
