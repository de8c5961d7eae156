"""A decoder's graph in int8: the products with its weights as integer products, exact, with activations in two bytes.

W is rounded symmetrically with a scale for each output column. A row x of n numbers is divided by its root mean square, so
that none is larger than sqrt(n), and rounded to 16 bits, of which each byte goes into a product:

    u = x / rms(x)     step = sqrt(n) / 32639     q = round(u / step) = 256 high + low, both from -128 to 127
    x W  ->  (high Wq + low Wq / 256) * 256 step * scale * rms(x)

The output of an RMSNorm already has this bound, times the norm's largest gain, and is not divided.
Both bytes go through one product, as two sets of rows, so each weight is read once. One byte alone (as in encoders,
`encoder_int8`) loses far more here: a decoder's activations have a few channels far larger than the rest. With both bytes,
only the weights' rounding matters, and a value at a rounding boundary moves u by at most sqrt(n) / 32639.

Sums of integers are exact, and so is the division by 256: a row's numbers depend neither on other rows of the batch nor on
their number. Adapters, norms and attention stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from ptune.errors import BackboneError
from ptune.export.decoder.experts import Grouped, grouped_products, single, without_routers
from ptune.export.fuse.norms import RMS_NORM, SKIP_RMS_NORM
from ptune.export.fuse.products import is_weight
from ptune.export.rewrite import MICROSOFT, before, constant, lazily, made_by, replace
from ptune.export.rounding import ZERO, column_scales, rounded_columns

FINER = 256  # the low byte's steps in one of the high byte's
MIDDLE = ZERO * FINER + ZERO  # zero of both bytes together
LARGEST_FINE = 2**16 - 1 - MIDDLE
CHOOSING = (
    "Slice",
    "Transpose",
    "GatherND",
    "Gather",
    "Reshape",
)  # output a selection of their first input, or its rows in another shape
SMALLEST = 1e-12  # added to a row's mean square: a row of zeros stays zeros


def write_int8(source: Path, target: Path) -> int:
    """Reads a decoder's float32 graph at `source`; writes `target`, and its weights as `target`.data.

    Weights are read and rounded one at a time while they are written. Returns the number of products that became int8.
    Raises: BackboneError if there is none.
    """

    def rewrite(graph: onnx_ir.Graph, products: list[onnx_ir.Node]) -> None:
        rounding = _Rounding(graph)
        groups = grouped_products(graph)
        for group in groups:
            rounding.rewrite_experts(group)
        for node in single(products, groups):
            rounding.rewrite(node)

    return rewrite_products(source, target, "int8", rewrite)


def rewrite_products(
    source: Path | onnx_ir.Model,
    target: Path,
    profile: str,
    rewrite: Callable[[onnx_ir.Graph, list[onnx_ir.Node]], None],
) -> int:
    """Reads a graph, lets `rewrite` replace all products with weights, in order, and writes it. Returns their number.

    A router stays in float32: its rounding would move tokens to other experts, and it is small.

    source: the graph's file; or a graph in memory, which is changed.
    Raises: BackboneError if there is none.
    """
    model = onnx_ir.load(source) if isinstance(source, Path) else source
    products = [node for node in model.graph if node.op_type == "MatMul" and weight_of(node) is not None]
    products = without_routers(products)
    if not products:
        raise BackboneError(f"the graph has no product with a weight: there is nothing to make {profile}")
    rewrite(model.graph, products)
    passes.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, target, external_data=f"{target.name}.data", size_threshold_bytes=1024)
    return len(products)


@dataclass(frozen=True)
class _Row:
    """An input of products, rounded."""

    parts: onnx_ir.Value  # high bytes, then low bytes: uint8 [2 n, …, in] for [n, …, in]
    step: onnx_ir.Value  # of the high byte
    inverse: onnx_ir.Value | None  # factors that rows were multiplied by, [n, …, 1]
    shape: onnx_ir.Value  # [n, …, -1]


class _Rounding:
    """Rewrites one graph. An input of several products is rounded once."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.rows: dict[onnx_ir.Value, _Row] = {}
        self.shapes: dict[tuple[object, ...], onnx_ir.Value] = {}
        self.zero = constant(graph, "int8.zero", np.uint8(ZERO))
        self.middle = constant(graph, "int8.middle", np.uint16(MIDDLE))
        self.in_steps = constant(graph, "int8.in_steps", np.float32(1 / FINER))
        self.nought = constant(graph, "int8.nought", np.uint16(0))
        self.shares = constant(graph, "int8.shares", np.array([[1, 1 / FINER]], np.float32))
        self.halves = constant(graph, "int8.halves", np.array([2, -1]))

    def rewrite(self, node: onnx_ir.Node) -> None:
        """Rewrites x W as the module docstring describes."""
        x, found = node.inputs[0], weight_of(node)
        assert x is not None
        assert found is not None
        if x not in self.rows:
            self.rows[x] = self._row(x, node, width=_inputs(*found))
        row = self.rows[x]
        weight, scale = self._rounded(*found)
        inputs = [row.parts, weight, row.step, scale, self.zero]
        (both,) = before(node, "MatMulIntegerToFloat", inputs, domain=MICROSOFT)
        (halves,) = before(node, "Reshape", [both, self.halves])
        (flat,) = before(node, "MatMul", [self.shares, halves])
        (out,) = before(node, "Reshape", [flat, row.shape], like=node.outputs[0])
        if row.inverse is not None:
            (out,) = before(node, "Div", [out, row.inverse], like=node.outputs[0])
        replace(node, out)

    def rewrite_experts(self, group: Grouped) -> None:
        """The same of the products of one layer's experts. Both bytes of a row are two rows that follow each other."""
        matrices = [matrix for node in group.products if (matrix := weight_of(node)) is not None]
        width, columns = _inputs(*matrices[0]), _outputs(*matrices[0])
        high, low, step, inverse = self._bytes(group.rows, group.split, width)
        row = constant(self.graph, f"int8.row.{width}", np.array([-1, width]))
        both = constant(self.graph, f"int8.both.{columns}", np.array([-1, 2 * columns]))
        (beside,) = before(group.split, "Concat", [high, low], {"axis": -1})
        (parts,) = before(group.split, "Reshape", [beside, row])
        (sizes,) = before(group.split, "Mul", [group.sizes, constant(self.graph, "int8.two", np.array(2))])
        pieces = before(group.split, "Split", [parts, sizes], {"axis": 0}, outputs=len(matrices))
        made: list[onnx_ir.Value] = []
        for piece, matrix in zip(pieces, matrices, strict=True):
            weight, scale = self._rounded(*matrix)
            inputs = [piece, weight, step, scale, self.zero]
            made += before(group.joined, "MatMulIntegerToFloat", inputs, domain=MICROSOFT)
        (joined,) = before(group.joined, "Concat", made, {"axis": 0})
        (beside,) = before(group.joined, "Reshape", [joined, both])
        halves = before(group.joined, "Split", [beside], {"axis": -1, "num_outputs": 2}, outputs=2)
        (fine,) = before(group.joined, "Mul", [halves[1], self.in_steps])
        (out,) = before(group.joined, "Add", [halves[0], fine], like=group.joined.outputs[0])
        if inverse is not None:
            (out,) = before(group.joined, "Div", [out, inverse], like=group.joined.outputs[0])
        replace(group.joined, out)

    def _row(self, x: onnx_ir.Value, node: onnx_ir.Node, width: int) -> _Row:
        """Rounds x [..., in]."""
        high, low, step, inverse = self._bytes(x, node, width)
        (parts,) = before(node, "Concat", [high, low], {"axis": 0})
        return _Row(parts, step, inverse, self._shape(x, node))

    def _bytes(
        self, x: onnx_ir.Value, node: onnx_ir.Node, width: int
    ) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value, onnx_ir.Value | None]:
        """The high and the low byte of x [..., in], the step of the high one, and what rows were multiplied by."""
        gain = _largest_gain(x, width)
        largest = np.sqrt(np.float32(width)) * np.float32(1 if gain is None else gain)
        fine = largest / np.float32(LARGEST_FINE)
        fine_step = constant(self.graph, f"int8.fine_step.{largest}", fine)
        step = constant(self.graph, f"int8.step.{largest}", fine * np.float32(FINER))
        unit, inverse = x, None
        if gain is None:
            ones = constant(self.graph, f"int8.ones.{width}", np.ones(width, np.float32))
            norm = {"axis": -1, "epsilon": SMALLEST, "stash_type": 1}
            unit, inverse = before(node, RMS_NORM, [x, ones], norm, outputs=2)
        (both,) = before(node, "QuantizeLinear", [unit, fine_step, self.middle], domain=MICROSOFT)
        to_byte = {"to": onnx_ir.DataType.UINT8.value}
        # A shift takes three times as long as truncating a float.
        (steps,) = before(node, "DequantizeLinear", [both, self.in_steps, self.nought], domain=MICROSOFT)
        (high,), (low,) = before(node, "Cast", [steps], to_byte), before(node, "Cast", [both], to_byte)
        return high, low, step, inverse

    def _shape(self, x: onnx_ir.Value, node: onnx_ir.Node) -> onnx_ir.Value:
        """The shape [n, …, -1] of x [n, …, in], computed once for all inputs with the same n, …."""
        assert x.shape is not None
        key = tuple(x.shape[:-1])
        if key not in self.shapes:
            (leading,) = before(node, "Shape", [x], {"start": 0, "end": -1})
            last = constant(self.graph, "int8.last", np.array([-1]))
            (self.shapes[key],) = before(node, "Concat", [leading, last], {"axis": 0})
        return self.shapes[key]

    def _rounded(self, weight: onnx_ir.Value, turned: bool) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """Wq int8 [in, out] and scale [out], computed lazily. turned: the weight is [out, in]."""
        assert weight.shape is not None
        rows, columns = (int(size) for size in (reversed(weight.shape) if turned else weight.shape))

        @cache
        def scale() -> NDArray[np.float32]:
            return column_scales(floats_of(weight, turned))

        def rounded() -> NDArray[np.int8]:
            return rounded_columns(floats_of(weight, turned), scale())

        name = f"{weight.name}{'.turned' if turned else ''}"
        return (
            self._lazy(f"{name}.int8", rounded, onnx_ir.DataType.INT8, [rows, columns]),
            self._lazy(f"{name}.scale", scale, onnx_ir.DataType.FLOAT, [columns]),
        )

    def _lazy(
        self, name: str, read: Callable[[], NDArray[np.generic]], kind: onnx_ir.DataType, shape: list[int]
    ) -> onnx_ir.Value:
        value = lazily(name, shape, read, kind)
        self.graph.register_initializer(value)
        return value


