"""Compares the operator with the operators of onnxruntime that it replaces, on this machine, bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime

from ptune_kernels import LIBRARY
from ptune_kernels.rewrite import MICROSOFT, MIDDLE, rewritten

SIZES = ((64, 16), (100, 33), (1536, 56))  # inputs and outputs
ROWS = (1, 2, 3, 4, 7, 130)
THREADS = 2


def differs() -> str | None:
    """What differs, in words; None where every bit is the same."""
    for inputs, outputs in SIZES:
        random = np.random.default_rng(inputs)
        model = plain_product(random, inputs, outputs)
        written = onnx_ir.to_proto(model).SerializeToString()
        graph, count = rewritten(model)
        if count != 1:
            return "its own product is not recognised"
        plain, own = session(written), session(graph)
        for x in rows_of(random, inputs):
            expected, found = plain.run(None, {"x": x})[0], own.run(None, {"x": x})[0]
            if not np.array_equal(expected.view(np.uint32), found.view(np.uint32)):
                return f"{len(x)} rows of {inputs} numbers give other bits than the plain graph"
    return None


def session(graph: bytes) -> Any:
    """Opens a graph with the operators."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    options.register_custom_ops_library(str(LIBRARY))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def rows_of(random: np.random.Generator, inputs: int) -> Iterator[np.ndarray[Any, Any]]:
    """Rows of ordinary numbers, with a large one, a small one, zeros."""
    for count in ROWS:
        x = random.standard_normal((count, inputs)).astype(np.float32)
        x[0, 0], x[-1, 1], x[:, 2] = 300, 1e-30, 0
        yield x


def plain_product(random: np.random.Generator, inputs: int, outputs: int) -> onnx_ir.Model:
    """A product as ptune.export.int8 writes it: x [rows, inputs] -> y [rows, outputs]."""
    largest = np.sqrt(np.float32(inputs))
    fine = np.float32(largest / np.float32(2**16 - 1 - MIDDLE))
    weight = random.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    scale = random.uniform(1e-3, 1e-2, outputs).astype(np.float32)
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["rows", inputs])
    nodes: list[onnx_ir.Node] = []

    def add(kind: str, *values: onnx_ir.Value, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        nodes.append(onnx_ir.node(kind, values, attributes, domain=domain, num_outputs=outputs))
        return nodes[-1].outputs if outputs > 1 else nodes[-1].outputs[0]

    constants = {
        "ones": np.ones(inputs, np.float32), "fine": fine, "middle": np.uint16(MIDDLE), "in_steps": np.float32(1 / 256),
        "nought": np.uint16(0), "weight": weight, "step": np.float32(fine * 256), "scale": scale, "zero": np.uint8(128),
        "halves": np.array([2, -1]), "shares": np.array([[1, 1 / 256]], np.float32), "last": np.array([-1]),
    }  # fmt: skip
    named = {
        name: onnx_ir.val(name, const_value=onnx_ir.tensor(np.asarray(value), name=name))
        for name, value in constants.items()
    }
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
    y.name, y.dtype, y.shape = "y", onnx_ir.DataType.FLOAT, onnx_ir.Shape(["rows", outputs])
    imports = {"": 20, MICROSOFT: 1}
    graph = onnx_ir.Graph([x], [y], nodes=nodes, initializers=[*named.values()], opset_imports=imports)
    return onnx_ir.Model(graph, ir_version=10)
