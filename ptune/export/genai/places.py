"""The constants of a graph's LoRA become inputs, to which onnxruntime adds the active adapter's factors.

An input's default has rank 0, so a graph without an adapter computes the base. Every layer's rank is a dimension of its own: of
two dimensions of one name onnxruntime takes the sizes for equal, and an adapter that leaves layers out would not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, TensorProto, helper

from ptune.formats.onnx_adapter import factor_of

Places = dict[str, tuple[int, int]]
"""transformers' name of a linear layer → its inputs and outputs."""


def open_places(path: Path) -> Places:
    """Rewrites a graph of the builder's; its weights beside it stay as they are. Returns what adapters may change."""
    model = onnx.load(path, load_external_data=False)
    places = places_of(model.graph)
    for tensor in [*_factors(model.graph)]:
        layer, side = factor_of(tensor.name) or ("", "A")
        width = places[layer][side == "B"]
        rank: str = f"{layer}.rank"
        shape, empty = ([width, rank], [width, 0]) if side == "A" else ([rank, width], [0, width])
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
        default = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=empty, raw_data=b"")
        tensor.CopyFrom(default)
    _forget_ranks(model.graph)
    onnx.save(model, path)
    return places


def places_of(graph: GraphProto) -> Places:
    """The layers that have both factors in a graph of the builder's."""
    sides: dict[str, dict[str, int]] = {}
    for tensor in _factors(graph):
        layer, side = factor_of(tensor.name) or ("", "A")
        sides.setdefault(layer, {})[side] = tensor.dims[0 if side == "A" else 1]
    return {layer: (two["A"], two["B"]) for layer, two in sides.items()}


def _factors(graph: GraphProto) -> Iterator[TensorProto]:
    return (tensor for tensor in graph.initializer if factor_of(tensor.name) is not None)


def _forget_ranks(graph: GraphProto) -> None:
    """Shapes that were noted with the builder's rank 1 in them."""
    kept = [value for value in graph.value_info if "lora_A" not in value.name and "lora_B" not in value.name]
    del graph.value_info[:]
    graph.value_info.extend(kept)
