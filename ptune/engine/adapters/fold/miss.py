"""MiSS (Kang and Yin 2024, https://arxiv.org/abs/2409.15371), formerly Bone: sums of every r-th input, times one block [r, out]."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ptune.engine.adapters.fold.layer import Layer, LayerError, Update
from ptune.engine.adapters.peft_config import LoraConfig


class MissConfig(LoraConfig):
    """init_weights: also names the variant."""

    init_weights: bool | str = True
    mini_r: int = Field(default=1, ge=1)


def fold(layer: Layer[MissConfig]) -> Update:
    rank, mini = layer.rank, layer.config.mini_r
    if layer.config.init_weights == "bat":
        raise LayerError("init_weights is 'bat': each block of the base's weights is multiplied")
    if layer.config.init_weights == "mini":
        if layer.outer % mini:
            raise LayerError(f"mini_r is {mini}, which does not divide {layer.outer}")
        block = np.tile(layer.tensor("miss_block", rank, mini), layer.outer // mini)
    else:
        block = layer.tensor("miss_block", rank, layer.outer)
    if rank > layer.inner:
        raise LayerError(f"r is {rank}, the layer has {layer.inner} inputs")
    sums = np.zeros((rank, layer.inner), np.float32)
    sums[np.arange(layer.inner) % rank, np.arange(layer.inner)] = 1
    return Update(sums, np.ascontiguousarray(block.T))
