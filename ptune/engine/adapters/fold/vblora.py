"""VB-LoRA (Li et al. 2024, https://arxiv.org/abs/2405.15179): pieces of A and B are mixtures of vectors of one bank."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ptune.engine.adapters.fold.layer import Factor, Layer, LayerError, Update
from ptune.engine.adapters.peft_config import LoraConfig


class VbloraConfig(LoraConfig):
    """topk: vectors in a mixture."""

    topk: int = Field(default=2, ge=1)
    num_vectors: int = Field(default=256, ge=1)
    vector_length: int = Field(default=256, ge=1)


def fold(layer: Layer[VbloraConfig]) -> Update:
    config, rank = layer.config, layer.rank
    length = config.vector_length
    if layer.inner % length or layer.outer % length:
        raise LayerError(f"vector_length is {length}, which does not divide {layer.inner} and {layer.outer}")
    if config.topk > config.num_vectors:
        raise LayerError(f"topk is {config.topk}, of {config.num_vectors} vectors")
    if rank > min(layer.inner, layer.outer):
        raise LayerError(f"r is {rank}, the layer is {layer.outer} x {layer.inner}")
    bank = layer.tensor("vblora_vector_bank", config.num_vectors, length)
    a = _mixed(bank, *_chosen(layer, "vblora_logits_A", rank, layer.inner // length))
    b = _mixed(bank, *_chosen(layer, "vblora_logits_B", layer.outer // length, rank))
    return Update(a.reshape(rank, layer.inner), b.transpose(0, 2, 1).reshape(layer.outer, rank))


def _chosen(
    layer: Layer[VbloraConfig], name: str, rows: int, columns: int
) -> tuple[npt.NDArray[np.int64], Factor]:
    """Which vectors make each piece, and their weights: [rows, columns, topk]."""
    topk, vectors = layer.config.topk, layer.config.num_vectors
    if f"{name}_topk_indices" in layer:  # save_only_topk_weights: the last weight is what the others leave
        ids = layer.ids(f"{name}_topk_indices", vectors, rows, columns, topk)
        weights = layer.tensor(f"{name}_topk_weights", rows, columns, topk - 1)
        return ids, np.concatenate([weights, 1 - weights.sum(-1, keepdims=True)], -1)
    logits = layer.tensor(name, rows, columns, vectors)
    ids = np.argsort(-logits, -1, kind="stable")[..., :topk]
    best: npt.NDArray[Any] = np.take_along_axis(logits, ids, -1)
    best = np.exp(best - best.max(-1, keepdims=True))
    return ids, best / best.sum(-1, keepdims=True)


def _mixed(bank: Factor, ids: npt.NDArray[np.int64], weights: Factor) -> Factor:
    """[rows, columns, length]"""
    pieces = np.zeros((*ids.shape[:2], bank.shape[1]), np.float32)
    for at in range(ids.shape[2]):
        pieces += weights[..., at, None] * bank[ids[..., at]]
    return pieces
