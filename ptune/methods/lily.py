"""Lily (Zhong et al. 2024, https://arxiv.org/abs/2407.09946) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Lily(PeftMethod):
    """Low-rank updates whose second factors are shared by layers, which mix them."""

    r: int = Field(default=32, ge=1)
    """Rank of the updates."""
    stride_a: int = Field(default=1, ge=1)
    """Consecutive layers that share a first factor."""
    num_b: int = Field(default=2, ge=1)
    """Second factors that layers mix."""
    scaling: float = Field(default=1.0, gt=0)
    """The update is scaled by this."""

    peft_config = "peft:LilyConfig"
    quantized = ("int8", "nf4")
    mergeable = False  # peft cannot
    peft_names: ClassVar[Mapping[str, str]] = {"stride_a": "stride_A", "num_b": "num_B"}
    conv1d = False