def weight_of(node: onnx_ir.Node) -> tuple[onnx_ir.Value, bool] | None:
    """A product's constant right matrix, and whether it is stored as [out, in], with a transpose."""
    right = node.inputs[1]
    turned = made_by(right, "Transpose")
    matrix = right if turned is None else turned.inputs[0]
    return (matrix, turned is not None) if matrix is not None and is_weight(matrix) else None


def floats_of(weight: onnx_ir.Value, turned: bool) -> NDArray[np.float32]:
    """Reads a product's weight [in, out]."""
    assert weight.const_value is not None
    return weight.const_value.numpy().T if turned else weight.const_value.numpy()


def _inputs(weight: onnx_ir.Value, turned: bool) -> int:
    """The width of a product's input."""
    assert weight.shape is not None
    return int(weight.shape[-1 if turned else 0])


def _outputs(weight: onnx_ir.Value, turned: bool) -> int:
    """The width of a product's output."""
    assert weight.shape is not None
    return int(weight.shape[0 if turned else -1])


def _largest_gain(x: onnx_ir.Value, width: int) -> float | None:
    """The largest gain, never 0, of the RMSNorm that makes x [..., width] or that x is selected from; None if unknown."""
    norm = x.producer()
    while norm is not None and norm.op_type in CHOOSING and norm.inputs[0] is not None:
        x = norm.inputs[0]
        norm = x.producer()
    at = {RMS_NORM: 1, SKIP_RMS_NORM: 2}.get("" if norm is None else norm.op_type)
    gain = None if norm is None or at is None or x is not norm.outputs[0] else norm.inputs[at]
    if gain is None or gain.const_value is None or gain.const_value.size != width:
        return None
    return max(float(np.abs(gain.const_value.numpy()).max()), SMALLEST)
