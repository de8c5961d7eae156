"""Operators of torch that its exporter cannot write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset20 as op

_A = 0.147  # Winitzki's constant
_STEPS = 2  # of Newton's method, each of which doubles the digits


def erfinv(y: Any) -> Any:
    """The inverse of the error function: Winitzki's approximation, improved by Newton's method.

    Gemma 3n reads from it how much of its activations it keeps; onnxruntime computes it once, since it depends on no input.
    """
    log = op.Log(op.Sub(1.0, op.Mul(y, y)))
    half = op.Add(2 / (math.pi * _A), op.Div(log, 2.0))
    x = op.Mul(op.Sign(y), op.Sqrt(op.Sub(op.Sqrt(op.Sub(op.Mul(half, half), op.Div(log, _A))), half)))
    for _ in range(_STEPS):
        slope = op.Mul(2 / math.sqrt(math.pi), op.Exp(op.Neg(op.Mul(x, x))))
        x = op.Sub(x, op.Div(op.Sub(op.Erf(x), y), slope))
    return x


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.erfinv.default: erfinv}


def with_real_shapes(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Gives complex numbers another axis as pairs of real ones, which the exporter can do; DeepSeek V2 turns queries by such numbers."""
    aten = torch.ops.aten
    graph = exported.graph
    for node in graph.find_nodes(op="call_function", target=aten.unsqueeze.default):
        value, axis = node.args
        if not value.meta["val"].is_complex():
            continue
        with graph.inserting_before(node):
            pairs = _called(graph, aten.view_as_real.default, value)
            longer = _called(graph, aten.unsqueeze.default, pairs, axis if axis >= 0 else axis - 1)
            node.replace_all_uses_with(_called(graph, aten.view_as_complex.default, longer))
        graph.erase_node(node)
    exported.graph_module.recompile()
    return exported


def _called(
    graph: torch.fx.Graph, operator: Callable[..., Any], value: torch.fx.Node, *more: int
) -> torch.fx.Node:
    node = graph.call_function(operator, (value, *more))
    node.meta["val"] = operator(value.meta["val"], *more)
    return node
