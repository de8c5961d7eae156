"""Attention in half precision: what is rounded, and that nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto
from support.bundles import tiny_bundle
from support.lent_memory import DEVICE

from ptune.engine.half_attention import with_half_attention
from ptune.engine.onnx_graph import open_graph
from ptune.formats.bundle import Bundle

if TYPE_CHECKING:
    from support.tiny_bundle import TinyBundle


def types(values: object) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in values}  # type: ignore[attr-defined]


def test_only_attention_and_its_cache_are_in_half_precision(tiny: TinyBundle) -> None:
    path = Bundle.open(tiny.folder).graph_path("fp32")
    before = onnx.load(path).graph
    after = onnx.load_from_string(with_half_attention(path)).graph
    for one, other in ((before.input, after.input), (before.output, after.output)):
        changed = {name for name, kind in types(other).items() if kind != types(one)[name]}
        assert changed == {name for name in types(one) if name.startswith(("past_", "present_"))}
        assert {types(other)[name] for name in changed} == {TensorProto.FLOAT16}
    layers = sum(node.op_type == "GroupQueryAttention" for node in before.node)
    casts = [node for node in after.node if node.op_type == "Cast"]
    added = len(casts) - sum(node.op_type == "Cast" for node in before.node)
    assert added == 4 * layers  # query, key, value and the answer
    assert len(after.node) == len(before.node) + added


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_tables_of_angles_are_rounded_once_and_sinks_too(tmp_path: Path, family: str) -> None:
    """The fused graph of the exporter, whose attention turns queries and keys itself."""
    *_, bundle = tiny_bundle(tmp_path, family)
    graph = onnx.load_from_string(with_half_attention(bundle.graph_path("fp32"))).graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in (node for node in graph.node if node.op_type == "GroupQueryAttention"):
        for place in (0, 1, 2, 7, 8, 10, 11):
            if place < len(node.input) and node.input[place]:
                cast = makers[node.input[place]]
                assert (cast.op_type, cast.attribute[0].i) == ("Cast", TensorProto.FLOAT16)
        readers = [other for other in graph.node if node.output[0] in other.input]
        assert [reader.op_type for reader in readers] == ["Cast"]
    casts = [
        (node.op_type, *node.input)
        for node in graph.node
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16
    ]
    assert len(casts) == len({*casts})
    open_graph(bundle.graph_path("fp32"), 1, device=DEVICE)  # onnxruntime finds its types right
