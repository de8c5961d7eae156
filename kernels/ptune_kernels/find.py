"""Tools for finding nodes in a graph."""

from __future__ import annotations

import os

import numpy as np
import onnx_ir

DOMAIN = "ptune"
MICROSOFT = "com.microsoft"


def place(weight: onnx_ir.Value | None) -> str:
    """Names the bytes of a file: sessions of graphs that read the same ones pack them once. Empty where there is no file."""
    tensor = None if weight is None else weight.const_value
    if not isinstance(tensor, onnx_ir.ExternalTensor):
        return ""
    at = os.stat(tensor.path)
    return f"{os.path.realpath(tensor.path)} {at.st_ino} {at.st_mtime_ns} {tensor.offset} {tensor.length}"


def made_by(value: onnx_ir.Value | None, kind: str, domain: str = "") -> onnx_ir.Node | None:
    """The node that makes `value`, if it is of this kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind and node.domain == domain else None


def only_user(value: onnx_ir.Value, kind: str) -> onnx_ir.Node | None:
    """The node of this kind that alone reads `value`, once."""
    users = list(value.uses())
    node = users[0].node if len(users) == 1 and not value.is_graph_output() else None
    return node if node is not None and node.op_type == kind and node.domain == "" else None


def is_constant(value: onnx_ir.Value | None) -> bool:
    """Whether a value is known."""
    return value is not None and value.const_value is not None


def equals(value: onnx_ir.Value | None, expected: list[float]) -> bool:
    """Whether a value is a constant of these numbers."""
    if value is None or value.const_value is None or value.const_value.size != len(expected):
        return False
    return bool(np.array_equal(value.const_value.numpy().reshape(-1), expected))
