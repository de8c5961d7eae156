"""Finds the products of an int8 profile in a graph and makes each one operator.

ptune.export.decoder.int8 writes a product of x with a weight in eleven operators: rounding to two bytes, one integer product of both,
their sum, and the shape of x. `ptune::RoundedProduct` does the same, operation by operation, and gives the same bits.
"""

from __future__ import annotations

import numpy as np
import onnx_ir

from ptune_kernels.find import DOMAIN, MICROSOFT, equals, is_constant, made_by, only_user, place, put_behind

PRODUCT = "MatMulIntegerToFloat"
OPERATOR = "RoundedProduct"
MIDDLE = 32896
MOST_INPUTS = 65536  # an int32 holds the sum of so many products of bytes


def rewrite(graph: onnx_ir.Graph) -> int:
    """Rewrites all products that are just as expected, and returns their number."""
    products = [node for node in graph if node.op_type == PRODUCT and node.domain == MICROSOFT]
    return sum(_rewrite(node) for node in products)


def _rewrite(node: onnx_ir.Node) -> bool:
    """Rewrites one product; False, and nothing is changed, where it is not just as expected."""
    parts, weight, step, scale, zero = (*node.inputs, *[None] * 5)[:5]
    rounded = _rounded(parts)
    halves = only_user(node.outputs[0], "Reshape")
    flat = None if halves is None else only_user(halves.outputs[0], "MatMul")
    if rounded is None or flat is None or halves is None or len(node.inputs) != 5:
        return False
    unit, fine = rounded
    assert weight is not None
    known = (
        equals(zero, [128])
        and equals(halves.inputs[1], [2, -1])
        and equals(flat.inputs[0], [1, 1 / 256])
        and flat.inputs[1] is halves.outputs[0]
        and all(is_constant(value) for value in (weight, step, scale, fine))
        and weight.shape is not None
        and weight.dtype == onnx_ir.DataType.INT8
        and int(weight.shape[0]) <= MOST_INPUTS
    )
    shaped = only_user(flat.outputs[0], "Reshape")
    if not known or shaped is None or _copies_sizes(shaped.inputs[1]):
        return False
    # Where rows keep their shape, the operator has it already; otherwise this is a reshape of its output.
    last = shaped if _same_leading(shaped.outputs[0], unit) else flat
    divided = None if last is flat else only_user(shaped.outputs[0], "Div")
    inverse = None
    if divided is not None and divided.inputs[0] is last.outputs[0] and _is_of_row(divided.inputs[1], unit):
        last, inverse = divided, divided.inputs[1]
    inputs = [unit, weight, scale, step, fine, inverse]
    new = onnx_ir.node(OPERATOR, inputs, {"shared_as": place(weight)}, domain=DOMAIN)
    new.name = f"{node.name}.rounded"
    put_behind(last, new, shaped=last is not flat)
    return True


def _rounded(parts: onnx_ir.Value | None) -> tuple[onnx_ir.Value, onnx_ir.Value] | None:
    """The rows whose high and low bytes `parts` are, and the low byte's step."""
    both = made_by(parts, "Concat")
    if both is None or len(both.inputs) != 2 or both.attributes.get_int("axis", -1) != 0:
        return None
    high, low = (made_by(value, "Cast") for value in both.inputs)
    steps = made_by(None if high is None else high.inputs[0], "DequantizeLinear", MICROSOFT)
    rounding = made_by(None if low is None else low.inputs[0], "QuantizeLinear", MICROSOFT)
    if high is None or low is None or steps is None or rounding is None:
        return None
    byte = onnx_ir.DataType.UINT8.value
    unit, fine, middle = rounding.inputs
    same = (
        high.attributes.get_int("to", 0) == low.attributes.get_int("to", 0) == byte
        and steps.inputs[0] is rounding.outputs[0]
        and equals(steps.inputs[1], [1 / 256])
        and equals(steps.inputs[2], [0])
        and equals(middle, [MIDDLE])
    )
    return (unit, fine) if same and unit is not None and fine is not None else None


def _copies_sizes(shape: onnx_ir.Value | None) -> bool:
    """Whether a reshape to `shape` may take a size from its input, which has another shape afterwards."""
    return shape is not None and shape.const_value is not None and not np.all(shape.const_value.numpy())


def _same_leading(y: onnx_ir.Value, x: onnx_ir.Value) -> bool:
    """Whether all dimensions but the last are the same by their names."""
    norm = x.producer()
    if x.shape is None and norm is not None and norm.inputs and norm.inputs[0] is not None:
        x = norm.inputs[0]  # a norm that was added for the rounding alone: of the shape that it reads
    if y.shape is None or x.shape is None:
        return False
    return [str(size) for size in y.shape[:-1]] == [str(size) for size in x.shape[:-1]]


def _is_of_row(inverse: onnx_ir.Value | None, x: onnx_ir.Value) -> bool:
    """Whether a number for each row of x was computed beside x."""
    return inverse is not None and inverse.producer() is not None and inverse.producer() is x.producer()
