"""DEFT (https://huggingface.co/docs/peft/package_reference/deft): a subspace of the base's weights replaced by a trained one.

(I - Q Pᵀ) W + Q R adds Q (R - Pᵀ W), of rank r; with `para` there is no R.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import FiniteFloat

from ptune.engine.adapters.fold.layer import Layer, Update
from ptune.engine.adapters.peft_config import LoraConfig


class DeftConfig(LoraConfig):
    """decomposition_method: how Q and P come out of the trained matrix. alpha: R is scaled by alpha / r, if there is one."""

    decomposition_method: Literal["relu", "qr"] = "relu"
    para: bool = False
    alpha: FiniteFloat | None = None


def fold(layer: Layer[DeftConfig]) -> Update:
    config, rank = layer.config, min(layer.rank, layer.outer)
    trained = layer.tensor("deft_P", layer.outer, rank)
    q = trained if config.decomposition_method == "relu" else np.linalg.qr(trained)[0]
    p = np.maximum(trained, 0) if config.decomposition_method == "relu" else q
    removed = p.T @ layer.weight()
    if config.para:
        return Update(-removed, q)
    scale = np.float32(config.alpha / rank if config.alpha else 1)
    return Update(layer.tensor("deft_R", rank, layer.inner) * scale - removed, q)
