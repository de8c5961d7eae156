"""How far two adapters are apart in the weights that they change: from their factors, without a matrix of a layer's size.

A layer's update is D = B A, with the scale in B. With B = Qb Rb and A' = Qa Ra its core Rb Ra', [r, r], has D's norm and
singular values, and leads to the spaces of its columns and rows. Numbers are float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.lora import pairs_of
from ptune.errors import AdapterError

Matrix = npt.NDArray[np.float64]
NOTHING = 1e-6  # of the largest singular value: what is smaller is rounding of float32, and no direction


@dataclass(frozen=True, eq=False)
class Update:
    """A layer's update B A: b [out, r], a [r, in]."""

    b: Matrix
    a: Matrix

    @classmethod
    def of(cls, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], scale: float) -> Self:
        return cls(b.astype(np.float64) * scale, a.astype(np.float64))

    @property
    def norm(self) -> float:
        """The Frobenius norm."""
        return float(np.linalg.norm(np.linalg.qr(self.b)[1] @ np.linalg.qr(self.a.T)[1].T))

    def minus(self, other: Update | None) -> Update:
        """The difference, of both ranks together."""
        if other is None:
            return self
        return Update(np.hstack([self.b, -other.b]), np.vstack([self.a, other.a]))

    def dot(self, other: Update) -> float:
        """The sum over all places of the products of both updates."""
        return float(((self.b.T @ other.b) * (self.a @ other.a.T)).sum())

    def spaces(self) -> tuple[Matrix, Matrix]:
        """Orthonormal bases of the spaces of columns [out, k] and of rows [in, k]."""
        (left, over), (right, under) = np.linalg.qr(self.b), np.linalg.qr(self.a.T)
        u, values, v = np.linalg.svd(over @ under.T)
        count = int((values > NOTHING * values[:1]).sum())
        return left @ u[:, :count], right @ v[:count].T


Updates = Mapping[str, Update]  # by the layer's name


@dataclass(frozen=True)
class LayerDifference:
    """One layer. Angles in degrees, the smallest first: 0 is a shared direction, 90 one that the other lacks."""

    layer: str
    norms: tuple[float, float]  # Frobenius; 0 where an adapter leaves the layer alone
    distance: float  # of the updates, by the larger of the two norms
    cosine: float | None  # None where one of them is 0
    columns: tuple[float, ...] = ()  # principal angles between what the updates write
    rows: tuple[float, ...] = ()  # and between what they read


@dataclass(frozen=True)
class Difference:
    """Two adapters, and their layers from the most different on."""

    names: tuple[str, str]
    norms: tuple[float, float]
    distance: float
    cosine: float | None
    layers: tuple[LayerDifference, ...]


def updates_of(source: Path) -> Updates:
    """The updates of a run or a PEFT folder. Raises: AdapterError; FormatError."""
    folder = source / "adapter" if (source / "run.json").is_file() else source
    pairs = pairs_of(folder, "compared layer by layer")
    return {name: Update.of(pair.a, pair.b, pair.scale) for name, pair in pairs.items()}


def difference(first: Path, second: Path) -> Difference:
    """Compares two runs or PEFT folders. Raises: AdapterError where their layers have other sizes."""
    one, two = updates_of(first), updates_of(second)
    for name in sorted(one.keys() & two.keys()):
        sizes = [(len(update.b), update.a.shape[1]) for update in (one[name], two[name])]
        if sizes[0] != sizes[1]:
            raise AdapterError(
                f"{first} and {second} are of different bases: {name} is {sizes[0]} and {sizes[1]}"
            )
    layers = [_of_layer(name, one.get(name), two.get(name)) for name in sorted({*one, *two})]
    norms = tuple(float(np.linalg.norm([layer.norms[side] for layer in layers])) for side in (0, 1))
    product = sum(one[name].dot(two[name]) for name in one.keys() & two.keys())
    return Difference(
        (str(first), str(second)),
        (norms[0], norms[1]),
        apart(one, two),
        product / (norms[0] * norms[1]) if all(norms) else None,
        tuple(sorted(layers, key=lambda layer: -layer.distance * max(layer.norms))),
    )


def _of_layer(name: str, one: Update | None, two: Update | None) -> LayerDifference:
    norms = (one.norm if one else 0.0, two.norm if two else 0.0)
    if one is None or two is None or not all(norms):
        return LayerDifference(name, norms, float(any(norms)), None)
    distance, cosine = one.minus(two).norm / max(norms), one.dot(two) / (norms[0] * norms[1])
    columns, rows = (angles(*sides) for sides in zip(one.spaces(), two.spaces(), strict=True))
    return LayerDifference(name, norms, distance, cosine, columns, rows)


def angles(one: Matrix, two: Matrix) -> tuple[float, ...]:
    """Principal angles between the spaces of two orthonormal bases, in degrees (Björck and Golub 1973)."""
    cosines = np.linalg.svd(one.T @ two, compute_uv=False)
    return tuple(float(angle) for angle in np.degrees(np.arccos(np.clip(cosines, 0, 1))))


def summed(several: Sequence[Updates]) -> Updates:
    """The sum of adapters, layer by layer."""
    found: dict[str, Update] = {}
    for name, update in itertools.chain.from_iterable(one.items() for one in several):
        before = found.get(name)
        found[name] = (
            update
            if before is None
            else Update(np.hstack([before.b, update.b]), np.vstack([before.a, update.a]))
        )
    return found


def apart(one: Updates, two: Updates) -> float:
    """Distance of two adapters by the larger of their norms; 0 for two that do nothing."""
    between, first, second = (
        float(np.linalg.norm([update.norm for update in updates]))
        for updates in ([*_minus(one, two)], one.values(), two.values())
    )
    return between / max(first, second) if max(first, second) else 0.0


def _minus(one: Updates, two: Updates) -> Iterator[Update]:
    """The difference in each layer that one of them changes, of either sign."""
    yield from (update.minus(two.get(name)) for name, update in one.items())
    yield from (update for name, update in two.items() if name not in one)
