"""VB-LoRA (Li et al. 2024, https://arxiv.org/abs/2405.15179) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class VbLora(PeftMethod):
    """Low-rank factors put together from a bank of vectors that all layers share."""

    r: int = Field(default=4, ge=1)
    """Rank of the updates."""
    num_vectors: int = Field(default=256, ge=1)
    """Vectors in the bank."""
    vector_length: int = Field(default=256, ge=1)
    """Length of a vector; the sizes of all adapted layers must be divisible by it."""
    topk: int = Field(default=2, ge=1)
    """Vectors that are mixed for each part of a factor."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""

    peft_config = "peft:VBLoRAConfig"
    quantized = ("int8", "nf4")
    folds = True
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "vblora_dropout"}
