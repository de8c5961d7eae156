"""LoRA that began at a part of the base's weights: PiSSA (Meng et al. 2024, https://arxiv.org/abs/2404.02948) and OLoRA
(Büyükakyüz 2024, https://arxiv.org/abs/2406.01775).

peft takes s B0 A0 out of the base when it begins, and again whenever it loads the file. Beside the whole base the update is
s (B A - B0 A0), of twice the rank; B0 A0 comes from W alone: its r largest singular values, or r columns of its QR. Training on a
base in bfloat16 or float16 rounded W - s B0 A0 to that type; here, as in peft on float32, it is not rounded.
"""

from __future__ import annotations

import numpy as np

from ptune.engine.adapters.fold.layer import Factor, Layer, LayerError, Update
from ptune.engine.adapters.peft_config import LoraConfig


def fold_pissa(layer: Layer[LoraConfig]) -> Update:
    left, values, right = np.linalg.svd(_plain(layer), full_matrices=False)
    rank = layer.rank  # the scale cancels: peft divides the values by it
    return _without(layer, right[:rank], -left[:, :rank] * values[:rank])


def fold_olora(layer: Layer[LoraConfig]) -> Update:
    weight, rank = _plain(layer), layer.rank
    columns = np.linalg.qr(weight[:, :rank])[0]  # the first columns of Q depend on those of W alone
    return _without(layer, columns.T @ weight, columns * np.float32(-layer.scale))


def _plain(layer: Layer[LoraConfig]) -> Factor:
    assert layer.base is not None
    if layer.base.quantized:
        raise LayerError(
            "init_lora_weights changed the base before it was quantised, and this bundle's base is quantised as a whole"
        )
    if layer.rank > min(layer.inner, layer.outer):
        raise LayerError(f"r is {layer.rank}, the layer is {layer.outer} x {layer.inner}")
    return layer.weight()


def _without(layer: Layer[LoraConfig], a0: Factor, b0: Factor) -> Update:
    """The pair without what training began with, of which little may be left: so what remains gets factors of its own size.

    Side by side, B and -B0 would cancel each other whenever a row is computed, and in half precision that is lossy.
    """
    rank = layer.rank
    a, b = layer.tensor("lora_A.weight", rank, layer.inner), layer.tensor("lora_B.weight", layer.outer, rank)
    wide_b = np.concatenate([b * np.float32(layer.scale), b0], 1).astype(np.float64)
    wide_a = np.concatenate([a, a0]).astype(np.float64)
    (q_b, r_b), (q_a, r_a) = np.linalg.qr(wide_b), np.linalg.qr(wide_a.T)
    left, values, right = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return Update((right @ q_a.T).astype(np.float32), (q_b @ (left * values)).astype(np.float32))
