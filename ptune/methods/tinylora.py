"""TinyLoRA (Morris et al. 2026, https://arxiv.org/abs/2602.04118) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class TinyLora(PeftMethod):
    """A handful of trained numbers in the space of each layer's largest singular vectors."""

    r: int = Field(default=2, ge=1)
    """Singular vectors of a layer."""
    u: int = Field(default=64, ge=1)
    """Trained numbers of a layer."""
    weight_tying: float = Field(default=0.0, ge=0, le=1)
    """Share of the layers that share them; 1: all."""
    projection_seed: int = 42
    """Seed of the projection."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""

    peft_config = "peft:TinyLoraConfig"
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "tinylora_dropout"}
