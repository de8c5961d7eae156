"""LoKr (Yeh et al. 2024, https://arxiv.org/abs/2309.14859): the Kronecker product of two matrices, each whole or a product.

(U1 V1) ⊗ (U2 V2) = (U1 ⊗ U2) (V1 ⊗ V2), of the product of both ranks.
"""

from __future__ import annotations

import numpy as np

from ptune.engine.adapters.fold.layer import Factor, Layer, LayerError, Update
from ptune.engine.adapters.fold.loha import LycorisConfig


def fold(layer: Layer[LycorisConfig]) -> Update:
    u1, v1 = _parts(layer, "lokr_w1")
    u2, v2 = _parts(layer, "lokr_w2")
    if u1.shape[0] * u2.shape[0] != layer.outer or v1.shape[1] * v2.shape[1] != layer.inner:
        shapes = f"[{len(u1)}, {v1.shape[1]}] and [{len(u2)}, {v2.shape[1]}]"
        raise LayerError(f"its parts {shapes} make no matrix of [{layer.outer}, {layer.inner}]")
    scale = np.float32(layer.scale)
    if v1.shape[0] * v2.shape[0] >= min(layer.inner, layer.outer):
        return Update(np.kron(u1 @ v1, u2 @ v2) * scale)
    return Update(np.kron(v1, v2), np.kron(u1, u2) * scale)


def _parts(layer: Layer[LycorisConfig], name: str) -> tuple[Factor, Factor]:
    """A matrix as a product; one that is whole as the product with an identity."""
    if name in layer:
        whole = layer.tensor(name, None, None)
        identity = np.eye(min(whole.shape), dtype=np.float32)
        return (whole, identity) if whole.shape[1] <= whole.shape[0] else (identity, whole)
    left = layer.tensor(f"{name}_a", None, layer.rank)
    return left, layer.tensor(f"{name}_b", layer.rank, None)
