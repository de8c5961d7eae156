"""Attention for packed rows: a row holds several examples, and each attends only to itself.

A model is switched to it from outside, through transformers' AttentionInterface. The lengths of the examples are set
around each forward pass; a row that they do not cover raises an error instead of leaking between examples.

Segments are computed one by one by PyTorch's `scaled_dot_product_attention`, or all at once by its variable-length kernel
(FlashAttention: Dao 2023, https://arxiv.org/abs/2307.08691) if the device has one and a test shows that it agrees.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ptune.training.memory.heap import tidied
from ptune.training.rows.attention_sinks import Sinks
from ptune.training.rows.segment_attention import SegmentAttention

NAME = "ptune_segments"
PLAIN_NAME = "ptune_segments_plain"  # with PyTorch's gradient, see `train.fast`


class Shared(NamedTuple):
    """Where examples in a row share their first tokens, which are there once."""

    columns: torch.Tensor  # [tokens of all examples] the row's column of each
    places: torch.Tensor  # [columns of the row] a place in `columns` that has it


class _Segments:
    """The lengths of the examples in a row."""

    def __init__(self, lengths: Sequence[int], shared: Shared | None = None) -> None:
        self.lengths, self.shared = list(lengths), shared
        self._ends: dict[torch.device, torch.Tensor] = {}
        self._with_sinks: dict[torch.device, tuple[_Segments, Sinks]] = {}

    def ends(self, device: torch.device) -> torch.Tensor:
        """[segments + 1], as the kernel reads them. Copied once for all layers, since the copy waits for the GPU."""
        if device not in self._ends:
            ends = [0, *itertools.accumulate(self.lengths)]
            self._ends[device] = torch.tensor(ends, dtype=torch.int32, device=device)
        return self._ends[device]

    def with_sinks(self, device: torch.device) -> tuple[_Segments, Sinks]:
        """The row with a token before each example, and the places in it. Made once for all layers."""
        if device not in self._with_sinks:
            sinks = Sinks.before(self.lengths, device)
            self._with_sinks[device] = _Segments(sinks.lengths), sinks
        return self._with_sinks[device]


# Set around a forward pass. Not a context variable: autograd recomputes checkpointed layers in its own threads.
_current = _Segments(())
_at_once = False  # whether segments go through the variable-length kernel
_models = 0  # that are switched to segments now
# Windows of attention since a model was last looked at: that its masks have, and that its layers told.
_of_masks, _of_layers = set[int](), set[int]()


class _UnsupportedAttentionError(Exception):
    """The model uses a feature of attention that segments do not support."""


@contextlib.contextmanager
def segments(lengths: Sequence[int], shared: Shared | None = None) -> Iterator[None]:
    """Sets the lengths of the examples in the rows of forward passes within the block."""
    with _entered(_Segments(lengths, shared)):
        yield


def lengths_now() -> list[int]:
    """The length of each token's example in the row of this forward pass; none where nobody has set them.

    Of a token that several examples share, that of one of them.
    """
    each = [length for length in _current.lengths for _ in range(length)]
    shared = _current.shared
    return each if shared is None else [each[place] for place in shared.places.tolist()]


@contextlib.contextmanager
def _entered(row: _Segments) -> Iterator[None]:
    global _current
    before, _current = _current, row
    try:
        yield
    finally:
        _current = before


def checkpoint_contexts() -> tuple[
    contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]
]:
    """`context_fn` for torch.utils.checkpoint: the recomputation uses the lengths of the forward pass.

    To save memory, each layer first returns free pages to the system.
    """
    return tidied(contextlib.nullcontext()), tidied(_entered(_current))


@contextlib.contextmanager
def probing(model: PreTrainedModel) -> Iterator[None]:
    """Puts `model` into eval mode without gradients for the block; its mode is restored afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


