"""Fuses SiLU into onnxruntime's QuickGelu with alpha 1."""

from __future__ import annotations

import onnx_ir

from ptune.export.rewrite import MICROSOFT, before, made_by, other_input, replace


def fuse_silu(graph: onnx_ir.Graph) -> int:
    """Makes one operator of x * sigmoid(x)."""
    count = 0
    for node in list(graph):
        if node.op_type != "Mul":
            continue
        for gate in node.inputs:
            sigmoid = made_by(gate, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs[0] is other_input(node, gate):
                (out,) = before(
                    node,
                    "QuickGelu",
                    [sigmoid.inputs[0]],
                    {"alpha": 1.0},
                    domain=MICROSOFT,
                    like=node.outputs[0],
                )
                replace(node, out)
                count += 1
                break
    return count
