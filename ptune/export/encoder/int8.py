"""An encoder's graph in int8: only the products with its large weights.

W is rounded symmetrically with a scale for each output channel, x with a scale for each row:

    r = max(|x| over the last axis)      q = round(x / r * 127) + 128, as uint8
    x W + update  ->  (q Wq) / 127 * scale * r + update

A row's numbers do not depend on its neighbours in the batch, as they would with one scale for the whole tensor (onnxruntime's
DynamicQuantizeLinear). Attention, LayerNorm, activations and adapters stay float32; adapters read float32 inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.errors import BackboneError
from ptune.export.rewrite import MICROSOFT
from ptune.export.rounding import LARGEST, SMALLEST, ZERO, column_scales, rounded_columns
from ptune.formats.signature import EncoderSignature

OPSET = 21  # first opset whose QuantizeLinear takes a scale for each row


def write_int8(source: Path, target: Path, signature: EncoderSignature) -> int:
    """Reads the float32 graph of a text body at `source`; writes `target`, and its weights as `target`.data.

    Deterministic to the byte. Returns the number of products that became int8.
    Raises: BackboneError if there is none.
    """
    model = onnx_ir.load(source)
    changed = _Int8(model.graph).sockets({f"{socket.name}.B" for socket in signature.sockets})
    if not changed:
        raise BackboneError(f"{source} has no linear layer with a socket: there is nothing to make int8")
    model.opset_imports[""] = OPSET
    model.opset_imports[MICROSOFT] = 1
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(model, target, external_data=f"{target.name}.data", size_threshold_bytes=1024)
    return changed


class _Int8:
    """Rewrites one graph. onnxruntime merges equal roundings of one input."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.rows: dict[onnx_ir.Value, tuple[onnx_ir.Value, onnx_ir.Value]] = {}  # x -> q, r
        self.weights: dict[onnx_ir.Value, tuple[onnx_ir.Value, onnx_ir.Value]] = {}  # W -> Wq, scale
        self.constants: dict[str, onnx_ir.Value] = {}

    def sockets(self, factors: set[str]) -> int:
        """Rewrites every product that is added to an adapter's update. factors: names of the updates' B."""
        products = [node for node in self.graph if _updated(node) in factors]
        for node in products:
            self._rewrite(node)
        for weight in self.weights:
            if not weight.uses() and weight.name is not None:
                self.graph.initializers.pop(weight.name)
        return len(products)

    def _rewrite(self, node: onnx_ir.Node) -> None:
        x, weight, update = node.inputs
        assert x is not None
        assert weight is not None
        if weight not in self.weights:
            self.weights[weight] = self._weight(weight)
        if x not in self.rows:
            self.rows[x] = self._row(x, node)
        (q, r), (rounded, scale) = self.rows[x], self.weights[weight]
        step, zero = self._step(), self._zero()
        inputs = [q, rounded, step, scale, zero]
        out = self._before(node, "MatMulIntegerToFloat", inputs, domain=MICROSOFT)
        out = self._before(node, "Mul", [out, r])
        out = self._before(node, "Add", [out, update])
        (old,) = node.outputs
        out.name, old.name = old.name, f"{old.name}.float"
        old.replace_all_uses_with(out)
        self.graph.remove(node, safe=True)

    def _row(self, x: onnx_ir.Value, node: onnx_ir.Node) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """Rounds x [rows, in] to uint8; returns it with its scales [rows, 1]."""
        axis = self._constant("axis", np.array([-1], np.int64))
        high = self._before(node, "ReduceMax", [x, axis])
        low = self._before(node, "ReduceMin", [x, axis])
        smallest = self._constant("smallest", np.float32(SMALLEST))
        r = self._before(node, "Max", [high, self._before(node, "Neg", [low]), smallest])
        step = self._before(node, "Mul", [r, self._step()])
        zeros = self._before(node, "Expand", [self._zero(), self._before(node, "Shape", [step])])
        width = self.weights[_weight_of(node)][0].shape
        assert width is not None
        q = self._before(node, "QuantizeLinear", [x, step, zeros], axis=1, block_size=int(width[0]))
        return q, r

    def _weight(self, weight: onnx_ir.Value) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        assert weight.const_value is not None
        floats = weight.const_value.numpy()
        scale = column_scales(floats)
        rounded = rounded_columns(floats, scale)
        return self._constant(f"{weight.name}.int8", rounded), self._constant(f"{weight.name}.scale", scale)

    def _step(self) -> onnx_ir.Value:
        return self._constant("step", np.float32(1 / LARGEST))

    def _zero(self) -> onnx_ir.Value:
        return self._constant("zero", np.uint8(ZERO))

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> onnx_ir.Value:
        """An initializer, registered once."""
        name = name if "." in name else f"int8.{name}"
        if name not in self.constants:
            initializer = onnx_ir.val(name, const_value=onnx_ir.tensor(np.asarray(value), name=name))
            self.graph.register_initializer(initializer)
            self.constants[name] = initializer
        return self.constants[name]

    def _before(
        self,
        node: onnx_ir.Node,
        kind: str,
        inputs: Sequence[onnx_ir.Value | None],
        domain: str = "",
        **attributes: int,
    ) -> onnx_ir.Value:
        """Inserts a new node before `node`; returns its output."""
        new = onnx_ir.node(kind, inputs, attributes, domain=domain)
        self.graph.insert_before(node, new)
        (out,) = new.outputs
        return out


def _updated(node: onnx_ir.Node) -> str | None:
    """The name of factor B of the update that a product is added to; None if there is none."""
    if node.op_type != "Gemm" or len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    update = node.inputs[2].producer()
    if update is None or update.op_type != "Gemm" or update.inputs[1] is None:
        return None
    return update.inputs[1].name


def _weight_of(node: onnx_ir.Node) -> onnx_ir.Value:
    weight = node.inputs[1]
    assert weight is not None
    return weight
