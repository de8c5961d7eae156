"""Gains: what adapters scale, turn and shift in a decoder's layers, beside what they add (`ptune.formats.signature`).

With y = x W + b, and halves(y) the same with the halves of each group of outputs exchanged,

    x becomes x + lora_gained * (x * inner)
    y becomes y + lora_gained * (y * gain + halves(y) * turn + shift)

Whoever has no gains adds zeros, so its numbers stay the same to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import onnx_ir
import onnx_ir.passes.common as passes
import torch
from torch import Tensor

from ptune.export.rewrite import made_by, other_input, replace
from ptune.formats.signature import LORA_GAINED, Ends


def gained_input(x: Tensor, name: str, gains: Mapping[str, Tensor], gained: Tensor) -> Tensor:
    """What a socket's layer reads; x itself where it has no such input."""
    inner = gains.get(f"{name}.inner")
    if inner is None:
        return x
    flat = x if x.dim() == gained.dim() else x.reshape(*gained.shape[:2], -1)
    return _plus(flat, _emit("Mul", flat, inner), gained).reshape(x.shape)


def gained_output(
    y: Tensor, name: str, gains: Mapping[str, Tensor], gained: Tensor, order: Tensor | None
) -> Tensor:
    """What a socket's layer gives. order [out]: the outputs with the halves of each group exchanged, where there are turns."""
    flat = y if y.dim() == gained.dim() else y.reshape(*gained.shape[:2], -1)
    moved = _emit("Mul", flat, gains[f"{name}.gain"])
    if (turn := gains.get(f"{name}.turn")) is not None:
        assert order is not None
        halves = torch.onnx.ops.symbolic(
            "Gather", [flat, order], {"axis": 2}, dtype=y.dtype, shape=flat.shape
        )
        moved = _emit("Add", moved, _emit("Mul", halves, turn))
    if (shift := gains.get(f"{name}.shift")) is not None:
        moved = _emit("Add", moved, shift)
    return _plus(flat, moved, gained).reshape(y.shape)


def exchanged(outputs: int, group: int) -> Tensor:
    """Numbers of the outputs, with the halves of each group exchanged; as they are where groups do not fit."""
    order = torch.arange(outputs)
    return order if outputs % group else order.view(-1, 2, group // 2).flip(1).reshape(-1)


def _plus(whole: Tensor, moved: Tensor, gained: Tensor) -> Tensor:
    return _emit("Add", whole, _emit("Mul", moved, gained))


def _emit(kind: str, left: Tensor, right: Tensor) -> Tensor:
    """Emitted verbatim, since G is 1 or groups at run time."""
    return torch.onnx.ops.symbolic(kind, [left, right], {}, dtype=left.dtype, shape=left.shape)


def keep_own_inputs(model: onnx_ir.Model, ends: Ends) -> Ends:
    """Takes gains of inputs that several layers read out of a traced graph, so that these layers may become one product.

    Returns `ends` with those that are left.
    """
    readers: dict[onnx_ir.Value | None, list[tuple[str, onnx_ir.Node]]] = defaultdict(list)
    for node in model.graph:
        if (found := _inner_of(node)) is not None:
            whole = node.inputs[0]
            shaped = made_by(whole, "Reshape")
            readers[whole if shaped is None else shaped.inputs[0]].append((found, node))
    shared = {name: node for several in readers.values() if len(several) > 1 for name, node in several}
    for node in shared.values():
        assert node.inputs[0] is not None
        replace(node, node.inputs[0])
    passes.RemoveUnusedNodesPass()(model)
    for value in [
        value for value in model.graph.inputs if value.name in {f"{name}.inner" for name in shared}
    ]:
        model.graph.inputs.remove(value)
    return ends.model_copy(update={"inner": tuple(name for name in ends.inner if name not in shared)})


def _inner_of(node: onnx_ir.Node) -> str | None:
    """The socket whose input `node` scales."""
    product = made_by(gains_of(node), "Mul")
    names = [] if product is None else [str(value.name) for value in product.inputs if value is not None]
    return next((name.removesuffix(".inner") for name in names if name.endswith(".inner")), None)


def gains_of(node: onnx_ir.Node) -> onnx_ir.Value | None:
    """What adapters' gains add here, before it is chosen by token; None where `node` does not add such a thing."""
    masked = made_by(node.inputs[1], "Mul") if node.op_type == "Add" else None
    chosen = None if masked is None else next((one for one in masked.inputs if _is_choice(one)), None)
    return None if masked is None or chosen is None else other_input(masked, chosen)


def adds_gains(value: onnx_ir.Value | None) -> bool:
    """Whether a value is what gains add to one layer, or to several side by side."""
    if (joined := made_by(value, "Concat")) is not None:
        return all(map(adds_gains, joined.inputs))
    masked = made_by(value, "Mul")
    return masked is not None and any(map(_is_choice, masked.inputs))


def _is_choice(value: onnx_ir.Value | None) -> bool:
    return value is not None and value.name == LORA_GAINED
