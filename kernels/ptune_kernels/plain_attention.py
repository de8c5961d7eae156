"""Attention as ptune.export writes it, and steps of random tokens, to compare the own operator with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from ptune_kernels.attention import PRODUCT
from ptune_kernels.find import MICROSOFT

Array = np.ndarray[Any, Any]
KINDS = onnx_ir.DataType


@dataclass(frozen=True)
class Heads:
    """Attention of one layer. rotary: how many of a head's numbers are turned. sinks: whether each head has one."""

    queries: int
    keys: int
    dim: int
    rotary: int = 0
    int8: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    sinks: bool = False

    @property
    def numbers(self) -> int:
        """Of a token's queries, keys and values."""
        return (self.queries + 2 * self.keys) * self.dim


def model(heads: Heads) -> onnx_ir.Model:
    """Attention on flat tokens, lines [cells, numbers] -> y [cells, queries * dim], over a cache [batch, keys, positions, dim]."""
    kind = KINDS.INT8 if heads.int8 else KINDS.FLOAT
    cache: list[int | str] = ["batch", heads.keys, "positions", heads.dim]
    inputs = [onnx_ir.val("lines", KINDS.FLOAT, ["cells", heads.numbers])]
    inputs += [onnx_ir.val(name, kind, cache) for name in ("past_key", "past_value")]
    inputs += [onnx_ir.val(name, KINDS.INT32, ["batch"]) for name in ("seqlens_k", "query_seqlens")]
    inputs += [
        onnx_ir.val("capacity", KINDS.INT32, []),
        onnx_ir.val("pad_indices", KINDS.INT64, ["batch", "seq"]),
    ]
    inputs += [onnx_ir.val("unpad_indices", KINDS.INT64, ["cells"])]
    inputs += [
        onnx_ir.val(name, KINDS.FLOAT, ["lines", heads.rotary // 2])
        for name in ("cos", "sin")
        if heads.rotary
    ]
    inputs += [
        onnx_ir.val(name, KINDS.FLOAT, [heads.keys * heads.dim])
        for name in ("key_scale", "value_scale")
        if heads.int8
    ]
    inputs += [onnx_ir.val("sinks", KINDS.FLOAT, [heads.queries])] if heads.sinks else []
    given = {value.name: value for value in inputs}
    rows = onnx_ir.node("Gather", [given["lines"], given["pad_indices"]])
    names = {5: "seqlens_k", 6: "capacity", 3: "past_key", 4: "past_value", 16: "query_seqlens"}
    names |= {7: "cos", 8: "sin", 9: "pad_indices"} if heads.rotary else {}
    names |= {12: "key_scale", 13: "value_scale"} if heads.int8 else {}
    names |= {11: "sinks"} if heads.sinks else {}
    values = [rows.outputs[0], *(given.get(names.get(at, "")) for at in range(1, 17))]
    attributes = {"num_heads": heads.queries, "kv_num_heads": heads.keys, **heads.attributes}
    attributes |= {"do_rotary": 1} if heads.rotary else {}
    types = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    attributes |= types if heads.int8 else {}
    node = onnx_ir.node(PRODUCT, values, attributes, domain=MICROSOFT, num_outputs=3)
    width = heads.queries * heads.dim
    whole = onnx_ir.val("whole", const_value=onnx_ir.tensor(np.array([-1, width]), name="whole"))
    shaped = onnx_ir.node("Reshape", [node.outputs[0], whole])
    flat = onnx_ir.node("Gather", [shaped.outputs[0], given["unpad_indices"]])
    outputs = [flat.outputs[0], *node.outputs[1:]]
    shapes: list[list[int | str]] = [["cells", width], cache, cache]
    for value, name, shape in zip(outputs, ("y", "present_key", "present_value"), shapes, strict=True):
        value.name, value.shape, value.dtype = (
            name,
            onnx_ir.Shape(shape),
            KINDS.FLOAT if name == "y" else kind,
        )
    nodes, imports = [rows, node, shaped, flat], {"": 20, MICROSOFT: 1}
    graph = onnx_ir.Graph(inputs, outputs, nodes=nodes, initializers=[whole], opset_imports=imports)
    return onnx_ir.Model(graph, ir_version=10)


@dataclass(frozen=True)
class Step:
    """Random new tokens of sequences, in random cells. Keys of an int8 cache are whole steps of their scale: none lies between two."""

    heads: Heads
    sequences: Sequence[tuple[int, int]]  # tokens in the cache, new ones; of each slot
    inputs: dict[str, Array]

    @classmethod
    def of(
        cls, random: np.random.Generator, heads: Heads, sequences: Sequence[tuple[int, int]], positions: int
    ) -> Step:
        """positions: of a slot."""
        start, new = np.array(sequences).T
        batch, seq, cells = len(sequences), int(new.max()), int(new.sum()) + 1
        pad, unpad = np.zeros((batch, seq), np.int64), np.zeros(cells, np.int64)
        left = random.permutation(cells)
        for row, count in enumerate(new):
            mine, left = left[:count], left[count:]
            pad[row] = mine[0] if count else 0
            pad[row, :count], unpad[mine] = mine, row * seq + np.arange(count)
        shape = (batch, heads.keys, positions, heads.dim)
        lines = random.standard_normal((cells, heads.numbers)).astype(np.float32)
        inputs: dict[str, Array] = {"lines": lines, "pad_indices": pad, "unpad_indices": unpad}
        inputs |= {"query_seqlens": new.astype(np.int32), "capacity": np.array(positions, np.int32)}
        inputs["seqlens_k"] = np.where(new, start + new - 1, 0).astype(np.int32)
        if heads.rotary:
            angles = random.uniform(0, 6, (max(cells, positions), heads.rotary // 2)).astype(np.float32)
            inputs |= {"cos": np.cos(angles), "sin": np.sin(angles)}
        if heads.sinks:
            inputs["sinks"] = (4 * random.standard_normal(heads.queries)).astype(np.float32)
        for name, at in (("key", 0), ("value", 1)):
            if not heads.int8:
                inputs[f"past_{name}"] = random.standard_normal(shape).astype(np.float32)
                continue
            inputs[f"past_{name}"] = random.integers(-127, 128, shape).astype(np.int8)
            scale = random.uniform(0.01, 0.03, heads.keys * heads.dim).astype(np.float32)
            inputs[f"{name}_scale"] = scale
            begin = (heads.queries + at * heads.keys) * heads.dim
            lines[:, begin : begin + len(scale)] = random.integers(-130, 131, (cells, len(scale))) * scale
        return cls(heads, sequences, inputs)

    def answers(self, session: Any) -> list[Array]:
        """What a session computes: y of cells that hold a token [tokens, ...], then the keys and values of each sequence."""
        y, *caches = session.run(["y", "present_key", "present_value"], self.inputs)
        cells = [self.inputs["pad_indices"][row, :new] for row, (_, new) in enumerate(self.sequences)]
        return [y[np.concatenate(cells)], *(cache for whole in caches for cache in self._written(whole))]

    def _written(self, cache: Array) -> list[Array]:
        return [cache[row, :, : start + new] for row, (start, new) in enumerate(self.sequences) if new]
