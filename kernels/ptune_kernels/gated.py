"""Makes one operator of what lies between two products of a layer: a split, QuickGelu of one half, the product of both.

`ptune::GatedUnit` does what onnxruntime's operators do, step by step, and gives the same bits.
"""

from __future__ import annotations

import onnx_ir

from ptune_kernels.find import DOMAIN, MICROSOFT, made_by, only_user, put_behind

OPERATOR = "GatedUnit"


def rewrite(graph: onnx_ir.Graph) -> int:
    """Rewrites all units that are just as expected, and returns their number."""
    nodes = [node for node in graph if node.op_type == "QuickGelu" and node.domain == MICROSOFT]
    return sum(_rewrite(node) for node in nodes)


def _rewrite(gelu: onnx_ir.Node) -> bool:
    halves, last = made_by(gelu.inputs[0], "Split"), only_user(gelu.outputs[0], "Mul")
    if halves is None or last is None or not _in_halves(halves):
        return False
    gate, up = halves.outputs
    alone = len(list(gate.uses())) == len(list(up.uses())) == 1
    if not alone or gelu.inputs[0] is not gate or [*last.inputs] != [gelu.outputs[0], up]:
        return False
    alpha = {"alpha": gelu.attributes.get_float("alpha", 1.702)}
    new = onnx_ir.node(OPERATOR, [halves.inputs[0]], alpha, domain=DOMAIN)
    new.name = f"{last.name}.gated"
    put_behind(last, new)
    return True


def _in_halves(split: onnx_ir.Node) -> bool:
    """Whether the last dimension is divided into two of one size."""
    sizes = split.inputs[1].const_value if len(split.inputs) == 2 and split.inputs[1] is not None else None
    if sizes is None or len(split.outputs) != 2 or split.attributes.get_int("axis", 0) != -1:
        return False
    first, second = sizes.numpy().tolist()
    return bool(first == second)
