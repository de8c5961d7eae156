"""An image body's graph in int8: its convolutions and linear layers, and the tensors between them.

W is rounded symmetrically with a scale for each output channel. The input and output of a rounded layer are rounded to 256
equal steps, asymmetrically; the step is a constant, taken from training images, so that an image's numbers do not depend on
its batch:

    x ≈ (q - zero) * step, q uint8      W ≈ Wq * scale, Wq int8      b ≈ bq * (step * scale), bq int32

The graph contains pairs of QuantizeLinear and DequantizeLinear, of which onnxruntime makes integer operators; elsewhere it
computes in float32. Only for bodies without sockets: an adapter beside a layer would need both forms.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.errors import BackboneError
from ptune.export.vision.ranges import SMALLEST, Range

LARGEST = 127  # of a weight
MOST = 2.0**30  # of a bias, as int32
PRODUCTS = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip")  # merged into the rounding after them
SAME_STEP = ("MaxPool",)  # select values unchanged

Weights = NDArray[np.float32]


def layers(model: onnx_ir.Model) -> list[onnx_ir.Node]:
    """The layers that can be rounded, in order: products with a constant weight."""
    return [node for node in model.graph if _can_be_rounded(node)]


def _can_be_rounded(node: onnx_ir.Node) -> bool:
    if node.op_type not in PRODUCTS or node.domain:
        return False
    x, weight, *bias = node.inputs
    if x is None or x.const_value is not None or weight is None or weight.const_value is None:
        return False
    if any(value is not None and value.const_value is None for value in bias):
        return False
    if node.op_type == "MatMul":
        return len(weight.const_value.shape) == 2
    if node.op_type == "Gemm":
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        return all(
            attribute.value == plain.get(name, attribute.value) for name, attribute in node.attributes.items()
        )
    return True


def rounded_tensors(nodes: Collection[onnx_ir.Node]) -> list[onnx_ir.Value]:
    """The tensors to round with these layers: their inputs, and a convolution's output after its activation."""
    tensors: dict[onnx_ir.Value, None] = {}
    for node in nodes:
        x = node.inputs[0]
        assert x is not None
        tensors[x] = None
        if node.op_type == "Conv" and not (out := _activated(node)).is_graph_output():
            tensors[out] = None
    return list(tensors)


def _activated(node: onnx_ir.Node) -> onnx_ir.Value:
    """A layer's output, or its activation's if that is the only reader."""
    out = node.outputs[0]
    users = [use.node for use in out.uses()]
    if len(users) == 1 and users[0].op_type in ACTIVATIONS and not out.is_graph_output():
        return users[0].outputs[0]
    return out


def picked_from(value: onnx_ir.Value, rounded: Collection[onnx_ir.Value]) -> onnx_ir.Value:
    """The rounded tensor that this one's values were selected from, whose step it shares; else itself."""
    maker = value.producer()
    before = maker.inputs[0] if maker is not None and maker.op_type in SAME_STEP else None
    return value if before is None or before not in rounded else picked_from(before, rounded)


def write_vision_int8(
    source: Path,
    target: Path,
    ranges: Mapping[str, Range],
    shifts: Mapping[str, Weights],
    keep: Collection[str] = (),
) -> int:
    """Reads the float32 graph at `source`; writes `target`, and its weights as `target`.data.

    ranges: of every tensor of `rounded_tensors`, by name; shifts: to subtract from a layer's bias, by its weight's name;
    keep: names of weights whose layers stay float32.
    Deterministic to the byte. Returns the number of layers that became int8.
    Raises: BackboneError if there is none.
    """
    model = onnx_ir.load(source)
    chosen = [node for node in layers(model) if weight_name(node) not in keep]
    if not chosen:
        raise BackboneError(f"{source} has no layer that could be made int8")
    _Rounding(model.graph, ranges, shifts).all_of(chosen)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, target, external_data=f"{target.name}.data", size_threshold_bytes=1024)
    return len(chosen)


