"""A decoder's graph whose attention, keys and values are in half precision, all else as it was: rewritten in memory for a device.

CUDA's GroupQueryAttention exists in 16 bits only (onnxruntime 1.31 and 1.32), and a node without a kernel would be computed on the
CPU, with all keys and values carried there and back. So what attention reads is rounded as it comes, and its answer is widened
again. The bundle's graph stays as it was proved; how far off the rounding is, an engine measures as it opens (golden vectors).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

ATTENTION = "GroupQueryAttention"
PAST, PRESENT = (3, 4), (1, 2)  # keys, values: places among attention's inputs and outputs
READ = (0, 1, 2, 7, 8, 10, 11)  # query, key, value; tables of angles; a bias; sinks


def with_half_attention(path: Path) -> bytes:
    """The graph at `path`, rewritten; its weights stay in their file."""
    import onnx_ir  # here alone: a server on the CPU needs none of it

    model = onnx_ir.load(path)
    rounded: dict[onnx_ir.Value, onnx_ir.Value] = {}  # a table of angles is the same in all layers
    for node in [*model.graph]:
        if node.op_type == ATTENTION:
            _halve(model.graph, node, rounded)
    return written(model)


def written(model: onnx_ir.Model) -> bytes:
    """A graph as onnxruntime reads it from memory."""
    import onnx_ir

    content: bytes = onnx_ir.to_proto(model).SerializeToString()
    return content


def _halve(graph: onnx_ir.Graph, node: onnx_ir.Node, rounded: dict[onnx_ir.Value, onnx_ir.Value]) -> None:
    """Rounds what one layer's attention reads, and widens what it gives."""
    from onnx_ir import DataType

    for place in READ:
        value = node.inputs[place] if place < len(node.inputs) else None
        if value is None:
            continue
        if value not in rounded:
            rounded[value] = _cast(value, DataType.FLOAT16)
            graph.insert_before(node, rounded[value].producer())
        node.replace_input_with(place, rounded[value])
    for past in (node.inputs[place] for place in PAST):
        assert past is not None
        past.dtype = DataType.FLOAT16
    for present in (node.outputs[place] for place in PRESENT):
        present.dtype = DataType.FLOAT16
    answer = node.outputs[0]
    readers = [*answer.uses()]
    answer.dtype = DataType.FLOAT16
    widened = _cast(answer, DataType.FLOAT)
    graph.insert_after(node, widened.producer())
    for reader, place in readers:
        reader.replace_input_with(place, widened)


def _cast(value: onnx_ir.Value, to: onnx_ir.DataType) -> onnx_ir.Value:
    import onnx_ir

    node = onnx_ir.node("Cast", [value], attributes={"to": to})
    node.outputs[0].dtype = to
    return node.outputs[0]
