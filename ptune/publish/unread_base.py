"""Adds a text adapter without reading the base: one that brings its whole head needs only the architecture."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from ptune.backbone.classifier import empty_classifier
from ptune.config.recipe import Backbone
from ptune.engine.adapters.lora import weights_of
from ptune.engine.adapters.peft_config import PEFT_PREFIX
from ptune.formats.bundle import Bundle
from ptune.tasks.encoder.facts import Facts
from ptune.verify.encoder.torch_side import EncoderReference


def unread(bundle: Bundle, backbone: Backbone, facts: Facts, adapter: Path) -> EncoderReference | None:
    """As `ptune.verify.encoder.torch_side.reference`, with zero weights: enough to trace the head of `adapter`.

    None if the head needs weights of the base (an untrained pooler, or LoRA on the head), and for images and
    embeddings, whose bases are small. Raises: BackboneError if the base's config cannot be read; AdapterError.
    """
    if facts.preprocessing is not None or facts.embedding is not None:
        return None
    kind: Literal["text", "tokens"] = "tokens" if facts.problem == "tags" else "text"
    model = empty_classifier(backbone, kind, facts.named)
    prefix = f"{model.base_model_prefix}."
    modules = tuple(
        name
        for name, module in (
            *(
                (f"{prefix}{name}", module)
                for name, module in model.base_model.named_children()
                if name.startswith("pooler")
            ),
            *((name, module) for name, module in model.named_children() if f"{name}." != prefix),
        )
        if any(True for _ in module.parameters())
    )
    needed = [
        name for name, _ in model.named_parameters() if name.startswith(tuple(f"{one}." for one in modules))
    ]
    if not set(needed) <= _saved_whole(weights_of(adapter)):
        return None
    return EncoderReference(model, bundle.manifest.base, facts, modules)


def _saved_whole(tensors: Collection[str]) -> set[str]:
    """Names of the model's own weights that peft's file holds whole, not as factors."""
    return {name.removeprefix(PEFT_PREFIX).replace(".modules_to_save.", ".") for name in tensors}
