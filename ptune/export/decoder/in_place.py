"""Holds a traced graph to what lets the engine bind a state's output to the memory of its input."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir

from ptune.errors import BackboneError
from ptune.formats.signature import Signature

# Operators that may themselves read the old state and write the new one: each number is read before its own place is written.
# LinearAttention copies the old state to the new one's place before it begins, or finds it there.
SAFE = ("Where", "Add", "Sub", "Mul", "Identity", "LinearAttention")


def check_in_place(graph: onnx_ir.Graph, signature: Signature, named: str) -> None:
    """Raises: BackboneError where an operator reads a state that another one may have written already.

    onnxruntime runs operators one after another, each when its inputs are there. So whatever the writing operator depends on was run
    before it, and nothing else is certain to have been.
    """
    values = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    pairs = zip(signature.past_state_names(), signature.present_state_names(), strict=True)
    for past, present in pairs:
        writer = values[present].producer()
        before = set() if writer is None else {*_before(writer)}
        for reader, _ in values[past].uses():
            if reader not in before and not (reader is writer and reader.op_type in SAFE):
                raise BackboneError(
                    f"{named} cannot be exported: {reader.op_type} may read the state {past} after it was replaced (node {reader.name})"
                )


def _before(node: onnx_ir.Node) -> Iterator[onnx_ir.Node]:
    """Yields every operator whose results a node depends on."""
    seen, left = set[onnx_ir.Node](), [node]
    while left:
        for value in left.pop().inputs:
            made = None if value is None else value.producer()
            if made is not None and made not in seen:
                seen.add(made)
                left.append(made)
                yield made
