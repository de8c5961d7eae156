"""The reference of an encoder: transformers and peft, in float32, on the body that was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.config.recipe import Backbone
from ptune.engine.onnx_graph import Array
from ptune.export.encoder.parts import Size, hidden_of
from ptune.export.merge import merged_by_peft
from ptune.formats.bundle import BaseIdentity
from ptune.tasks.encoder.facts import Facts

Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class EncoderReference:
    """A model with a task's head, without an adapter, in eval mode on the CPU."""

    model: PreTrainedModel
    identity: BaseIdentity  # the body's
    facts: Facts
    head: tuple[str, ...]  # modules that belong to the task

    @property
    def size(self) -> Size | None:
        """Height and width of its images."""
        return size_of(self.facts)


def size_of(facts: Facts) -> Size | None:
    """Height and width of a task's images."""
    if facts.preprocessing is None:
        return None
    height, width = facts.preprocessing["size"]
    return int(height), int(width)


def reference(backbone: Backbone, facts: Facts) -> EncoderReference:
    """Loads the body that an adapter was trained on, under a head for its labels. Raises: BackboneError."""
    if facts.preprocessing is not None:
        from ptune.backbone.image_model import load_image_model

        size = size_of(facts)
        loaded: Any = load_image_model(
            backbone, facts.labels, size=None if size is None else size[0], device="cpu"
        )
    elif facts.embedding is not None:
        from ptune.backbone.embedder import load_embedder

        settings = facts.embedding
        loaded = load_embedder(backbone, settings["pooling"], settings["normalize"], device="cpu")
    else:
        from ptune.backbone.classifier import load_classifier

        kind: Literal["text", "tokens"] = "tokens" if facts.problem == "tags" else "text"
        loaded = load_classifier(backbone, kind, facts.named, device="cpu")
    return EncoderReference(loaded.model.float().eval(), loaded.identity, facts, loaded.head)


def _tensors(inputs: Inputs) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array)[None] for name, array in inputs.items()}


@torch.no_grad()
def hidden(model: PreTrainedModel, inputs: Sequence[Inputs]) -> list[NDArray[np.float32]]:
    """The body's last hidden states of each input alone, without the batch axis."""
    return [hidden_of(model, _tensors(one))[0].float().numpy() for one in inputs]


@torch.no_grad()
def logits(model: nn.Module, inputs: Sequence[Inputs]) -> list[NDArray[np.float32]]:
    """[labels] or [seq, labels] of each input alone."""
    model.eval()
    return [model(**_tensors(one)).logits[0].float().numpy() for one in inputs]


def merged(model: PeftModel) -> PreTrainedModel:
    """Merges the adapter, head included, and returns the plain model; `model` is used up."""
    return merged_by_peft(model).eval()


@contextmanager
def at_rest(layers: Mapping[str, LoraLayer], adapter: str) -> Iterator[None]:
    """Within the block, the body computes without the adapter, and the adapter's head stays."""
    before = {name: layer.scaling[adapter] for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.scaling[adapter] = 0.0
        yield
    finally:
        for name, layer in layers.items():
            layer.scaling[adapter] = before[name]
