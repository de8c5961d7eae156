"""A decoder's graph for steps of few tokens per sequence: heads that share keys become queries of one head.

onnxruntime packs the keys of each head before it multiplies them with the queries; for one or two tokens, packing is most of
the work. With H heads on KV keys, H / KV heads read the same keys. Here they become H / KV queries of one of KV heads: the same
products, packed once. Each query comes with its token's key and value, which the cache needs once; a mask hides the copies
from later queries.

The grouped graph shares the weights file of its source.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir

from ptune.export.fuse.attention import ATTENTION
from ptune.export.fuse.cleanup import shapes, sweep
from ptune.export.rewrite import MICROSOFT, before, constant, made_by, replace, width_of

MASK, SINK = 10, 11  # indices of attention's inputs `attention_bias` and `head_sink`


def write_grouped(source: Path, target: Path) -> Path | None:
    """Writes the grouped graph of the one at `source`, on the same weights. Returns its path.

    None if it would be wrong or gain nothing: for layers with a sliding window or capped scores, which depend on a query's
    place; with attention sinks, which belong to heads; with as many keys as queries; with different numbers of heads.
    """
    model = onnx_ir.load(source)
    graph = model.graph
    layers = [node for node in graph if node.op_type == ATTENTION and node.domain == MICROSOFT]
    heads = {
        (node.attributes["num_heads"].as_int(), node.attributes["kv_num_heads"].as_int()) for node in layers
    }
    if len(heads) != 1 or any({"local_window_size", "softcap"} & node.attributes.keys() for node in layers):
        return None
    if any(node.inputs[SINK] is not None for node in layers):
        return None
    ((queries, keys),) = heads
    if queries == keys or any(_scattered(node) is None for node in layers):
        return None
    index = onnx_ir.val("heads", onnx_ir.DataType.INT64, ["batch", "seq", 3 * keys])
    mask = onnx_ir.val("mask", onnx_ir.DataType.FLOAT, ["batch", 1, "seq", "total"])
    graph.inputs.extend([index, mask])
    unpad = next(value for value in graph.inputs if value.name == "unpad_indices")
    unpad.shape = onnx_ir.Shape(["cells", queries])
    for node in layers:
        _group(graph, node, index, mask, queries, keys)
    shapes(graph)
    sweep(model)
    onnx_ir.save(model, target)
    return target


def _group(
    graph: onnx_ir.Graph,
    node: onnx_ir.Node,
    index: onnx_ir.Value,
    mask: onnx_ir.Value,
    queries: int,
    keys: int,
) -> None:
    """Groups one layer's attention."""
    gathered = made_by(node.inputs[0], "Gather")
    scattered = _scattered(node)
    assert gathered is not None
    assert scattered is not None
    width = width_of(gathered.inputs[0])
    assert width is not None
    dim = width // (queries + 2 * keys)
    by_head = constant(graph, f"grouped.by_head.{dim}", np.array([-1, dim]))
    by_key = constant(graph, f"grouped.by_key.{keys * dim}", np.array([0, 0, 3 * keys * dim]))
    whole = constant(graph, f"grouped.whole.{queries * dim}", np.array([0, queries * dim]))
    (rows,) = before(node, "Reshape", [gathered.inputs[0], by_head])
    (chosen,) = before(node, "Gather", [rows, index])
    (grouped,) = before(node, "Reshape", [chosen, by_key])
    node.replace_input_with(0, grouped)
    node.resize_inputs(max(len(node.inputs), MASK + 1))
    node.replace_input_with(MASK, mask)
    node.attributes["num_heads"] = onnx_ir.AttrInt64("num_heads", keys)
    (rows,) = before(scattered, "Reshape", [node.outputs[0], by_head])
    (chosen,) = before(scattered, "Gather", [rows, scattered.inputs[1]])
    (flat,) = before(scattered, "Reshape", [chosen, whole])
    replace(scattered, flat)


def _scattered(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """The node that gathers flat tokens from attention's padded output; None if it is not found."""
    if node.inputs[1] is not None or made_by(node.inputs[0], "Gather") is None:
        return None
    if len(readers := [*node.outputs[0].consumers()]) != 1:
        return None
    (shaped,) = readers
    if shaped.op_type != "Reshape" or len(readers := [*shaped.outputs[0].consumers()]) != 1:
        return None
    (scattered,) = readers
    unpad = scattered.inputs[1] if scattered.op_type == "Gather" else None
    return scattered if unpad is not None and unpad.name == "unpad_indices" else None
