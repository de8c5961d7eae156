"""RoAd (Liao and Monz 2024, https://arxiv.org/abs/2409.00119) through peft."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Road(PeftMethod):
    """Rotates and scales pairs of each layer's outputs."""

    variant: Literal["road_1", "road_2", "road_4"] = "road_1"
    """One, two or four trained numbers for each output."""
    group_size: int = Field(default=64, ge=2)
    """Outputs within which pairs are formed; the outputs of all adapted layers must be divisible by it."""

    peft_config = "peft:RoadConfig"
    quantized = ("int8", "nf4")
    scales = True
    conv1d = False
