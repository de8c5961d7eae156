"""Adapters' factors as graphs with own operators take them (`ptune.engine.kernels`): one input, a line for each slot.

A line has the factors in the order in which a step reads them, from the first number to the last: A [in, R] of a socket as it
is, B [R, out] in panels of its columns. In half precision a step reads half as many bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnxruntime

from ptune.engine.adapters.lora import Factor
from ptune.engine.decoder.cache.lazy_memory import zeros
from ptune.engine.kernels import FACTORS, PANEL


@dataclass(frozen=True)
class PackedFactors:
    """What such a graph takes."""

    names: tuple[str, ...]  # SOCKET.A and SOCKET.B of all sockets in it
    panel: int  # columns of B in a panel; the last one may be narrower
    dtype: np.dtype[Any]  # float32, or half precision

    @classmethod
    def of(cls, session: onnxruntime.InferenceSession) -> Self | None:
        """Reads it off a graph; None where each factor is an input of its own."""
        told = session.get_modelmeta().custom_metadata_map
        if FACTORS not in told:
            return None
        kind = next(found.type for found in session.get_inputs() if found.name == FACTORS)
        dtype = np.dtype(np.float16 if kind == "tensor(float16)" else np.float32)
        return cls(tuple(told[FACTORS].split("\n")), int(told[PANEL]), dtype)


class FactorLines:
    """Lines of packed factors, of adapters up to one rank: the graph's input is `array` [count, numbers]."""

    def __init__(self, packed: PackedFactors, shapes: Mapping[str, tuple[int, int]], count: int) -> None:
        """shapes: of the factors, with their padded rank."""
        self._packed, self._shapes = packed, shapes
        ends = np.cumsum([0, *(math.prod(shapes[name]) for name in packed.names)]).tolist()
        self._places = {name: slice(*ends[index : index + 2]) for index, name in enumerate(packed.names)}
        self.array = zeros((count, ends[-1]), packed.dtype, huge_pages=True)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def write(self, line: int, socket: str, a: Factor, b: Factor) -> None:
        """Writes a socket's factors A [in, r] and B [r, out]; up to the line's rank they are padded with zeros."""
        if self._packed.dtype == np.float16:
            a, b = balanced(a, b)
        rank = a.shape[1]
        of_a, of_b = f"{socket}.A", f"{socket}.B"
        place = self.array[line, self._places[of_a]].reshape(self._shapes[of_a])
        place[:, :rank], place[:, rank:] = a, 0
        ranks, columns = self._shapes[of_b]
        panel = self._packed.panel
        whole = columns // panel * panel
        place = self.array[line, self._places[of_b]]
        panels = place[: whole * ranks].reshape(whole // panel, ranks, panel)
        panels[:, :rank] = b[:, :whole].reshape(rank, whole // panel, panel).swapaxes(0, 1)
        last = place[whole * ranks :].reshape(ranks, columns - whole)
        last[:rank] = b[:, whole:]
        panels[:, rank:], last[rank:] = 0, 0


def balanced(a: Factor, b: Factor) -> tuple[Factor, Factor]:
    """Factors of the same product whose largest numbers are about as large: A by a power of two, B divided by it.

    So neither leaves the range of half precision, whatever shares of its scale an adapter has in A and in B.
    """
    largest = [float(np.abs(factor).max(initial=0)) for factor in (a, b)]
    if 0 in largest:
        return np.zeros_like(a), np.zeros_like(b)
    of_a, of_b = (math.frexp(size)[1] for size in largest)
    scale = 2.0 ** ((of_b - of_a) // 2)
    return a * np.float32(scale), b * np.float32(1 / scale)
