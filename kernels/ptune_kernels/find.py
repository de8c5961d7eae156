"""Tools for finding nodes in a graph."""

from __future__ import annotations

import os
from typing import Any

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


def values_of(tensor: Any) -> np.ndarray[Any, Any]:
    """A constant's numbers.

    onnx_ir refuses to read a weights file that has several hard links, as of a bundle that was copied with `cp -al`. It was
    checked when the bundle was opened, and onnxruntime reads it in any case.
    """
    if not isinstance(tensor, onnx_ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    return np.memmap(
        tensor.path,
        tensor.dtype.numpy(),
        mode="r",
        offset=tensor.offset or 0,
        shape=tuple(tensor.shape.numpy()),
    )


def made_by(value: onnx_ir.Value | None, kind: str, domain: str = "") -> onnx_ir.Node | None:
    """The node that makes `value`, if it is of this kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind and node.domain == domain else None


def only_user(value: onnx_ir.Value, kind: str) -> onnx_ir.Node | None:
    """The node of this kind that alone reads `value`, once."""
    users = list(value.uses())
    node = users[0].node if len(users) == 1 and not value.is_graph_output() else None
    return node if node is not None and node.op_type == kind and node.domain == "" else None


def put_behind(last: onnx_ir.Node, new: onnx_ir.Node, *, shaped: bool = True) -> None:
    """Puts an operator behind `last`, whose output becomes the operator's: its users, its name in the graph's outputs.

    shaped: whether the two outputs have one shape.
    """
    assert last.graph is not None
    last.graph.insert_after(last, new)
    old, made = last.outputs[0], new.outputs[0]
    made.dtype = onnx_ir.DataType.FLOAT
    if shaped:
        made.shape = old.shape
    if old.is_graph_output():
        made.name, old.name = old.name, None
    old.replace_all_uses_with(made, replace_graph_outputs=True)


def is_constant(value: onnx_ir.Value | None) -> bool:
    """Whether a value is known."""
    return value is not None and value.const_value is not None


def equals(value: onnx_ir.Value | None, expected: list[float]) -> bool:
    """Whether a value is a constant of these numbers."""
    if value is None or value.const_value is None or value.const_value.size != len(expected):
        return False
    return bool(np.array_equal(values_of(value.const_value).reshape(-1), expected))
