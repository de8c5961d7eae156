"""Updates that fill a whole weight, and have no exact pair that is smaller: served at a rank that the user chooses.

C3A (Chen et al. 2025, https://arxiv.org/abs/2407.19342), HiRA (Huang et al. 2025), SHiRA (Bhardwaj et al. 2024,
https://arxiv.org/abs/2406.13175), RandLoRA (Albert et al. 2025, https://arxiv.org/abs/2502.00987), OFT (Qiu et al. 2023,
https://arxiv.org/abs/2306.07280) and BOFT (Liu et al. 2024, https://arxiv.org/abs/2311.06243).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field, FiniteFloat

from ptune.engine.adapters.fold.layer import Layer, LayerError, Update, sliced
from ptune.engine.adapters.fold.vera import LOST
from ptune.engine.adapters.peft_config import LoraConfig

Turns = npt.NDArray[np.float64]  # [blocks, size, size]


def fold_c3a(layer: Layer[LoraConfig]) -> Update:
    """Blocks that are circulant: each is made of one row."""
    kernel = layer.tensor("c3a_kernel", None, None, None)
    m, n, size = kernel.shape
    if m * size != layer.outer or n * size != layer.inner:
        raise LayerError(f"c3a_kernel {list(kernel.shape)} makes no matrix of [{layer.outer}, {layer.inner}]")
    turned = (np.arange(size)[None] - np.arange(size)[:, None]) % size
    blocks = kernel[:, :, turned].transpose(0, 2, 1, 3)  # [m, size, n, size]
    return Update(blocks.reshape(layer.outer, layer.inner) / np.float32(layer.inner))


def fold_hira(layer: Layer[LoraConfig]) -> Update:
    """The base's weight, each number times one of B A."""
    a = layer.tensor("hira_A", layer.rank, layer.inner)
    return Update(layer.weight() * (layer.tensor("hira_B", layer.outer, layer.rank) @ a))


def fold_shira(layer: Layer[LoraConfig]) -> Update:
    """Single numbers, by row and column."""
    values = layer.tensor("shira_weight", None)
    places = layer.ids("shira_indices", max(layer.inner, layer.outer), 2, len(values))
    if places.size and (places.max(1) >= (layer.outer, layer.inner)).any():
        raise LayerError(f"shira_indices reach beyond [{layer.outer}, {layer.inner}]")
    update = np.zeros((layer.outer, layer.inner), np.float32)
    np.add.at(update, (places[0], places[1]), values)
    return Update(update)


class RandloraConfig(LoraConfig):
    """Its scale is randlora_alpha / r."""

    lora_alpha: FiniteFloat = Field(default=640, alias="randlora_alpha")


def fold_randlora(layer: Layer[RandloraConfig]) -> Update:
    """Sums of random pairs, which all layers share, each scaled; A belongs to the smaller side."""
    if "randlora_A" not in layer.shared or "randlora_B" not in layer.shared:
        raise LayerError(LOST)
    rank, least, most = layer.rank, min(layer.inner, layer.outer), max(layer.inner, layer.outer)
    weights = layer.tensor("randlora_lambda", rank, None)
    bases = weights.shape[1]
    low = sliced(layer, "randlora_A", rank, 1, least)[:, 0]  # [r, least]
    high = sliced(layer, "randlora_B", most, bases, rank)
    gains = layer.tensor("randlora_gamma", bases, least)
    scaled = low[:, None] * weights[:, :, None] * gains[None]  # [r, bases, least]
    # peft pairs the columns of B by basis, then rank, with the rows of A by rank, then basis.
    update = high.reshape(most, -1) @ scaled.reshape(-1, least) * np.float32(layer.scale)
    return Update(update if least == layer.inner else np.ascontiguousarray(update.T))


class OftConfig(LoraConfig):
    """Each block is a rotation by Cayley's transform, or by the first terms of its Neumann series."""

    block_share: bool = False
    coft: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = Field(default=5, ge=1, le=64)


def fold_oft(layer: Layer[OftConfig]) -> Update:
    """The base's weight times block-diagonal rotations of its inputs: W (Rᵀ - I)."""
    weights = layer.tensor("oft_R.weight", None, None)
    size = round((1 + (1 + 8 * weights.shape[1]) ** 0.5) / 2)
    count = layer.inner // size
    if layer.config.coft:
        raise LayerError("coft is set: its rotations are projected when they are read")
    if size * (size - 1) // 2 != weights.shape[1] or count * size != layer.inner:
        raise LayerError(f"oft_R.weight {list(weights.shape)} makes no rotation of {layer.inner} inputs")
    if len(weights) != (1 if layer.config.block_share else count):
        raise LayerError(f"oft_R.weight has {len(weights)} blocks, needed are {count}")
    skew = np.zeros((len(weights), size, size), np.float64)
    rows, columns = np.triu_indices(size, 1)
    skew[:, rows, columns], skew[:, columns, rows] = weights, -weights
    turns = np.broadcast_to(_rotations(skew, layer.config), (count, size, size))
    base = layer.weight().reshape(layer.outer, count, size)
    moved = np.einsum("oci,cji->ocj", base, (turns - np.eye(size)).astype(np.float32), optimize=True)
    return Update(moved.reshape(layer.outer, layer.inner))


def fold_boft(layer: Layer[LoraConfig]) -> Update:
    """As OFT's with whole blocks, and a gain of each output: S W Rᵀ - W."""
    blocks = layer.tensor("boft_R", None, None, None, None)
    factors, count, size, _ = blocks.shape
    if factors != 1:
        raise LayerError(f"it multiplies {factors} rotations (boft_n_butterfly_factor); one is known here")
    if blocks.shape[3] != size or count * size != layer.inner:
        raise LayerError(f"boft_R {list(blocks.shape)} makes no rotation of {layer.inner} inputs")
    skew = (blocks[0] - blocks[0].transpose(0, 2, 1)).astype(np.float64) / 2
    gains, base = layer.tensor("boft_s", layer.outer, 1), layer.weight()
    turns = _cayley(skew).astype(np.float32)
    moved = np.einsum("oci,cji->ocj", base.reshape(layer.outer, count, size), turns, optimize=True)
    return Update(gains * moved.reshape(layer.outer, layer.inner) - base)


def _cayley(skew: Turns) -> Turns:
    """(I - Q) / (I + Q)"""
    identity = np.eye(skew.shape[-1])
    return np.asarray((identity - skew) @ np.linalg.inv(identity + skew), np.float64)


def _rotations(skew: Turns, config: OftConfig) -> Turns:
    identity, terms = np.eye(skew.shape[-1]), config.num_cayley_neumann_terms
    if not config.use_cayley_neumann:
        return _cayley(skew)
    if terms == 1:
        return np.broadcast_to(identity, skew.shape)
    total, power = identity + 2 * skew, skew
    if terms > 2:
        power = skew @ skew
        total = total + 2 * power
        for _ in range(3, terms - 1):
            power = power @ skew
            total = total + 2 * power
        total = total + power @ skew
    return total
