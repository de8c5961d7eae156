"""A decoder's caches, from what its layers hand to attention in one forward pass in shapes alone.

A config tells of one geometry, which not every model keeps to: Gemma 4 has heads of two widths, DeepSeek's keys are wider than its
values, and the last layers of Gemma 3n attend to the keys and values of an earlier layer. The pass takes seconds, so attention
that cannot be exported is refused before minutes of tracing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from ptune.export.decoder.attention import cache_width, check_attention, window_of
from ptune.formats.signature import CacheLayer

NAME = "ptune_seen"


@dataclass
class Caches:
    """The caches of a decoder, and which of them each call of attention takes, in the order of calls."""

    layers: list[CacheLayer] = field(default_factory=list)
    of_call: list[int] = field(default_factory=list)

    @property
    def shared(self) -> tuple[int, ...]:
        """The cache of each call that takes one which an earlier call has taken."""
        return tuple(cache for at, cache in enumerate(self.of_call) if cache in self.of_call[:at])


@dataclass
class _Pass:
    """A forward pass."""

    caches: Caches = field(default_factory=Caches)
    keys: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # and values, of each cache

    def take(self, key: Tensor, value: Tensor, window: int | None) -> None:
        """Notes a call of attention. Keys and values that an earlier call was handed lie in its cache, which has the wider window."""
        known = (at for at, pair in enumerate(self.keys) if pair[0] is key and pair[1] is value)
        cache = next(known, len(self.keys))
        if cache == len(self.keys):
            width = cache_width(key, value)
            self.keys.append((key, value))
            self.caches.layers.append(
                CacheLayer(kv_heads=key.shape[1], key_dim=width, value_dim=width, window=window)
            )
        layer = self.caches.layers[cache]
        wider = None if window is None or layer.window is None else max(window, layer.window)
        self.caches.layers[cache] = layer.model_copy(update={"window": wider})
        self.caches.of_call.append(cache)


_pass: ContextVar[_Pass] = ContextVar("_pass")


def observed(model: PreTrainedModel, mode: FakeTensorMode) -> Caches:
    """Runs a decoder in shapes. Raises: BackboneError for attention that cannot be exported; what the model's own code raises."""
    seen = _Pass()
    token = _pass.set(seen)
    try:
        with _attending(model), _unchanged(model), mode, torch.no_grad():
            tokens = torch.arange(6)[None].expand(2, -1)
            model(input_ids=tokens, position_ids=tokens, use_cache=False)
    finally:
        _pass.reset(token)
    return seen.caches


@contextmanager
def _attending(model: PreTrainedModel) -> Iterator[None]:
    own = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


@contextmanager
def _unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Undoes what a pass leaves in a model, such as rotary frequencies for its length."""
    before = [(module, {*vars(module)}, {**module._buffers}) for module in model.modules()]
    try:
        yield
    finally:
        for module, names, buffers in before:
            for name in {*vars(module)} - names:
                delattr(module, name)
            module._buffers.clear()
            module._buffers.update(buffers)


def _see(
    module: nn.Module,
    query: Tensor,  # [batch, heads, tokens, dim]
    key: Tensor,  # [batch, kv_heads, tokens, dim]
    value: Tensor,  # [batch, kv_heads, tokens, value_dim]
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Returns [batch, tokens, heads, value_dim]."""
    check_attention(module, query, key, attention_mask, options)
    _pass.get().take(key, value, options.get("sliding_window") or window_of(module) or None)
    batch, heads, tokens, _ = query.shape
    return query.new_zeros(batch, tokens, heads, value.shape[-1]), None


AttentionInterface.register(NAME, _see)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
