"""Tools for rewriting a graph: find the node behind a value, insert nodes, register constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray

MICROSOFT = "com.microsoft"
_SAME_VALUES = ("Identity", "Reshape", "Unsqueeze", "Squeeze", "Cast")


def made_by(value: onnx_ir.Value | None, kind: str, domain: str = "") -> onnx_ir.Node | None:
    """The node that makes `value`, if it is of this kind."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == kind and node.domain == domain else None


def constant_of(value: onnx_ir.Value | None) -> NDArray[np.generic] | None:
    """The values of a small constant."""
    if value is None or value.const_value is None or value.const_value.size > 64:
        return None
    return value.const_value.numpy()


def integers(value: onnx_ir.Value | None) -> list[int] | None:
    """The integers of a constant, such as axes, also where the exporter still makes them by an operator."""
    if value is None:
        return None
    if value.const_value is not None:
        return [int(one) for one in value.const_value.numpy().reshape(-1)]
    producer = value.producer()
    if producer is None:
        return None
    if producer.op_type in _SAME_VALUES:
        return integers(producer.inputs[0])
    if producer.op_type != "Constant":
        return None
    (attribute,) = producer.attributes.values()
    if attribute.type == onnx_ir.AttributeType.TENSOR:
        return [int(one) for one in attribute.as_tensor().numpy().reshape(-1)]
    return [*attribute.as_ints()] if attribute.type == onnx_ir.AttributeType.INTS else [attribute.as_int()]


def is_scalar(value: onnx_ir.Value | None, expected: float) -> bool:
    """Whether a value is the constant scalar `expected`."""
    found = constant_of(value)
    return found is not None and found.size == 1 and bool(np.isclose(found.reshape(()), expected))


def other_input(node: onnx_ir.Node, value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """The other operand of a binary operator; None if `value` is neither of the two."""
    first, second = node.inputs[:2]
    return second if first is value else first if second is value else None


def width_of(value: onnx_ir.Value | None, axis: int = -1) -> int | None:
    """A fixed dimension of a value; None if it is unknown or dynamic."""
    if value is None or value.shape is None or len(value.shape) < max(axis + 1, -axis):
        return None
    found = value.shape[axis]
    return found if isinstance(found, int) else None


def rank_of(value: onnx_ir.Value | None) -> int | None:
    """The number of a value's dimensions, if known."""
    return None if value is None or value.shape is None else len(value.shape)


def constant(graph: onnx_ir.Graph, name: str, value: NDArray[np.generic] | np.generic) -> onnx_ir.Value:
    """An initializer, registered once under its name."""
    if name not in graph.initializers:
        array = np.asarray(value)
        made = onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name))
        graph.register_initializer(made)
    return graph.initializers[name]


def lazily(
    name: str,
    shape: Sequence[int],
    read: Callable[[], NDArray[np.generic]],
    kind: onnx_ir.DataType = onnx_ir.DataType.FLOAT,
) -> onnx_ir.Value:
    """A constant that is computed on every read and not kept, which limits the weights in memory."""
    tensor = onnx_ir.LazyTensor(
        lambda: onnx_ir.tensor(np.ascontiguousarray(read()), name=name),
        dtype=kind,
        shape=onnx_ir.Shape(shape),
        name=name,
        cache=False,
    )
    return onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(kind), const_value=tensor)


def before(
    node: onnx_ir.Node,
    kind: str,
    inputs: Sequence[onnx_ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    outputs: int = 1,
    like: onnx_ir.Value | None = None,
) -> tuple[onnx_ir.Value, ...]:
    """Inserts a new node before `node` and returns its outputs; the first has the shape and type of `like`."""
    new = onnx_ir.node(kind, inputs, attributes or {}, domain=domain, num_outputs=outputs)
    assert node.graph is not None
    node.graph.insert_before(node, new)
    if like is not None:
        _copy_type(new.outputs[0], like)
    return tuple(new.outputs)


def _copy_type(value: onnx_ir.Value, like: onnx_ir.Value) -> None:
    """Gives a value the shape and the type of another, which may have no type: then it is left out, not set to nothing."""
    value.shape = like.shape
    if like.dtype is not None:
        value.dtype = like.dtype


def replace(node: onnx_ir.Node, new: onnx_ir.Value) -> None:
    """Replaces the only output of `node` by `new`, and removes `node`."""
    (old,) = node.outputs
    if new.shape is None:
        _copy_type(new, old)
    if old.is_graph_output():
        new.name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
