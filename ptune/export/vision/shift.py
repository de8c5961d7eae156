"""Measures the mean shift of a convolution's outputs by rounding, on training images, to subtract it from the bias.

Errors of single values cancel over thousands of products; an error of their mean does not, and accumulates in a deep
network (Nagel et al. 2019, section 4.2). Each layer is measured alone on float32 inputs: weights and input rounded, against
neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.export.vision.int8 import layers, picked_from, rounded_floats, rounded_tensors, weight_name
from ptune.export.vision.ranges import Array, Range, session_of

Shifts = dict[str, NDArray[np.float32]]  # weight's name -> [channels]


def shifts(source: Path, ranges: Mapping[str, Range], images: Iterable[Array], threads: int) -> Shifts:
    """The mean shift of every channel of every convolution of the graph at `source`, over `images` [3, H, W]."""
    model = onnx_ir.load(source)
    twins = _twins(model, ranges)
    model.graph.outputs.clear()
    model.graph.outputs.extend(twins.values())
    sums, count = {name: np.float64(0) for name in twins}, 0
    with tempfile.TemporaryDirectory() as folder:
        onnx_ir.save(model, Path(folder) / "twins.onnx", external_data="twins.data")
        session = session_of(Path(folder) / "twins.onnx", threads)
        for image in images:
            feeds = {"pixel_values": image[None], "lora_mask": np.zeros((1, 0), np.float32)}
            for name, mean in zip(twins, session.run(None, feeds), strict=True):
                sums[name] = sums[name] + mean
            count += 1
    return {name: np.asarray(total / count, np.float32) for name, total in sums.items()}


def _twins(model: onnx_ir.Model, ranges: Mapping[str, Range]) -> dict[str, onnx_ir.Value]:
    """Adds a rounded twin to every convolution; returns the mean difference by the weight's name."""
    graph, means = model.graph, dict[str, onnx_ir.Value]()
    nodes = layers(model)
    tensors = rounded_tensors(nodes)
    for number, node in enumerate(one for one in nodes if one.op_type == "Conv"):
        x, weight, *bias = node.inputs
        assert x is not None
        assert weight is not None
        bounds = ranges[str(picked_from(x, tensors).name)]

        def constant(
            kind: str, value: NDArray[np.generic] | np.generic, number: int = number
        ) -> onnx_ir.Value:
            name = f"twin.{number}.{kind}"
            graph.register_initializer(
                made := onnx_ir.val(name, const_value=onnx_ir.tensor(np.asarray(value), name=name))
            )
            return made

        step, zero = constant("step", np.float32(bounds.step)), constant("zero", np.uint8(bounds.zero))
        down = onnx_ir.node("QuantizeLinear", [x, step, zero])
        up = onnx_ir.node("DequantizeLinear", [down.outputs[0], step, zero])
        inputs = [up.outputs[0], constant("weight", rounded_floats(node)), *bias]
        twin = onnx_ir.Node("", "Conv", inputs, [*node.attributes.values()])
        off = onnx_ir.node("Sub", [twin.outputs[0], node.outputs[0]])
        mean = onnx_ir.node(
            "ReduceMean", [off.outputs[0], constant("axes", np.array([0, 2, 3], np.int64))], {"keepdims": 0}
        )
        graph.insert_after(node, [down, up, twin, off, mean])
        mean.outputs[0].name = f"twin.{number}.shift"
        mean.outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        means[weight_name(node)] = mean.outputs[0]
    return means
