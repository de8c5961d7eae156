"""MiSS (Kang and Yin 2024, https://arxiv.org/abs/2409.15371) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Miss(PeftMethod):
    """One small matrix for each layer, shared by shards of its input."""

    r: int = Field(default=64, ge=1)
    """Rank of the updates."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""

    peft_config = "peft:MissConfig"
    quantized = ("int8", "nf4")
    folds = True
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "miss_dropout"}
    conv1d = False
