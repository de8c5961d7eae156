"""DeLoRA (Bini et al. 2025, https://arxiv.org/abs/2503.18225): B and A of unit columns and rows, times a learnt strength."""

from __future__ import annotations

import numpy as np

from ptune.engine.adapters.fold.layer import Layer, Update
from ptune.engine.adapters.peft_config import LoraConfig

LEAST = np.float32(1e-4)  # of a norm, as in peft


def fold(layer: Layer[LoraConfig]) -> Update:
    rank = layer.rank
    a, b = layer.tensor("delora_A", rank, layer.inner), layer.tensor("delora_B", layer.outer, rank)
    norms = np.maximum(np.linalg.norm(a, axis=1), LEAST) * np.maximum(np.linalg.norm(b, axis=0), LEAST)
    strength = layer.tensor("delora_lambda", 1) / np.float32(rank)
    return Update(a * layer.tensor("delora_w_norm", layer.inner), b * (strength / norms))
