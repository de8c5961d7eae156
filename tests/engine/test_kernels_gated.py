"""The package ptune-kernels between products: gated units give the same bits as the plain graph's operators."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import onnx_ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.engine.kernels import PACKAGE

pytestmark = pytest.mark.skipif(
    find_spec(PACKAGE) is None,
    reason="ptune-kernels is not built: scripts/kernels does it where a C++ compiler and onnxruntime's header are",
)
FLOATS = onnx_ir.DataType.FLOAT


def unit(width: int, alpha: float, *, gate: int = 0, parts: tuple[int, int] | None = None) -> onnx_ir.Model:
    """Which part is the gate, and where the parts are divided."""
    x = onnx_ir.val("x", FLOATS, ["rows", "tokens", 2 * width])
    sizes = onnx_ir.val("sizes", const_value=onnx_ir.tensor(np.array(parts or (width, width)), name="sizes"))
    split = onnx_ir.node("Split", [x, sizes], {"axis": -1}, num_outputs=2)
    gelu = onnx_ir.node("QuickGelu", [split.outputs[gate]], {"alpha": alpha}, domain="com.microsoft")
    product = onnx_ir.node("Mul", [gelu.outputs[0], split.outputs[1 - gate]])
    y = product.outputs[0]
    y.name, y.dtype, y.shape = "y", FLOATS, onnx_ir.Shape(["rows", "tokens", width])
    imports = {"": 20, "com.microsoft": 1}
    graph = onnx_ir.Graph([x], [y], nodes=[split, gelu, product], initializers=[sizes], opset_imports=imports)
    return onnx_ir.Model(graph, ir_version=10)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.integers(1, 40), st.sampled_from([1.0, 1.702]), st.integers(0, 2**16))
def test_the_same_bits_as_the_plain_graph(width: int, rows: int, alpha: float, seed: int) -> None:
    """Any sizes, rows and kernels; numbers of any size, with infinities."""
    import ptune_kernels
    from ptune_kernels import gated
    from ptune_kernels.rewrite import written
    from ptune_kernels.session import session

    random = np.random.default_rng(seed)
    x = random.standard_normal((1, rows, 2 * width)) * 10.0 ** random.uniform(-6, 6, (1, rows, 1))
    x[0, 0, 0] = random.choice([0, 1e38, np.inf, -np.inf])
    x = x.astype(np.float32)
    model = unit(width, alpha)
    plain = session(onnx_ir.to_proto(model).SerializeToString()).run(None, {"x": x})[0]
    assert gated.rewrite(model.graph) == 1
    graph = written(model)
    for name in filter(ptune_kernels.use_kernel, ("plain", "avx2", "avx512")):
        own = session(graph).run(None, {"x": x})[0]
        there = ~np.isnan(plain)
        assert np.array_equal(np.isnan(own), ~there), name
        assert np.array_equal(own[there], plain[there]), name
    ptune_kernels.use_kernel(None)


def test_what_is_not_just_that_unit_stays() -> None:
    """The gate is the second half; the parts differ in size; a part has another reader."""
    from ptune_kernels import gated

    assert gated.rewrite(unit(8, 1.0, gate=1).graph) == 0
    assert gated.rewrite(unit(8, 1.0, parts=(1, 15)).graph) == 0
    model = unit(8, 1.0)
    up = next(node for node in model.graph if node.op_type == "Split").outputs[1]
    model.graph.append(onnx_ir.node("Neg", [up]))
    assert gated.rewrite(model.graph) == 0