class _Rounding:
    """Rewrites one graph."""

    def __init__(
        self, graph: onnx_ir.Graph, ranges: Mapping[str, Range], shifts: Mapping[str, Weights]
    ) -> None:
        self.graph = graph
        self.ranges = ranges
        self.shifts = shifts

    def all_of(self, nodes: Collection[onnx_ir.Node]) -> None:
        """Rounds weights, biases and the tensors between."""
        between = rounded_tensors(nodes)
        range_of = {value: self.ranges[str(picked_from(value, between).name)] for value in between}
        for node in nodes:
            x = node.inputs[0]
            assert x is not None
            self._parameters(node, range_of[x].step)
        for value, bounds in range_of.items():
            self._between(value, bounds)
        for name in [name for name, value in self.graph.initializers.items() if not value.uses()]:
            del self.graph.initializers[name]

    def _between(self, value: onnx_ir.Value, bounds: Range) -> None:
        """Inserts a pair of operators that round a tensor for all its readers."""
        name, maker, uses = str(value.name), value.producer(), list(value.uses())
        step = self._constant(f"{name}.step", np.float32(bounds.step))
        zero = self._constant(f"{name}.zero", np.uint8(bounds.zero))
        down = onnx_ir.node("QuantizeLinear", [value, step, zero])
        up = onnx_ir.node("DequantizeLinear", [down.outputs[0], step, zero])
        down.outputs[0].name, up.outputs[0].name = f"{name}.uint8", f"{name}.rounded"
        if maker is None:
            self.graph.insert_before(self.graph[0], [down, up])
        else:
            self.graph.insert_after(maker, [down, up])
        for use, place in uses:
            use.replace_input_with(place, up.outputs[0])

    def _parameters(self, node: onnx_ir.Node, step: float) -> None:
        """Stores weight and bias of a layer as integers with an operator that dequantises them. step: of its input."""
        weight = _weight(node)
        assert weight.const_value is not None
        axis, bias = _channels(node), self._bias(node)
        rounded, scale = rounded_channels(weight.const_value.numpy(), axis, bias, step)
        own = node.outputs[0].name  # layers that share a weight have their own steps
        node.replace_input_with(1, self._float(node, f"{own}.weight.int8", rounded, scale, axis))
        if bias is not None:
            whole = np.rint(bias / (step * scale)).astype(np.int32)
            node.resize_inputs(3)
            value = self._float(node, f"{own}.bias.int32", whole, np.float32(step) * scale, 0)
            node.replace_input_with(2, value)

    def _bias(self, node: onnx_ir.Node) -> Weights | None:
        """A layer's bias minus the mean shift by rounding."""
        bias, shift = node.inputs[2] if len(node.inputs) > 2 else None, self.shifts.get(weight_name(node))
        if bias is None or bias.const_value is None:
            return None if shift is None else -shift
        array: Weights = bias.const_value.numpy()
        return array if shift is None else array - shift

    def _float(
        self,
        node: onnx_ir.Node,
        name: str,
        values: NDArray[np.int8] | NDArray[np.int32],
        scale: Weights,
        axis: int,
    ) -> onnx_ir.Value:
        inputs = [
            self._constant(name, values),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero", np.zeros(scale.shape, values.dtype)),
        ]
        up = onnx_ir.node("DequantizeLinear", inputs, {"axis": axis})
        up.outputs[0].name = f"{name}.float"
        self.graph.insert_before(node, up)
        return up.outputs[0]

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> onnx_ir.Value:
        """An initializer, registered once."""
        if name not in self.graph.initializers:
            array = np.asarray(value)
            self.graph.register_initializer(onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name)))
        return self.graph.initializers[name]


def rounded_channels(
    weight: Weights, axis: int, bias: Weights | None, step: float
) -> tuple[NDArray[np.int8], Weights]:
    """Rounds W to Wq and scale [channels], W close to Wq * scale along `axis`; the bias / (step * scale) must fit int32."""
    others = tuple(one for one in range(weight.ndim) if one != axis)
    scale = np.maximum(np.abs(weight).max(axis=others).astype(np.float64) / LARGEST, SMALLEST)
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias) / (step * MOST))
    scale = scale.astype(np.float32)
    column = _along(scale, axis, weight.ndim)
    return np.clip(np.rint(weight / column), -LARGEST, LARGEST).astype(np.int8), scale


def _along(scale: Weights, axis: int, rank: int) -> Weights:
    """Reshapes a vector to `rank` dimensions, along `axis`."""
    return scale.reshape([-1 if one == axis else 1 for one in range(rank)])


def _channels(node: onnx_ir.Node) -> int:
    """The axis of a weight's output channels."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def weight_name(node: onnx_ir.Node) -> str:
    """A layer's name: that of its weight."""
    return str(_weight(node).name)


def rounded_floats(node: onnx_ir.Node) -> Weights:
    """A layer's weight, rounded to int8 and back."""
    held = _weight(node).const_value
    assert held is not None
    array = held.numpy()
    rounded, scale = rounded_channels(array, axis := _channels(node), None, 1.0)
    floats: Weights = rounded * _along(scale, axis, array.ndim)
    return floats


def _weight(node: onnx_ir.Node) -> onnx_ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    return weight
