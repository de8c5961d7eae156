"""Softplus with the same bits wherever a number lies.

onnxruntime computes the logarithm in Softplus four numbers at a time and what is left at the end one by one, which rounds
otherwise. So a token's step size in a state space would tell how many tokens are beside it. Its Exp does not.

    softplus(x) = max(x, 0) + log(1 + u),  u = exp(-|x|)
    log(1 + u)  = s p(s²),                 s = u / (2 + u)

p is a polynomial for 2 artanh(s) / s on [0, 1/3], within 1e-8 of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir

from ptune.export.rewrite import before, constant, replace

# Of 2 artanh(s) / s in s², by Chebyshev interpolation on [0, 1/9]; constant first.
POLYNOMIAL = np.polynomial.Chebyshev.interpolate(
    lambda z: 2 * np.arctanh(np.sqrt(z)) / np.sqrt(z), 4, (0, 1 / 9)
).convert(kind=np.polynomial.Polynomial)


def spell_out(graph: onnx_ir.Graph) -> int:
    """Writes every Softplus of a graph in operators that round alike everywhere. Returns how many there were."""
    found = [node for node in graph if node.op_type == "Softplus"]
    for node in found:
        _spell_out(graph, node)
    return len(found)


def _spell_out(graph: onnx_ir.Graph, node: onnx_ir.Node) -> None:
    x = node.inputs[0]

    def made(kind: str, *inputs: onnx_ir.Value | None) -> onnx_ir.Value:
        return before(node, kind, inputs, like=node.outputs[0])[0]

    def number(value: float) -> onnx_ir.Value:
        return constant(graph, f"softplus.{value:.9g}", np.float32(value))

    u = made("Exp", made("Neg", made("Abs", x)))
    s = made("Div", u, made("Add", u, number(2)))
    logarithm = made("Mul", s, _polynomial(made("Mul", s, s), made, number))
    replace(node, made("Add", made("Relu", x), logarithm))


def _polynomial(
    z: onnx_ir.Value, made: Callable[..., onnx_ir.Value], number: Callable[[float], onnx_ir.Value]
) -> onnx_ir.Value:
    """Horner's scheme."""
    *rest, total = map(float, POLYNOMIAL.coef)
    value = made("Mul", z, number(total))
    for place, coefficient in enumerate(reversed(rest)):
        value = made("Add", value, number(coefficient))
        value = value if place == len(rest) - 1 else made("Mul", value, z)
    return value
