"""A decoder's graph in int8: the products with its weights as integer products, exact, with activations in two parts.

W is rounded symmetrically with a scale for each output column. x is rounded with a scale for each row, and what that rounding
left is rounded once more, 254 times finer:

    r = max(|x| over the row)     q1 = round(x / r * 127)     q2 = round((x / r * 127 - q1) * 254)
    x W  ->  (q1 Wq + q2 Wq / 254) / 127 * scale * r

Both parts go through one product, one below the other, so each weight is read once. One part alone (as encoders have it,
`encoder_int8`) loses ten times as much here: a decoder's activations have a few channels far larger than the rest. With both,
the loss is that of the weights' rounding, and a rounding that falls otherwise moves x by 1/32000 of its largest value.

Sums of integers are exact, so a row's numbers depend on nothing else in the batch. Adapters, norms, attention: float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from ptune.errors import BackboneError
from ptune.export.edit import MICROSOFT, before, constant, made_by, replace
from ptune.export.fuse.products import is_weight
from ptune.export.rounding import LARGEST, SMALLEST, ZERO, column_scales, rounded_columns

FINER = 254  # the second part's steps in one of the first


def write_int8(source: Path, target: Path) -> int:
    """Reads a decoder's float32 graph at `source`, writes `target` and its weights beside it as `target`.data.

    Weights are read and rounded one at a time while they are written. Returns how many products became int8.
    Raises: BackboneError where there is none.
    """
    model = onnx_ir.load(source)
    rounding = _Rounding(model.graph)
    products = [node for node in model.graph if node.op_type == "MatMul" and _weight(node) is not None]
    for node in products:
        rounding.rewrite(node)
    if not products:
        raise BackboneError(f"{source} has no product with a weight: there is nothing to make int8")
    passes.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, target, external_data=f"{target.name}.data", size_threshold_bytes=1024)
    return len(products)


class _Rounding:
    """One graph while it is rewritten. An input of several products is rounded once."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.rows: dict[onnx_ir.Value, tuple[onnx_ir.Value, onnx_ir.Value]] = {}
        self.step = constant(graph, "int8.step", np.float32(1 / LARGEST))
        self.fine_step = constant(graph, "int8.fine_step", np.float32(1 / LARGEST / FINER))
        self.zero = constant(graph, "int8.zero", np.uint8(ZERO))

    def rewrite(self, node: onnx_ir.Node) -> None:
        """x W, as the file's head says."""
        x, found = node.inputs[0], _weight(node)
        assert x is not None
        assert found is not None
        if x not in self.rows:
            self.rows[x] = self._row(x, node)
        q, scales = self.rows[x]
        weight, scale = self._rounded(*found)
        inputs = [q, weight, self.step, scale, self.zero]
        (both,) = before(node, "MatMulIntegerToFloat", inputs, domain=MICROSOFT)
        (both,) = before(node, "Mul", [both, scales])
        parts = before(node, "Split", [both], {"axis": 0, "num_outputs": 2}, outputs=2)
        (out,) = before(node, "Add", parts, like=node.outputs[0])
        replace(node, out)

    def _row(self, x: onnx_ir.Value, node: onnx_ir.Node) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """x [rows, tokens, in] -> both parts as uint8 [2 rows, tokens, in], what each is to be multiplied by [2 rows, tokens, 1]."""
        axis = constant(self.graph, "int8.axis", np.array([-1]))
        smallest = constant(self.graph, "int8.smallest", np.float32(SMALLEST))
        finer = constant(self.graph, "int8.finer", np.float32(1 / FINER))
        (size,) = before(node, "Abs", [x])
        (size,) = before(node, "ReduceMax", [size, axis], {"keepdims": 1})
        (r,) = before(node, "Max", [size, smallest])
        (unit,) = before(node, "Div", [x, r])
        (q1,) = before(node, "QuantizeLinear", [unit, self.step, self.zero])
        (back,) = before(node, "DequantizeLinear", [q1, self.step, self.zero])
        (left,) = before(node, "Sub", [unit, back])
        (q2,) = before(node, "QuantizeLinear", [left, self.fine_step, self.zero])
        (both,) = before(node, "Concat", [q1, q2], {"axis": 0})
        (r2,) = before(node, "Mul", [r, finer])
        (scales,) = before(node, "Concat", [r, r2], {"axis": 0})
        return both, scales

    def _rounded(self, weight: onnx_ir.Value, turned: bool) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """Wq int8 [in, out] and scale [out], computed when they are written. turned: the weight is [out, in]."""
        source = weight.const_value
        assert source is not None
        rows, columns = (int(size) for size in (reversed(source.shape) if turned else source.shape))

        @cache
        def scale() -> NDArray[np.float32]:
            return column_scales(source.numpy().T if turned else source.numpy())

        def rounded() -> NDArray[np.int8]:
            floats = source.numpy().T if turned else source.numpy()
            return rounded_columns(floats, scale())

        name = f"{weight.name}{'.turned' if turned else ''}"
        return (
            self._lazy(f"{name}.int8", rounded, onnx_ir.DataType.INT8, [rows, columns]),
            self._lazy(f"{name}.scale", scale, onnx_ir.DataType.FLOAT, [columns]),
        )

    def _lazy(
        self, name: str, read: Callable[[], NDArray[np.generic]], kind: onnx_ir.DataType, shape: list[int]
    ) -> onnx_ir.Value:
        tensor = onnx_ir.LazyTensor(
            lambda: onnx_ir.tensor(np.ascontiguousarray(read()), name=name),
            dtype=kind,
            shape=onnx_ir.Shape(shape),
            name=name,
            cache=False,
        )
        value = onnx_ir.Value(
            name=name, shape=tensor.shape, type=onnx_ir.TensorType(kind), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value


def _weight(node: onnx_ir.Node) -> tuple[onnx_ir.Value, bool] | None:
    """The constant matrix that a product has on its right, and whether it lies there as [out, in], behind a transpose."""
    right = node.inputs[1]
    turned = made_by(right, "Transpose")
    matrix = right if turned is None else turned.inputs[0]
    return (matrix, turned is not None) if matrix is not None and is_weight(matrix) else None
