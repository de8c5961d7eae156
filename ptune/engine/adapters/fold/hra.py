"""HRA (Yuan et al. 2024, https://arxiv.org/abs/2405.17484): the base's weight times a chain of Householder reflections.

W H with H = (I - 2 u1 u1ᵀ) … (I - 2 ur urᵀ). H - I has rank r, so the update W (H - I) does.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ptune.engine.adapters.fold.layer import Layer, LayerError, Update
from ptune.engine.adapters.peft_config import LoraConfig


class HraConfig(LoraConfig):
    """orthogonal: the reflections are made orthogonal to each other (Gram-Schmidt)."""

    orthogonal: bool = Field(default=False, alias="apply_GS")


def fold(layer: Layer[HraConfig]) -> Update:
    units = layer.tensor("hra_u", layer.inner, layer.rank).astype(np.float64)
    if not np.linalg.norm(units, axis=0).all():
        raise LayerError("hra_u has a vector of length 0")
    units /= np.linalg.norm(units, axis=0)
    left = np.empty_like(units)  # H - I = left @ units.T
    for at in range(layer.rank):
        unit = units[:, at]
        if layer.config.orthogonal:
            unit = unit - units[:, :at] @ (units[:, :at].T @ unit)
            units[:, at] = unit = unit / np.linalg.norm(unit)
        left[:, at] = -2 * (unit + left[:, :at] @ (units[:, :at].T @ unit))
    b = layer.weight() @ left.astype(np.float32)
    return Update(np.ascontiguousarray(units.T, np.float32), b)
