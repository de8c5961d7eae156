"""Uni-LoRA (Li et al. 2025, https://arxiv.org/abs/2506.00799) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class UniLora(PeftMethod):
    """One trained vector for the whole model, projected to the low-rank factors of all layers."""

    r: int = Field(default=4, ge=1)
    """Rank of the updates."""
    theta_d_length: int = Field(default=256, ge=1)
    """Length of the vector."""
    proj_seed: int = 42
    """Seed of the projection."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""

    peft_config = "peft:UniLoraConfig"
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "unilora_dropout"}