@contextlib.contextmanager
def packing(model: PreTrainedModel, fast: bool = True) -> Iterator[bool]:
    """Makes `model` attend per segment within the block; yields False and changes nothing if it cannot.

    It can if its attention goes through transformers' interface, its layers use full or sliding-window attention, and two
    tests pass: a packed example gives the same logits as alone under the model's own attention, and changing one example
    does not change its neighbour. Blocks of two models may be nested: their segments go through the kernel if both agree with it.

    fast: see `train.fast`.
    """
    global _at_once, _models
    before, _at_once = _at_once, False
    own = model.config._attn_implementation
    able = routable(model)
    if able:
        alone = _logits_alone(model)
        model.set_attn_implementation(NAME if fast else PLAIN_NAME)
        able = _isolated(model, alone)
        if not able:
            model.set_attn_implementation(own)
    agrees = able and _has_kernel(model) and _kernel_agrees(model)
    _at_once = before if not able else agrees and (before or not _models)
    _models += able
    try:
        yield able
    finally:
        _at_once = before
        _models -= able
        if able:
            model.set_attn_implementation(own)


@contextlib.contextmanager
def attending(model: PreTrainedModel, attention: str) -> Iterator[None]:
    """Gives `model` this attention within the block: its own, for rows that are not packed."""
    before = model.config._attn_implementation
    if before == attention:
        yield
        return
    model.set_attn_implementation(attention)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attention_kernel(model: nn.Module) -> str:
    """What computes the model's attention now, as run.json says it; empty for a model without such a choice."""
    name: str = getattr(getattr(model, "config", None), "_attn_implementation", None) or ""
    if name not in (NAME, PLAIN_NAME):
        return name
    return "FlashAttention, packed examples at once" if _at_once else "sdpa, packed examples one by one"


