"""The head of a classifier as its own graph: everything after the body's hidden states.

The model's own forward is traced with a body that returns given hidden states, so that heads of any family (pooler, first
token, last token, dropout, several layers) need no code here.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.export.decoder.trace import DYNAMIC, onnx_of

FILE = "head.onnx"


class _Output:
    """A body's output as a head reads it; absent parts (caches, attentions) are None."""

    def __init__(self, hidden: Tensor, pooled: Tensor | None) -> None:
        self.last_hidden_state, self.pooler_output = hidden, pooled

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        return [part for part in (self.last_hidden_state, self.pooler_output) if part is not None][index]


class _GivenHidden(nn.Module):
    """Replaces the body."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.pooler = getattr(body, "pooler", None)
        self.activation = getattr(body, "pooler_activation", None)  # if the pooler is a bare linear layer
        self.hidden: Tensor | None = None  # set for each trace

    def forward(self, *_: Any, **__: Any) -> _Output:
        assert self.hidden is not None
        return _Output(self.hidden, self._pooled(self.hidden))

    def _pooled(self, hidden: Tensor) -> Tensor | None:
        if self.pooler is None:
            return None
        pooled = self.pooler(hidden[:, 0] if isinstance(self.pooler, nn.Linear) else hidden)
        return pooled if self.activation is None else self.activation(pooled)


class TextHead(nn.Module):
    """A text classifier on given hidden states [batch, seq, width] and lengths [batch]."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        # Without copying the body's weights.
        memo: dict[int, Any] = {
            id(part): None
            for name, part in model.base_model.named_children()
            if not name.startswith("pooler")
        }
        body = copy.deepcopy(model.base_model, memo)
        self.model = copy.deepcopy(model, {**memo, id(model.base_model): body})
        self.body = _GivenHidden(body)
        setattr(self.model, model.base_model_prefix, self.body)
        if self.model.config.pad_token_id is None:
            self.model.config.pad_token_id = 0  # of the dummy ids below

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Logits [batch, labels], or [batch, seq, labels]."""
        self.body.hidden = hidden
        pad = int(self.model.config.pad_token_id)
        real = torch.arange(hidden.shape[1])[None] < lengths[:, None]
        ids = torch.where(real, pad + 1, pad)  # a causal model looks for the last token that is not padding
        logits: Tensor = self.model(input_ids=ids, attention_mask=real.long()).logits
        return logits


def save_text_head(model: PreTrainedModel, path: Path) -> None:
    """Writes the head of a classifier of texts or tokens as one file. Raises: BackboneError with the reason."""
    width = model.config.get_text_config().hidden_size
    example = (torch.zeros(3, 6, width), torch.tensor([6, 4, 2]))
    dynamic = ({0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC})
    save_head(TextHead(model), example, dynamic, path, ["hidden", "lengths"])


def save_head(
    head: nn.Module, example: tuple[Tensor, ...], dynamic: tuple[Any, ...], path: Path, inputs: list[str]
) -> None:
    """Traces a head with its weights and writes it as one file. Raises: BackboneError with the reason."""
    graph = onnx_of(head.eval(), example, dynamic, inputs, ["logits"], "the head", optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(graph, path)
