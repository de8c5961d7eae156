"""Sums of a few numbers of a token with the same bits wherever they lie.

onnxruntime adds up a row four numbers at a time, from the first address that is a multiple of 16 bytes, and what is left one by
one. Rows of five, six or ten numbers, such as the shares of the experts that a token chose, begin at any address, so that a
token's sum would tell how many tokens are before it. Zeros behind them make each row as long as a multiple of four.
"""

from __future__ import annotations

import numpy as np
import onnx_ir

from ptune.export.rewrite import before, constant, integers, width_of

LANES = 4  # numbers that are added at a time


def pad(graph: onnx_ir.Graph) -> int:
    """Puts zeros behind what each ReduceSum adds up along the last axis, where its rows begin at any address. Returns how many."""
    found = [node for node in graph if node.op_type == "ReduceSum" and _missing(node)]
    for node in found:
        source = node.inputs[0]
        ends = constant(graph, f"short_sums.{_missing(node)}", np.array([0, _missing(node)]))
        last = constant(graph, "short_sums.last", np.array([-1]))
        (longer,) = before(node, "Pad", [source, ends, None, last], {"mode": "constant"})
        node.replace_input_with(0, longer)
    return len(found)


def _missing(node: onnx_ir.Node) -> int:
    """The numbers that a sum of floats along the last axis lacks to be added four at a time; 0 if none, or if it is another sum."""
    source, width = node.inputs[0], width_of(node.inputs[0])
    axes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or source.shape is None or width is None or width <= LANES or axes is None:
        return 0
    if source.dtype != onnx_ir.DataType.FLOAT or axes not in ([-1], [len(source.shape) - 1]):
        return 0
    return -width % LANES
