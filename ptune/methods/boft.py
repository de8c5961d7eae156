"""BOFT (Liu et al. 2023, https://arxiv.org/abs/2311.06243) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Boft(PeftMethod):
    """Rotations of each layer's input as products of sparse factors, arranged like a butterfly."""

    boft_block_size: int = Field(default=4, ge=2)
    """Size of a block; the inputs of all adapted layers must be divisible by it."""
    boft_n_butterfly_factor: int = Field(default=1, ge=1)
    """Factors in the product."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the blocks that a pass leaves as they are."""

    peft_config = "peft:BOFTConfig"
    quantized = ("int8", "nf4")
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "boft_dropout"}
    conv1d = False
