"""The int8 graph computes what torch computes with the same rounding written down plainly; rows stay by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.encoder_bundles import TinyEncoder, plain, tiny
from torch import nn

from ptune.errors import BackboneError
from ptune.export.encoder.int8 import write_int8
from ptune.export.rounding import column_scales, rounded_columns
from ptune.tasks.encoder.facts import Facts
from ptune.verify.encoder.graph import PlainEncoder
from ptune.verify.reference import plugged, random_factors


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    encoder = tiny().bundle
    assert write_int8(encoder.graph_path(), path, encoder.encoder) == len(encoder.encoder.sockets)
    return path


def rounded(layer: nn.Linear, inputs: tuple[torch.Tensor], _: torch.Tensor) -> torch.Tensor:
    """A linear layer whose weight has a step for each output and whose input one for each token."""
    weight_step = layer.weight.abs().amax(1, keepdim=True) / 127
    step = inputs[0].abs().amax(-1, keepdim=True) / 127
    x, weight = (inputs[0] / step).round(), (layer.weight / weight_step).round()
    return (x @ weight.T) * weight_step.T * step + layer.bias


def expected(encoder: TinyEncoder, factors: Mapping[str, Any]) -> list[np.ndarray]:
    body = plain(encoder.base, Facts.open(encoder.bundle.adapter_path("mood"))).base_model
    with ExitStack() as stack, torch.no_grad():
        for socket in encoder.bundle.encoder.sockets:
            hook = body.get_submodule(socket.name).register_forward_hook(rounded)
            stack.callback(hook.remove)
        stack.enter_context(plugged(body, factors))
        given = [{k: torch.from_numpy(v)[None] for k, v in one.items()} for one in encoder.inputs]
        return [body(**one).last_hidden_state[0].numpy() for one in given]


@pytest.mark.parametrize("rank", [0, 3])
def test_it_is_what_torch_rounds(rank: int, graph: Path) -> None:
    encoder = tiny()
    factors = random_factors(encoder.bundle.encoder, rank, seed=0, scale=0.3) if rank else {}
    found = PlainEncoder(graph, encoder.bundle.encoder, 1).hidden(encoder.inputs, factors)
    floats = PlainEncoder(encoder.bundle.graph_path(), encoder.bundle.encoder, 1)
    exact = floats.hidden(encoder.inputs, factors)
    off = [np.abs(a - b).mean() for a, b in zip(found, expected(encoder, factors), strict=True)]
    lost = [np.abs(a - b).mean() for a, b in zip(found, exact, strict=True)]
    assert np.mean(off) < np.mean(lost) / 5  # a value that falls on the edge of a step goes either way
    assert 1e-4 < np.mean(lost) < 0.05


def test_a_neighbour_changes_nothing(graph: Path) -> None:
    """Not even the bits, however large the neighbour's values are."""
    signature = tiny().bundle.encoder
    session = PlainEncoder(graph, signature, 1).session
    ids = np.array([[2, 7, 8, 9, 3], [2, 11, 12, 13, 3]])
    feeds = {"token_type_ids": np.zeros_like(ids), "lengths": np.array([5, 5])}
    factors = random_factors(signature, 2, seed=0, scale=30.0)
    for name, (a, b) in factors.items():
        feeds |= {f"{name}.A": a, f"{name}.B": b}
    quiet, loud = (np.array([[0, 0], [loud, loud]], np.float32) for loud in (0, 1))
    first, second = (session.run(None, {**feeds, "input_ids": ids, "lora_mask": c})[0] for c in (quiet, loud))
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1] - second[1]).max() > 0.1


def test_the_same_graph_gives_the_same_bytes(graph: Path, tmp_path: Path) -> None:
    write_int8(tiny().bundle.graph_path(), tmp_path / "model.onnx", tiny().bundle.encoder)
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / name).read_bytes() == (graph.parent / name).read_bytes()


def test_what_runs(graph: Path, tmp_path: Path) -> None:
    """What onnxruntime makes of it: query, key and value share the rounding of their input."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "model.onnx"), 3
    onnxruntime.InferenceSession(graph, options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node]
    sockets = len(tiny().bundle.encoder.sockets)
    assert kinds.count("MatMulIntegerToFloat") == kinds.count("Gemm") == sockets  # Gemm: an adapter's B
    assert kinds.count("QuantizeLinear") == 2 * 4
    assert kinds.count("MultiHeadAttention") == 2


def test_a_graph_without_sockets_is_refused(tmp_path: Path) -> None:
    none = tiny().bundle.encoder.model_copy(update={"sockets": ()})
    with pytest.raises(BackboneError, match="nothing to make int8"):
        write_int8(tiny().bundle.graph_path(), tmp_path / "model.onnx", none)


def test_rounding() -> None:
    weight = np.array([[1.0, 0.0, -3.0], [-0.5, 0.0, 1.0]], np.float32)
    scale = column_scales(weight)
    found = rounded_columns(weight, scale)
    np.testing.assert_array_equal(found, [[127, 0, -127], [-64, 0, 42]])
    np.testing.assert_allclose(found * scale, weight, atol=0.012)
