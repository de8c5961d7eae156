"""VeRA (Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Vera(PeftMethod):
    """Random low-rank factors, frozen and shared by all layers, with a trained scale for each rank and output."""

    r: int = Field(default=256, ge=1)
    """Rank of the shared factors."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    d_initial: float = 0.1
    """First value of the ranks' scales."""
    projection_prng_key: int = 0
    """Seed of the shared factors."""

    peft_config = "peft:VeraConfig"
    quantized = ("int8", "nf4")
    folds = True
    peft_names: ClassVar[Mapping[str, str]] = {"dropout": "vera_dropout"}
