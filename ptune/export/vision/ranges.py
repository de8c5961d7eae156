"""Ranges of an image body's tensors on training images, for rounding to 256 steps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[np.float32]
STEPS = 255
SMALLEST = 1e-12  # of a step: products of two are not 0 in float32
SAMPLE = 512  # values per tensor and image
NARROWER = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)  # shares of the range to try


@dataclass(frozen=True)
class Range:
    """low <= 0 <= high. 0 is one of the 256 values, so that padding and clipped values stay exact."""

    low: float
    high: float
    noise: float = 0.0  # rounding error on the sampled values: squared errors over squared values

    @property
    def step(self) -> float:
        return max(float(np.float32((self.high - self.low) / STEPS)), SMALLEST)

    @property
    def zero(self) -> int:
        """The integer that encodes 0."""
        return int(np.clip(np.rint(-self.low / self.step), 0, STEPS))

    def rounded(self, values: Array) -> Array:
        """Rounds values."""
        steps = np.clip(np.rint(values / self.step) + self.zero, 0, STEPS) - self.zero
        return (steps * self.step).astype(np.float32)


def ranges(source: Path, names: Sequence[str], images: Iterable[Array], threads: int) -> dict[str, Range]:
    """Measures the ranges of these tensors of the graph at `source` on `images` [3, H, W].

    A range minimises the squared rounding error; it may cut off a few large values.
    """
    seen: dict[str, list[Array]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        session = _session(source, names, Path(folder), threads)
        for image in images:
            feeds = {"pixel_values": image[None], "lora_mask": np.zeros((1, 0), np.float32)}
            for name, values in zip(names, session.run(list(names), feeds), strict=True):
                seen[name].append(_sample(values.reshape(-1)))
    return {name: narrowed(np.concatenate(values)) for name, values in seen.items()}


def _session(source: Path, names: Sequence[str], folder: Path, threads: int) -> onnxruntime.InferenceSession:
    """Opens the graph with these tensors as outputs."""
    model = onnx_ir.load(source)
    values = {str(value.name): value for value in model.graph.inputs}
    values |= {str(value.name): value for node in model.graph for value in node.outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(_typed(values[name]) for name in names)
    onnx_ir.save(model, folder / "seen.onnx", external_data="seen.data")
    return session_of(folder / "seen.onnx", threads)


def session_of(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Opens a graph in onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _typed(value: onnx_ir.Value) -> onnx_ir.Value:
    if value.type is None:
        value.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    return value


def _sample(values: Array) -> Array:
    """Samples a tensor's values evenly, and adds its smallest and largest."""
    some = values[:: max(1, len(values) // SAMPLE)]
    return np.concatenate([some, [values.min(), values.max()]])


def narrowed(values: Array) -> Range:
    """The range with the least squared error on `values`."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    tried = [Range(low * share, high * share) for share in NARROWER]
    return min(tried, key=lambda one: float(np.square(one.rounded(values) - values).mean()))
