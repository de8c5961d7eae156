"""RandLoRA (Albert et al. 2025, https://arxiv.org/abs/2502.00987) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class RandLora(PeftMethod):
    """A trained mix of frozen random low-rank factors, whose sum has full rank."""

    r: int = Field(default=32, ge=1)
    """Rank of each of the factors: the higher, the fewer weights are trained."""
    alpha: float = Field(default=640.0, gt=0)
    """The update is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    sparse: bool = False
    """Factors of -1, 0 and 1, two thirds of them 0."""
    very_sparse: bool = False
    """Factors of -1, 0 and 1, almost all of them 0."""
    projection_prng_key: int = 0
    """Seed of the frozen factors."""

    peft_config = "peft:RandLoraConfig"
    peft_names: ClassVar[Mapping[str, str]] = {"alpha": "randlora_alpha", "dropout": "randlora_dropout"}
    quantized = ("int8", "nf4")
