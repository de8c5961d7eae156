"""GraLoRA (Jung et al. 2025, https://arxiv.org/abs/2505.20355) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class GraLora(PeftMethod):
    """Each layer is cut into blocks with low-rank updates of their own."""

    r: int = Field(default=32, ge=1)
    """Rank of a layer's updates together."""
    hybrid_r: int = Field(default=0, ge=0)
    """Rank of a plain LoRA beside them."""
    alpha: float = Field(default=64.0, gt=0)
    """The update is scaled by alpha / r."""
    gralora_k: int = Field(default=2, ge=1)
    """Blocks along each side; inputs, outputs and r must be divisible by it."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""

    peft_config = "peft:GraloraConfig"
    quantized = ("int8", "nf4")
    folds = True
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "gralora_dropout"}
