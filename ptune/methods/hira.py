"""HiRA (Huang et al. 2025, https://openreview.net/forum?id=TwJrTz9cRS) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Hira(PeftMethod):
    """A low-rank matrix multiplied elementwise with each layer's weights."""

    r: int = Field(default=32, ge=1)
    """Rank of the factors."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""

    peft_config = "peft:HiraConfig"
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "hira_dropout"}
    quantized = ("int8", "nf4")
    convolutions = True
