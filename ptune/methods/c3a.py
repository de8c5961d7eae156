"""C3A (Chen et al. 2024, https://arxiv.org/abs/2407.19342) through peft."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class C3a(PeftMethod):
    """Blocks of each layer's update are circulant matrices."""

    block_size: int = Field(default=256, ge=1)
    """Size of a block; inputs and outputs of all adapted layers must be divisible by it."""
    init_weights: Literal["gaussian", "kaiming_uniform", "xavier_uniform"] | bool = "xavier_uniform"
    """How the coefficients begin; true: as zeros."""

    peft_config = "peft:C3AConfig"
    quantized = ("int8", "nf4")
    conv1d = False
