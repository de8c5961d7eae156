"""GraLoRA (Jung et al. 2025, https://arxiv.org/abs/2505.20355): k x k blocks of a weight, each with a pair of rank r / k.

Side by side these are one pair of rank r k, zero outside the blocks; `hybrid_r` more ranks reach the whole weight.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, FiniteFloat

from ptune.engine.adapters.fold.layer import Layer, LayerError, Update
from ptune.engine.adapters.peft_config import LoraConfig


class GraloraConfig(LoraConfig):
    """k: blocks along each side."""

    lora_alpha: FiniteFloat = Field(default=64, alias="alpha")
    gralora_k: int = Field(default=2, ge=1)
    hybrid_r: int = Field(default=0, ge=0)


def fold(layer: Layer[GraloraConfig]) -> Update:
    rank, k, hybrid = layer.rank, layer.config.gralora_k, layer.config.hybrid_r
    if rank % k or layer.inner % k or layer.outer % k:
        raise LayerError(f"gralora_k is {k}, which does not divide {rank}, {layer.inner} and {layer.outer}")
    part, inner, outer = rank // k, layer.inner // k, layer.outer // k
    from_block = layer.tensor("gralora_A", k, inner, rank).reshape(k, inner, k, part)
    to_block = layer.tensor("gralora_B", k, rank, outer).reshape(k, k, part, outer)
    scale = np.float32(layer.config.lora_alpha / (rank + hybrid))
    if k * rank >= min(layer.inner, layer.outer):
        whole = np.einsum("nijs,jnso->joni", from_block, to_block, optimize=True)
        return _with_hybrid(
            layer, Update(np.asarray(whole.reshape(layer.outer, layer.inner) * scale, np.float32)), scale
        )
    a = np.zeros((k, k, part, k, inner), np.float32)  # [to, from, rank, block, in]
    b = np.zeros((k, outer, k, k, part), np.float32)  # [block, out, to, from, rank]
    for block in range(k):
        a[:, block, :, block] = from_block[block].transpose(1, 2, 0)
        b[block, :, block] = to_block[block].transpose(2, 0, 1)
    pair = Update(a.reshape(k * rank, layer.inner), b.reshape(layer.outer, k * rank) * scale)
    return _with_hybrid(layer, pair, scale)


def _with_hybrid(layer: Layer[GraloraConfig], update: Update, scale: np.float32) -> Update:
    """Adds the pair that reaches the whole weight."""
    if not (hybrid := layer.config.hybrid_r):
        return update
    a = layer.tensor("gralora_A_general.weight", hybrid, layer.inner)
    b = layer.tensor("gralora_B_general.weight", layer.outer, hybrid) * scale
    if update.b is None:
        return Update(np.add(update.a, b @ a, dtype=np.float32))
    return Update(np.concatenate([update.a, a]), np.concatenate([update.b, b], 1))
