"""LoHa (Hyeon-Woo et al. 2022, https://arxiv.org/abs/2108.06098): (B1 A1) ∘ (B2 A2).

The elementwise product of two matrices of rank r has rank r²: its factors are all products of a row of A1 and one of A2, and of
a column of B1 and one of B2 (a Khatri-Rao product).
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, FiniteFloat

from ptune.engine.adapters.fold.layer import Layer, Update
from ptune.engine.adapters.peft_config import LoraConfig


class LycorisConfig(LoraConfig):
    """LoHa's and LoKr's."""

    lora_alpha: FiniteFloat = Field(default=8, alias="alpha")


def fold(layer: Layer[LycorisConfig]) -> Update:
    inner, outer, rank = layer.inner, layer.outer, layer.rank
    b1, a1 = layer.tensor("hada_w1_a", outer, rank), layer.tensor("hada_w1_b", rank, inner)
    b2, a2 = layer.tensor("hada_w2_a", outer, rank), layer.tensor("hada_w2_b", rank, inner)
    if rank * rank >= min(inner, outer):
        return Update((b1 @ a1) * (b2 @ a2) * np.float32(layer.scale))
    a = (a1[:, None] * a2[None]).reshape(rank * rank, inner)
    b = (b1[:, :, None] * b2[:, None]).reshape(outer, rank * rank)
    return Update(a, b * np.float32(layer.scale))
