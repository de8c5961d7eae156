"""Finds the layers of an image body that suffer most from int8, by the change of hidden states when each is rounded alone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.export.vision.int8 import layers, weight_name, write_vision_int8
from ptune.export.vision.ranges import Array, Range, session_of
from ptune.export.vision.shift import Shifts

IMAGES = 16


def most_harmed(
    source: Path, ranges: Mapping[str, Range], shifts: Shifts, images: Sequence[Array], threads: int
) -> list[str]:
    """Names of the weights of all layers of the graph at `source`, the most harmed by rounding first.

    images: [3, H, W]; only the first ones are used.
    """
    names = list(dict.fromkeys(weight_name(node) for node in layers(onnx_ir.load(source))))
    batch = np.stack(images[:IMAGES])
    exact = _hidden(source, batch, threads)
    harm = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for name in names:
            write_vision_int8(source, path, ranges, shifts, [other for other in names if other != name])
            harm[name] = float(np.square(_hidden(path, batch, threads) - exact).sum())
    return sorted(names, key=lambda name: -harm[name])


def _hidden(path: Path, batch: Array, threads: int) -> NDArray[np.float32]:
    feeds = {"pixel_values": batch, "lora_mask": np.zeros((len(batch), 0), np.float32)}
    found: NDArray[np.float32] = session_of(path, threads).run(["hidden"], feeds)[0]
    return found