def routable(model: PreTrainedModel) -> bool:
    """Whether the model's attention goes through transformers' interface and all its layers are of supported types."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return (
        model._can_set_attn_implementation()
        and "position_ids" in inspect.signature(model.forward).parameters
        and kinds <= {"full_attention", "sliding_attention"}
    )


def _isolated(model: PreTrainedModel, alone: torch.Tensor) -> bool:
    """Whether the first of two packed examples has the logits `alone`, and the second keeps its logits when the first
    changes.

    Detects layers that mix neighbours by other means than attention (convolutions, recurrent states), and attention with
    inputs that segments do not support, or with a window that is in its mask alone (Phi-MoE's), which segments have none of.
    """
    _of_masks.clear()
    _of_layers.clear()
    try:
        pair, other = (_logits_of_pair(model, first) for first in (_FIRST, _FIRST + _SIZE))
    except _UnsupportedAttentionError:
        return False
    if not _of_masks <= _of_layers:
        return False
    kept, moved = pair[_SIZE:], other[_SIZE:]
    rounding = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.05
    same = (pair[:_SIZE] - alone).abs().max() <= rounding * alone.abs().max()
    return bool(same and (kept - moved).abs().max() <= 1e-4 * kept.abs().max())


def _has_kernel(model: PreTrainedModel) -> bool:
    return model.device.type == "cuda" and model.dtype in (torch.float16, torch.bfloat16)


def _kernel_agrees(model: PreTrainedModel) -> bool:
    """Whether the kernel runs with this model and differs from plain attention only by rounding in 16 bits."""
    global _at_once
    plain = _logits_of_pair(model, _FIRST)
    _at_once = True
    try:
        fast = _logits_of_pair(model, _FIRST)
    except (RuntimeError, ValueError, NotImplementedError):  # e.g. an unsupported head size
        return False
    finally:
        _at_once = False
    return bool((fast - plain).abs().max() <= 0.02 * plain.abs().max())


_SIZE, _FIRST = 8, 3  # number of tokens in an example, and the id of the first


def _logits_alone(model: PreTrainedModel) -> torch.Tensor:
    """Logits [_SIZE, vocab] of one example under the model's own attention."""
    with probing(model):
        output = model((torch.arange(_SIZE) + _FIRST)[None].to(model.device), use_cache=False)
    logits: torch.Tensor = output.logits[0].float()
    return logits


def _logits_of_pair(model: PreTrainedModel, first: int) -> torch.Tensor:
    """Logits [2 * _SIZE, vocab] of two packed examples: ids from `first` on, then always the same ids."""
    ids = torch.cat([torch.arange(_SIZE) + first, torch.arange(_SIZE) + _FIRST + 2 * _SIZE])[None]
    positions = torch.arange(_SIZE).repeat(2)[None]
    with probing(model), segments([_SIZE, _SIZE]):
        output = model(ids.to(model.device), position_ids=positions.to(model.device), use_cache=False)
    logits: torch.Tensor = output.logits[0].float()
    return logits


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
    own_gradient: bool = True,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment; returns [1, tokens, heads, dim]. s_aux: [heads] attention sinks."""
    capped_sinks = s_aux is not None and softcap is not None
    if attention_mask is not None or is_causal is False or position_bias is not None or capped_sinks:
        raise _UnsupportedAttentionError
    if sliding_window is not None:
        _of_layers.add(sliding_window)
    if (shared := _current.shared) is not None:
        query, key, value = (states.index_select(2, shared.columns) for states in (query, key, value))
    row, sinks = _current, None
    if sum(row.lengths) != query.shape[2] or query.shape[0] != 1:
        raise RuntimeError(f"segments of {sum(row.lengths)} tokens do not cover a row of {list(query.shape)}")
    plain = softcap is None and dropout == 0.0 and (sliding_window or max(row.lengths)) >= max(row.lengths)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dim = value.shape[-1]
    if s_aux is not None:
        row, sinks = row.with_sinks(query.device)
        query, key, value = sinks.states(query, key, value, s_aux, scale)
    if _at_once and plain:
        attended = _all_at_once(query, key, value, row, scale)
    elif own_gradient and plain and query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        attended = cast(torch.Tensor, SegmentAttention.apply(query, key, value, row.lengths, scale))
    else:
        parts = [
            _causal(q, k, v, scale, dropout, sliding_window, softcap, s_aux is not None).transpose(1, 2)
            for q, k, v in zip(*(states.split(row.lengths, 2) for states in (query, key, value)), strict=True)
        ]
        attended = torch.cat(parts, dim=1)
    if sinks is not None:
        attended = sinks.without(attended, dim)
    return attended if shared is None else attended.index_select(1, shared.places), None


def _all_at_once(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: _Segments, scale: float
) -> torch.Tensor:
    """The kernel's own layout is [tokens, heads, dim]; returns [1, tokens, heads, dim]."""
    ends, longest = row.ends(query.device), max(row.lengths)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    attended: torch.Tensor = varlen_attn(
        q, k, v, ends, ends, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=grouped
    )
    return attended[None]


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
    sink: bool,
) -> torch.Tensor:
    """One example's attention, [1, heads, n, dim]. sink: whether its first key is one, which every query sees."""
    n, grouped = query.shape[2], query.shape[1] != key.shape[1]
    if softcap is None and (window is None or window >= n - sink):
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=grouped
        )
    seen = torch.ones(n, n, dtype=torch.bool, device=query.device).tril()
    if window is not None:
        seen = seen.triu(1 - window)  # a token sees itself and the window - 1 tokens before it
        seen[:, : int(sink)] = True
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, dropout_p=dropout, scale=scale, enable_gqa=grouped
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scale
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~seen, float("-inf"))
    weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(
        query.dtype
    )
    return F.dropout(weights, dropout) @ value


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> None:
    """Segments need no mask. local_size: the window that it would have."""
    if local_size is not None:
        _of_masks.add(local_size)


AttentionInterface.register(NAME, _attend)
AttentionInterface.register(PLAIN_NAME, functools.partial(_attend, own_gradient=False))
for _name in (NAME, PLAIN_NAME):
    AttentionMaskInterface.register(_name, _no_mask)
