"""AdaLoRA (Zhang et al. 2023, https://arxiv.org/abs/2303.10512): P diag(e) Q, of which training has left some ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, model_validator

from ptune.engine.adapters.fold.layer import Layer, Update
from ptune.engine.adapters.peft_config import LoraConfig


class AdaLoraConfig(LoraConfig):
    """rank_pattern lists which ranks were left, and peft has cut the tensors to these."""

    init_r: int = Field(default=12, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _without_pattern(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name != "rank_pattern"}


def fold(layer: Layer[AdaLoraConfig]) -> Update:
    """peft divides by the rank before the cut, plus 1e-5."""
    a = layer.tensor("lora_A", None, layer.inner)
    rank = len(a)
    alpha = layer.config.lora_alpha if layer.config.lora_alpha > 0 else rank
    scale = alpha / (layer.config.init_r + 1e-5)
    b = layer.tensor("lora_B", layer.outer, rank) * np.float32(scale)
    return Update(a * layer.tensor("lora_E", rank, 1), b)
