"""Separates an encoder's body from its head, for texts and for images."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from ptune.export.decoder.trace import Traced
from ptune.export.encoder.head import save_text_head
from ptune.export.encoder.trace import trace_encoder
from ptune.export.weights import ModelWeights, attach

Size = tuple[int, int]  # height and width of images; None for texts


def trace_body(
    model: PreTrainedModel, size: Size | None = None, *, sockets: bool = True, trust_remote_code: bool = False
) -> Traced:
    """Traces a classifier's body, with its weights. Raises: BackboneError.

    sockets: whether adapters can be plugged in; a text body always has sockets, as they cost nothing.
    """
    if size is not None:
        from ptune.export.vision.trace import trace_vision

        return trace_vision(model, size, sockets=sockets)
    prefix = f"{model.base_model_prefix}."
    traced = trace_encoder(model.config, prefix=prefix, trust_remote_code=trust_remote_code)
    attach(traced, ModelWeights(model.base_model))
    return traced


def save_head(model: PreTrainedModel, path: Path, size: Size | None = None) -> None:
    """Writes a classifier's head as a graph. Raises: BackboneError."""
    if size is not None:
        from ptune.export.vision.head import save_image_head

        save_image_head(model, size, path)
    else:
        save_text_head(model, path)


def hidden_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The last hidden states of a classifier's body."""
    if "pixel_values" in inputs:
        from ptune.export.vision import trace as vision

        return vision.hidden_of(model.base_model, inputs["pixel_values"])
    hidden: Tensor = model.base_model(**inputs).last_hidden_state
    return hidden
