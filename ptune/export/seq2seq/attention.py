"""Attention of an encoder-decoder while its graphs are traced, for any model that transformers routes through its
AttentionInterface (https://huggingface.co/docs/transformers/attention_interface).

The encoder uses `encoder_attention`. The decoder uses plain operators: its relative positions (T5) are a bias of the scores that
differs by row, and rows of one batch have written different numbers of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from ptune.errors import BackboneError
from ptune.export.encoder.attention import MASKED, ROWS, Rows, multi_head_attention

NAME = "ptune_seq2seq"
STEP = "_ptune_seq2seq_step"  # attribute in which traced modules find the step's inputs


@dataclass
class SelfInputs:
    """Inputs of the decoder's attention in a step of writing."""

    past: list[Tensor]  # key, value of each layer: [batch, heads, C, dim]
    cross: list[Tensor]  # likewise: [batch, heads, source, dim]
    past_lengths: Tensor  # [batch]
    lengths: Tensor  # [batch]
    tokens: int | torch.SymInt  # new tokens of each row

    def positions(self) -> Tensor:
        """Positions of the new tokens, [batch, tokens]."""
        return self.past_lengths[:, None] + torch.arange(self.tokens)[None]

    def key_positions(self) -> Tensor:
        """Positions of the cache's cells and the new tokens, [batch, C + tokens]."""
        cells = torch.arange(self.past[0].shape[2])[None].expand(self.past_lengths.shape[0], -1)
        return torch.cat([cells, self.positions()], 1)


@dataclass
class Step:
    """One trace: of a step of writing or, if `inputs` is None, of reading."""

    inputs: SelfInputs | None = None
    cross: list[Tensor] = field(default_factory=list)  # in reading: key, value of each layer
    new: list[Tensor] = field(default_factory=list)  # in writing: likewise
    crossing: set[nn.Module] = field(default_factory=set)  # modules that attend to the source
    layers: list[int] = field(default_factory=lambda: [0, 0])  # self- and cross-attention seen so far


def attend(
    module: nn.Module,
    query: Tensor,  # [batch, heads, tokens, dim]
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attention of any of the three kinds. Returns [batch, tokens, heads, dim]."""
    step: Step | None = getattr(module, STEP, None)
    if step is None:
        return multi_head_attention(
            module, query, key, value, attention_mask, scaling, position_bias=position_bias, **other
        )
    if attention_mask is not None or query.shape[1] != key.shape[1]:
        raise BackboneError(
            f"{type(module).__name__} uses a mask or shared heads that cannot be exported from an encoder-decoder"
        )
    crosses = module in step.crossing
    layer = step.layers[crosses]
    step.layers[crosses] += 1
    scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    if step.inputs is None:  # reading needs only these; the rest is dropped
        if crosses:
            step.cross += [key, value]
        return query.transpose(1, 2), None
    if crosses:
        source = step.inputs.cross[2 * layer : 2 * layer + 2]
        return _cross(query * scale, source, step.inputs), None
    step.new += [key, value]
    past = step.inputs.past[2 * layer : 2 * layer + 2]
    return _self(query * scale, key, value, past, step.inputs, position_bias), None


def _cross(query: Tensor, source: list[Tensor], step: SelfInputs) -> Tensor:
    key, value = source
    seen = torch.arange(key.shape[2])[None] < step.lengths[:, None]  # [batch, source]
    scores = torch.where(seen[:, None, None], query @ key.transpose(2, 3), MASKED)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def _self(
    query: Tensor, key: Tensor, value: Tensor, past: list[Tensor], step: SelfInputs, bias: Tensor | None
) -> Tensor:
    """Attends over cache and new tokens, of which only the scores are concatenated."""
    past_key, past_value = past
    cells = past_key.shape[2]
    cached = torch.arange(cells)[None] < step.past_lengths[:, None]  # [batch, C]
    place = torch.arange(step.tokens)
    causal = place[None] <= place[:, None]  # [query, key]
    old = torch.where(cached[:, None, None], query @ past_key.transpose(2, 3), MASKED)
    fresh = torch.where(causal[None, None], query @ key.transpose(2, 3), MASKED)
    scores = torch.cat([old, fresh], -1)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1)
    return (weights[..., :cells] @ past_value + weights[..., cells:] @ value).transpose(1, 2)


class Positions(nn.Module):
    """A decoder's table of positions, read at the step's positions; it keeps its weight's name."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.weight = table.weight
        self.offset = int(getattr(table, "offset", 0))
        self.inputs: SelfInputs | None = None

    def forward(self, *_: Any, **__: Any) -> Tensor:
        assert self.inputs is not None
        return F.embedding(self.inputs.positions() + self.offset, self.weight)


def _relative(module: nn.Module, step: SelfInputs) -> Any:
    """T5 attention's `compute_bias` at the step's positions: [batch, heads, tokens, C + tokens]."""

    def compute_bias(*_: Any, **__: Any) -> Tensor:
        distance = step.key_positions()[:, None] - step.positions()[:, :, None]
        buckets = module._relative_position_bucket(
            distance,
            bidirectional=False,
            num_buckets=module.relative_attention_num_buckets,
            max_distance=module.relative_attention_max_distance,
        )
        bias: Tensor = module.relative_attention_bias(buckets)
        return bias.permute(0, 3, 1, 2)

    return compute_bias


def prepare(model: PreTrainedModel) -> None:
    """Replaces the decoder's table of positions, if it has one. Raises: BackboneError for positions without a table."""
    decoder = model.get_decoder()
    table = getattr(decoder, "embed_positions", None)
    if table is None:
        return
    if not isinstance(table, nn.Embedding):
        raise BackboneError(
            f"{type(decoder).__name__} has positions of a kind that cannot be exported: {type(table).__name__}"
        )
    decoder.embed_positions = Positions(table)


def set_step(model: PreTrainedModel, step: Step, rows: Rows) -> None:
    """Sets the inputs of `model`'s modules for this trace."""
    decoder = model.get_decoder()
    own = {*decoder.modules()}

    def noted(module: nn.Module, _: tuple[Any, ...], options: dict[str, Any]) -> None:
        if options.get("key_value_states") is not None:
            step.crossing.add(module)

    for module in model.modules():
        if module not in own:
            setattr(module, ROWS, rows)
            continue
        if hasattr(module, "layer_idx"):
            module.register_forward_pre_hook(noted, with_kwargs=True)
        setattr(module, STEP, step)
        if step.inputs is not None:
            if isinstance(module, Positions):
                module.inputs = step.inputs
            if getattr(module, "has_relative_attention_bias", False):
                module.compute_bias = _relative(module, step.inputs)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
