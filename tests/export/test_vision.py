"""Image models as graphs: body with sockets, then head, against torch and peft."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from peft import PeftModel
from support import tiny_images
from torch import nn

from ptune.backbone.image_model import LoadedImageModel, load_image_model
from ptune.config.recipe import Backbone
from ptune.export.decoder.graph_variants import write_lighter
from ptune.export.decoder.trace import Traced
from ptune.export.vision.head import save_image_head
from ptune.export.vision.trace import hidden_of, trace_vision
from ptune.export.weights import save
from ptune.formats.bundle import BARE
from ptune.formats.signature import Socket
from ptune.methods.lora import Lora

FAMILIES = (*tiny_images.FAMILIES, "timm")
LIMIT = 1e-4
SIZE = (tiny_images.SIZE, tiny_images.SIZE)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(family, loaded, peft model with factors that matter, traced body, folder with both graphs)"""
    folder = tmp_path_factory.mktemp(request.param)
    spec = Backbone(model=str(tiny_images.build(folder / "model", request.param)))
    loaded = load_image_model(spec, tiny_images.LABELS)
    traced = trace_vision(loaded.model, SIZE)
    save(traced, folder / "model.onnx")
    torch.manual_seed(0)
    adapted = Lora(r=4, alpha=8).apply(loaded.model, head=loaded.head).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, 0, 0.1)
    save_image_head(adapted.get_base_model(), SIZE, folder / "head.onnx")
    return request.param, loaded, adapted, traced, folder


def shapes(socket: Socket, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if socket.kernel is None:
        return (socket.in_features, rank), (rank, socket.out_features)
    return (rank, socket.in_features, *socket.kernel), (socket.out_features, rank, 1, 1)


def factors(adapted: PeftModel, traced: Traced, rank: int) -> dict[str, np.ndarray]:
    """The adapter's own factors by their names in peft, widened with zeros to `rank`; of rank 0 none."""
    state, found = adapted.state_dict(), dict[str, np.ndarray]()
    prefix = f"base_model.model.{traced.signature.prefix}"  # type: ignore[union-attr]
    for socket in traced.signature.sockets:
        a, b = (np.zeros(shape, np.float32) for shape in shapes(socket, rank))
        if rank:
            own = [state[f"{prefix}{socket.name}.lora_{one}.default.weight"].numpy() for one in "AB"]
            own = own if socket.kernel else [factor.T for factor in own]
            a[tuple(slice(size) for size in own[0].shape)] = own[0]
            b[tuple(slice(size) for size in own[1].shape)] = own[1] * 2.0  # alpha / r
        found |= {f"{socket.name}.A": a, f"{socket.name}.B": b}
    return found


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def test_body_and_head_compute_what_peft_does_row_by_row(exported: Any) -> None:
    _, _, adapted, traced, folder = exported
    body, head = session(folder / "model.onnx"), session(folder / "head.onnx")
    inputs, choice = pixels(5), np.zeros((5, 6), np.float32)
    choice[:3, :4] = 1  # the first three rows use the adapter, whose rank is 4 of 6
    feeds = {"pixel_values": inputs.numpy(), "lora_mask": choice, **factors(adapted, traced, 6)}
    hidden = body.run(["hidden"], feeds)[0]
    logits = head.run(["logits"], {"hidden": hidden})[0]
    expected = adapted(pixel_values=inputs).logits.numpy()
    base = hidden_of(adapted.get_base_model().base_model, inputs).numpy()
    with adapted.disable_adapter():
        plain = hidden_of(adapted.get_base_model().base_model, inputs).numpy()
    assert np.abs(logits[:3] - expected[:3]).max() < LIMIT
    assert np.abs(hidden[3:] - plain[3:]).max() < LIMIT
    assert np.abs(base - plain).max() > 100 * LIMIT


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_rank_of_0_is_the_bare_base(exported: Any, count: int) -> None:
    _, _, adapted, traced, folder = exported
    inputs = pixels(count)
    feeds = {"pixel_values": inputs.numpy(), "lora_mask": np.zeros((count, 0), np.float32)}
    hidden = session(folder / "model.onnx").run(["hidden"], {**feeds, **factors(adapted, traced, 0)})[0]
    with adapted.disable_adapter():
        expected = hidden_of(adapted.get_base_model().base_model, inputs).numpy()
    assert hidden.shape == expected.shape
    assert np.abs(hidden - expected).max() < LIMIT


@torch.no_grad()
def test_the_graph_without_sockets_reads_the_same_weights(exported: Any) -> None:
    _, _, adapted, traced, folder = exported
    write_lighter(folder / "model.onnx", traced.signature)
    bare = onnx_ir.load(folder / BARE)
    assert [value.name for value in bare.graph.inputs] == ["pixel_values", "lora_mask"]
    stored = [value.const_value for value in bare.graph.initializers.values()]
    assert {tensor.location for tensor in stored if isinstance(tensor, onnx_ir.ExternalTensor)} == {
        "model.onnx.data"
    }
    assert (folder / BARE).stat().st_size < (folder / "model.onnx").stat().st_size
    inputs = pixels(3)
    feeds = {"pixel_values": inputs.numpy(), "lora_mask": np.zeros((3, 0), np.float32)}
    with adapted.disable_adapter():
        expected = hidden_of(adapted.get_base_model().base_model, inputs).numpy()
    assert np.abs(session(folder / BARE).run(["hidden"], feeds)[0] - expected).max() < LIMIT


def test_sockets_are_where_lora_is_trained(exported: Any) -> None:
    family, _, adapted, traced, _ = exported
    trained = {name.partition(".lora_A.")[0] for name, _ in adapted.named_parameters() if ".lora_A." in name}
    prefix = f"base_model.model.{traced.signature.prefix}"
    assert {f"{prefix}{socket.name}" for socket in traced.signature.sockets} == trained
    kinds = {socket.kernel is None for socket in traced.signature.sockets}
    assert (
        kinds == {"resnet": {False}, "vit": {True, False}, "convnext": {True, False}, "timm": {False}}[family]
    )


def test_no_batch_norm_is_left_and_no_weight_that_nobody_reads(exported: Any) -> None:
    graph = exported[3].graph.graph
    assert "BatchNormalization" not in Counter(node.op_type for node in graph)
    assert all(value.uses() for value in graph.initializers.values())


@torch.no_grad()
def test_a_body_without_sockets(exported: Any) -> None:
    _, _, adapted, _, folder = exported
    with adapted.disable_adapter():
        inputs = pixels(2)
        expected = hidden_of(adapted.get_base_model().base_model, inputs).numpy()
    loaded: LoadedImageModel = load_image_model(Backbone(model=str(folder / "model")), tiny_images.LABELS)
    traced = trace_vision(loaded.model, SIZE, sockets=False)
    assert traced.signature.sockets == ()
    save(traced, folder / "bare" / "model.onnx")
    bare = session(folder / "bare" / "model.onnx")
    feeds = {"pixel_values": inputs.numpy(), "lora_mask": np.zeros((2, 0), np.float32)}
    assert {one.name for one in bare.get_inputs()} == feeds.keys()
    assert np.abs(bare.run(["hidden"], feeds)[0] - expected).max() < LIMIT
