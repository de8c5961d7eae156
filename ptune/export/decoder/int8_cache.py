"""A decoder's graph whose keys and values are kept as int8, on the same weights.

onnxruntime's GroupQueryAttention rounds each new key and value as it writes it, and multiplies float32 queries with what it reads
back. Keys are rounded after rotary embedding. A scale belongs to one channel of one head, over all positions; it was measured on
text (ptune.publish.cache_scales), and stands in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from ptune.export.fuse.attention import ATTENTION
from ptune.export.rewrite import MICROSOFT, constant
from ptune.formats.bundle import BARE, INT8_CACHE, INT8_CACHE_BARE, INT8_CACHE_NO_GAINS, NO_GAINS

PAST, SCALES = 3, 12  # indices of attention's inputs: keys, values behind them
PRESENT = 1  # of its outputs
LARGEST = 127

Scales = Mapping[str, NDArray[np.float32]]
"""Name of a cache input -> [kv_heads, dim]."""


def write_int8_cache(path: Path, scales: Scales) -> None:
    """Writes the graphs with an int8 cache beside the one at `path`, on its weights file: with sockets, without, and without gains."""
    _write(path, path.with_name(INT8_CACHE), scales)
    for source, target in ((BARE, INT8_CACHE_BARE), (NO_GAINS, INT8_CACHE_NO_GAINS)):
        if (lighter := path.with_name(source)).is_file():
            _write(lighter, path.with_name(target), scales)


def _write(source: Path, target: Path, scales: Scales) -> None:
    model = onnx_ir.load(source)
    for node in model.graph:
        if node.op_type == ATTENTION and node.domain == MICROSOFT:
            _round(model.graph, node, scales)
    onnx_ir.save(model, target)


def _round(graph: onnx_ir.Graph, node: onnx_ir.Node, scales: Scales) -> None:
    """Makes one layer's attention write and read int8."""
    node.resize_inputs(max(len(node.inputs), SCALES + 2))
    for place, kind in enumerate(("k", "v")):
        past = node.inputs[PAST + place]
        assert past is not None
        assert past.name is not None
        for value in (past, node.outputs[PRESENT + place]):
            value.dtype = onnx_ir.DataType.INT8
        scale = constant(graph, f"{past.name}.scale", scales[past.name].reshape(-1))
        node.replace_input_with(SCALES + place, scale)
        node.attributes[f"{kind}_quant_type"] = onnx_ir.AttrString(f"{kind}_quant_type", "PER_CHANNEL")
    node.attributes["kv_cache_bit_width"] = onnx_ir.AttrInt64("kv_cache_bit_width", 8)
