"""Products as ptune.export writes them, of random weights, to compare own operators with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir

from ptune_kernels.find import MICROSOFT
from ptune_kernels.rounded import MIDDLE

Random = np.random.Generator


def gated_unit(random: Random, width: int) -> onnx_ir.Model:
    """A gated unit: x [rows, 2 width] -> y [rows, width]."""
    graph = _Graph(2 * width)
    halves = graph.constant("halves", np.array([width, width]))
    gate, up = graph.add("Split", graph.x, halves, outputs=2, axis=-1)
    gelu = graph.add("QuickGelu", gate, domain=MICROSOFT, alpha=1.0)
    return graph.model(graph.add("Mul", gelu, up), width)


class _Graph:
    """A graph x [rows, inputs] -> y [rows, outputs] as it grows."""

    def __init__(self, inputs: int) -> None:
        self.x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["rows", inputs])
        self.nodes: list[onnx_ir.Node] = []
        self.constants: list[onnx_ir.Value] = []

    def constant(self, name: str, value: Any) -> onnx_ir.Value:
        self.constants.append(onnx_ir.val(name, const_value=onnx_ir.tensor(np.asarray(value), name=name)))
        return self.constants[-1]

    def add(
        self, kind: str, *values: onnx_ir.Value, domain: str = "", outputs: int = 1, **attributes: Any
    ) -> Any:
        self.nodes.append(onnx_ir.node(kind, values, attributes, domain=domain, num_outputs=outputs))
        return self.nodes[-1].outputs if outputs > 1 else self.nodes[-1].outputs[0]

    def model(self, y: onnx_ir.Value, outputs: int) -> onnx_ir.Model:
        y.name, y.dtype, y.shape = "y", onnx_ir.DataType.FLOAT, onnx_ir.Shape(["rows", outputs])
        imports = {"": 20, MICROSOFT: 1}
        graph = onnx_ir.Graph(
            [self.x], [y], nodes=self.nodes, initializers=self.constants, opset_imports=imports
        )
        return onnx_ir.Model(graph, ir_version=10)


def rounded_product(random: Random, inputs: int, outputs: int) -> onnx_ir.Model:
    """A product of the int8 profile."""
    graph = _Graph(inputs)
    add, x = graph.add, graph.x
    largest = np.sqrt(np.float32(inputs))
    fine = np.float32(largest / np.float32(2**16 - 1 - MIDDLE))
    weight = random.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    constants = {
        "ones": np.ones(inputs, np.float32), "fine": fine, "middle": np.uint16(MIDDLE), "in_steps": np.float32(1 / 256),
        "nought": np.uint16(0), "weight": weight, "step": np.float32(fine * 256),
        "scale": random.uniform(1e-3, 1e-2, outputs).astype(np.float32), "zero": np.uint8(128),
        "halves": np.array([2, -1]), "shares": np.array([[1, 1 / 256]], np.float32), "last": np.array([-1]),
    }  # fmt: skip
    named = {name: graph.constant(name, value) for name, value in constants.items()}
    norm: dict[str, Any] = {"axis": -1, "epsilon": 1e-12, "stash_type": 1}
    unit, inverse = add("SimplifiedLayerNormalization", x, named["ones"], outputs=2, **norm)
    both = add("QuantizeLinear", unit, named["fine"], named["middle"], domain=MICROSOFT)
    steps = add("DequantizeLinear", both, named["in_steps"], named["nought"], domain=MICROSOFT)
    byte = onnx_ir.DataType.UINT8.value
    parts = add("Concat", add("Cast", steps, to=byte), add("Cast", both, to=byte), axis=0)
    integer = [parts, named["weight"], named["step"], named["scale"], named["zero"]]
    halves = add("Reshape", add("MatMulIntegerToFloat", *integer, domain=MICROSOFT), named["halves"])
    shape = add("Concat", add("Shape", x, start=0, end=-1), named["last"], axis=0)
    y = add("Div", add("Reshape", add("MatMul", named["shares"], halves), shape), inverse)
    return graph.model(y, outputs)


def block_product(
    random: Random, inputs: int, outputs: int, *, bits: int = 4, sums: bool = True, twice: bool = True
) -> onnx_ir.Model:
    """A product of the int4 profile. sums: the weight has offsets; twice: the error of x goes through it, too."""
    graph = _Graph(inputs)
    blocks = -(-inputs // 32)
    columns = blocks + -blocks % 32

    def product(x: onnx_ir.Value, name: str, q: Any, scale: Any, zero: Any) -> Any:
        given = [graph.constant(f"{name}.q", q), graph.constant(f"{name}.scale", scale)]
        if zero is not None:
            given.append(graph.constant(f"{name}.zero", zero))
        width = inputs if q.shape[1] == blocks else inputs + 2 * columns
        attributes = {"K": width, "N": len(q), "bits": bits, "block_size": 32, "accuracy_level": 4}
        return graph.add("MatMulNBits", x, *given, domain=MICROSOFT, **attributes)

    def with_ones(x: onnx_ir.Value, name: str, q: Any) -> Any:
        scale = np.ones(q.shape[:2], np.float32)
        return product(
            x, name, q[..., ::2] + 16 * q[..., 1::2], scale, np.zeros((len(q), (blocks + 1) // 2), np.uint8)
        )

    x = graph.x
    if twice:
        each = np.zeros((inputs, blocks, 32), np.uint8)
        each.reshape(inputs, -1)[np.arange(inputs), np.arange(inputs)] = 1
        x = graph.add("Concat", x, graph.add("Sub", x, with_ones(x, "identity", each)), axis=0)
    if sums:
        of_blocks = np.zeros((columns, blocks, 32), np.uint8)
        of_blocks[np.arange(blocks), np.arange(blocks)] = 1
        total = with_ones(x, "sums", of_blocks)
        x = graph.add("Concat", total, total, x, axis=-1)
    wide = blocks + (2 * columns // 32 if sums else 0)
    q = random.integers(0, 256, (outputs, wide, 4 * bits)).astype(np.uint8)
    scale = random.uniform(1e-3, 1e-2, (outputs, wide)).astype(np.float32)
    scale[:, wide // 2 :] = scale[:, wide // 2 :].astype(np.float16)
    zero = random.integers(0, 256, (outputs, (wide + 1) // 2)).astype(np.uint8) if bits == 4 else None
    y = product(x, "weight", q, scale, zero)
    if twice:
        y = graph.add("Add", *graph.add("Split", y, outputs=2, axis=0, num_outputs=2))
    return graph.model(y, outputs)
