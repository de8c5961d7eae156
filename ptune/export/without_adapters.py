"""A graph without its sockets, for steps without adapters.

An empty adapter costs four operators per linear layer, a quarter of all operators in a small decoder's step. Beside a convolution
it costs more: onnxruntime then merges neither the sum nor the activation behind it, and changes the layout of its output twice.
The bare graph shares the weights file of its source.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx_ir
import onnx_ir.passes.common as passes

from ptune.export.decoder.gains import adds_gains
from ptune.export.fuse.cleanup import shapes
from ptune.export.rewrite import made_by, other_input, replace
from ptune.formats.signature import LORA_GAINED, LORA_ONES, EncoderSignature, Ends, Signature


def write_bare(source: Path, target: Path, signature: Signature | EncoderSignature) -> Path | None:
    """Writes the bare graph of the one at `source`, beside it. Returns its path; None if a socket cannot be removed."""
    model = onnx_ir.load(source)
    graph = model.graph
    ups = {f"{socket.name}.B" for socket in signature.sockets}
    factors, ends = {*signature.factor_names()}, None
    if isinstance(signature, Signature):
        factors, ends = {*factors, *signature.end_inputs()}, signature.ends
    for node in list(graph):
        base = _base(node, ups) if node.op_type == "Add" else _end(node, ends)
        if base is not None:
            replace(node, base)
    return _written(model, target, factors)


def write_without_gains(source: Path, target: Path, signature: Signature) -> Path | None:
    """The same of the graph that has sockets but no gains, for steps whose adapters have none."""
    model = onnx_ir.load(source)
    for node in list(model.graph):
        if node.op_type == "Add" and adds_gains(node.inputs[1]):
            assert node.inputs[0] is not None
            replace(node, node.inputs[0])
    return _written(model, target, {*signature.gain_sizes(), LORA_GAINED})


def _written(model: onnx_ir.Model, target: Path, gone: Collection[str]) -> Path | None:
    """Writes a graph whose inputs `gone` nothing should read any more; None if something does."""
    graph = model.graph
    shapes(graph)
    passes.RemoveUnusedNodesPass()(model)
    _read_tokens_elsewhere(graph, gone)
    inputs = [value for value in graph.inputs if value.name in gone]
    if any(value.uses() for value in inputs):
        return None
    for value in inputs:
        graph.inputs.remove(value)
    onnx_ir.save(model, target)
    return target


def _read_tokens_elsewhere(graph: onnx_ir.Graph, gone: Collection[str]) -> None:
    """Takes the numbers of groups and tokens, which the exporter reads off any input that has them, from one that stays."""
    stays = next((value for value in graph.inputs if value.name == "input_ids"), None)
    for node in graph:
        of = node.inputs[0] if node.op_type == "Shape" else None
        if (
            of is None or stays is None or node.attributes.get_int("end", 3) > 2
        ):  # axes beyond groups and tokens
            continue
        if of.name in {LORA_ONES, LORA_GAINED} & {*gone}:
            node.replace_input_with(0, stays)


def _base(node: onnx_ir.Node, ups: set[str]) -> onnx_ir.Value | None:
    """A layer's own output, if `node` adds an adapter's update to it; or its input or output, if `node` scales that."""
    if adds_gains(node.inputs[1]):
        return node.inputs[0]
    return next((other_input(node, part) for part in node.inputs if _is_update(part, ups)), None)


def _end(node: onnx_ir.Node, ends: Ends | None) -> onnx_ir.Value | None:
    """The base's own logits or embeddings, if `node` adds what adapters bring at an end."""
    if ends is None:
        return None
    if node.op_type == "Concat" and ends.own_columns is not None:
        logits, *own = node.inputs
        return logits if len(own) == 1 and _is_update(own[0], {ends.own_columns}) else None
    if node.op_type == "Where" and node.inputs[0] is not None and node.inputs[0].name in ends.step_inputs:
        total = made_by(node.inputs[1], "Add")
        return None if total is None else total.inputs[0]
    return None


def _is_update(value: onnx_ir.Value | None, ups: set[str]) -> bool:
    """Whether a value is an adapter's update, or several side by side."""
    if (joined := made_by(value, "Concat")) is not None:
        return all(_is_update(part, ups) for part in joined.inputs)
    shaped = made_by(value, "Reshape")
    product = made_by(value if shaped is None else shaped.inputs[0], "MatMul") or made_by(value, "Conv")
    if product is None:
        return False
    factor = product.inputs[1]
    scaled = made_by(factor, "Mul")  # by a batch normalisation (`ptune.export.vision.fold_batch_norm`)
    factor = factor if scaled is None else scaled.inputs[0]
    return factor is not None and factor.name in ups
