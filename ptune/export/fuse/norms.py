"""Fuses RMSNorm (Zhang and Sennrich 2019), alone and with the residual connection before it."""

from __future__ import annotations

import onnx_ir

from ptune.export.rewrite import (
    MICROSOFT,
    before,
    constant_of,
    is_scalar,
    made_by,
    other_input,
    rank_of,
    replace,
)

RMS_NORM = "SimplifiedLayerNormalization"  # in the default domain of onnxruntime
SKIP_RMS_NORM = "SkipSimplifiedLayerNormalization"


def fuse_rms_norms(graph: onnx_ir.Graph) -> int:
    """Makes one operator of x / sqrt(mean(x²) + eps) * weight."""
    count = 0
    for node in list(graph):
        if node.op_type == "Mul" and (match := _rms_norm(node)) is not None:
            x, weight, epsilon = match
            attributes = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
            (out,) = before(node, RMS_NORM, [x, weight], attributes, like=node.outputs[0])
            replace(node, out)
            count += 1
    return count


def _rms_norm(node: onnx_ir.Node) -> tuple[onnx_ir.Value, onnx_ir.Value, float] | None:
    """Matches RMSNorm at its last product; returns x, the weight and eps."""
    for normed, weight in (node.inputs, reversed(node.inputs)):
        product = made_by(normed, "Mul")
        if product is None or weight is None or rank_of(weight) != 1:
            continue
        for scale in product.inputs:
            x = other_input(product, scale)
            epsilon = _inverse_root_of_mean_square(scale, x)
            if x is not None and epsilon is not None:
                return x, weight, epsilon
    return None


def _inverse_root_of_mean_square(value: onnx_ir.Value | None, x: onnx_ir.Value | None) -> float | None:
    """Returns eps if `value` is 1 / sqrt(mean(x²) + eps) over the last axis."""
    inverse = made_by(value, "Reciprocal")
    root = made_by(inverse.inputs[0], "Sqrt") if inverse is not None else None
    total = made_by(root.inputs[0], "Add") if root is not None else None
    mean = made_by(total.inputs[0], "ReduceMean") if total is not None else None
    if mean is None or total is None:
        return None
    square, axes, epsilon = (
        made_by(mean.inputs[0], "Pow"),
        constant_of(mean.inputs[1]),
        constant_of(total.inputs[1]),
    )
    last = axes is not None and axes.tolist() in ([-1], [(rank_of(x) or 0) - 1])
    if square is None or square.inputs[0] is not x or not is_scalar(square.inputs[1], 2.0) or not last:
        return None
    return None if epsilon is None or epsilon.size != 1 else float(epsilon.reshape(()))


def fuse_skips(graph: onnx_ir.Graph) -> int:
    """Makes one operator of a residual sum and its RMSNorm."""
    count = 0
    for node in list(graph):
        total = made_by(node.inputs[0], "Add") if node.op_type == RMS_NORM else None
        if total is None or rank_of(total.outputs[0]) != 3 or total.inputs[0] is total.inputs[1]:
            continue
        weight = node.inputs[1]
        if weight is None or weight.producer() is not None:
            continue
        if any(_is_update(part) for part in total.inputs):
            continue  # a layer's output plus its adapter's is not a residual
        if any(
            part is None or part.shape is None or part.shape != total.outputs[0].shape
            for part in total.inputs
        ):
            continue
        residual = total.outputs[0]
        epsilon = {"epsilon": node.attributes["epsilon"].as_float()}
        inputs = [*total.inputs, weight]
        outs = before(
            total,  # others may read the sum before the norm does
            SKIP_RMS_NORM,
            inputs,
            epsilon,
            domain=MICROSOFT,
            outputs=4,
            like=residual,
        )
        outs[3].shape, outs[3].dtype = residual.shape, residual.dtype
        for unused in outs[1:3]:
            unused.name = ""
        replace(node, outs[0])
        replace(total, outs[3])
        count += 1
    return count


def _is_update(part: onnx_ir.Value | None) -> bool:
    """Whether a value is an adapter's update: a product with a factor, which is an input of the graph."""
    product = made_by(part, "MatMul")
    return product is not None and product.inputs[1] is not None and product.inputs[1].is_graph_input()
