"""The int8 graph of an image body computes what torch computes with the same rounding written down plainly."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import tiny_images
from torch import nn

from ptune.backbone.image_model import load_image_model
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError
from ptune.export.vision.harm import most_harmed
from ptune.export.vision.int8 import (
    layers,
    rounded_channels,
    rounded_floats,
    rounded_tensors,
    weight_name,
    write_vision_int8,
)
from ptune.export.vision.ranges import Range, narrowed, ranges
from ptune.export.vision.shift import shifts
from ptune.export.vision.trace import hidden_of, trace_vision
from ptune.export.weights import save

SIZE = (tiny_images.SIZE, tiny_images.SIZE)
FAMILIES = (*tiny_images.FAMILIES, "timm")


def pixels(count: int, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    return chance.standard_normal((count, 3, *SIZE)).astype(np.float32)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(
        ["hidden"], {"pixel_values": images, "lora_mask": np.zeros((len(images), 0), np.float32)}
    )[0]


def off(here: np.ndarray, there: np.ndarray) -> float:
    return float(np.linalg.norm(here - there) / np.linalg.norm(there))


@pytest.fixture(scope="module", params=FAMILIES)
def body(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(family, torch body, folder with model.onnx and int8/model.onnx, ranges)"""
    folder = tmp_path_factory.mktemp(request.param)
    spec = Backbone(model=str(tiny_images.build(folder / "model", request.param)))
    model = load_image_model(spec, tiny_images.LABELS).model
    save(trace_vision(model, SIZE, sockets=False), folder / "model.onnx")
    graph = onnx_ir.load(folder / "model.onnx")
    names = [str(value.name) for value in rounded_tensors(layers(graph))]
    found = ranges(folder / "model.onnx", names, pixels(8), 1)
    assert write_vision_int8(folder / "model.onnx", folder / "int8" / "model.onnx", found, {}) == len(
        layers(graph)
    )
    return request.param, model.base_model, folder, found


def test_it_is_near_to_float32(body: Any) -> None:
    _, _, folder, _ = body
    images = pixels(4, seed=1)
    assert 1e-4 < off(run(folder / "int8" / "model.onnx", images), run(folder / "model.onnx", images)) < 0.1


def test_a_neighbour_changes_nothing(body: Any) -> None:
    """Not even the bits, however large the neighbour's values are."""
    _, _, folder, _ = body
    image, other = pixels(2, seed=2)
    path = folder / "int8" / "model.onnx"
    alone = run(path, np.stack([image, other]))[0]
    np.testing.assert_array_equal(run(path, np.stack([image, 1000 * other]))[0], alone)
    assert np.abs(run(path, np.stack([image, image]))[1] - alone).max() == 0


@torch.no_grad()
def test_it_is_what_torch_rounds(tmp_path: Path) -> None:
    """A ResNet, its batch norms folded by torch itself, every convolution between roundings."""
    spec = Backbone(model=str(tiny_images.build(tmp_path / "model", "resnet")))
    model = load_image_model(spec, tiny_images.LABELS).model
    save(trace_vision(model, SIZE, sockets=False), tmp_path / "model.onnx")
    graph = onnx_ir.load(tmp_path / "model.onnx")
    found = ranges(
        tmp_path / "model.onnx", [str(v.name) for v in rounded_tensors(layers(graph))], pixels(8), 1
    )
    write_vision_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", found, {})
    images = pixels(4, seed=1)
    exact = run(tmp_path / "model.onnx", images)
    here = run(tmp_path / "int8.onnx", images)
    with ExitStack() as stack:
        fold(model.base_model)
        for hook in rounding_hooks(model.base_model, graph, found):
            stack.callback(hook.remove)
        there = hidden_of(model.base_model, torch.from_numpy(images)).numpy()
    assert off(here, there) < off(here, exact) / 3  # a value on the edge of a step goes either way


def fold(module: nn.Module) -> None:
    """convolution, normalization -> one convolution, wherever transformers' ResNet has the pair."""
    for layer in module.modules():
        if isinstance(getattr(layer, "normalization", None), nn.BatchNorm2d):
            layer.convolution = torch.nn.utils.fuse_conv_bn_eval(layer.convolution, layer.normalization)
            layer.normalization = nn.Identity()


def rounding_hooks(body: nn.Module, graph: onnx_ir.Model, found: dict[str, Range]) -> list[Any]:
    """The n-th convolution that runs is the n-th of the graph; its pooled input has the step of what was pooled."""
    nodes = {str(node.inputs[1].name).partition(".weight")[0]: node for node in layers(graph)}
    hooks = []
    for name, layer in body.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        (node,) = [node for key, node in nodes.items() if key.endswith(name)]
        x = node.inputs[0]
        assert x is not None
        maker = x.producer()
        into = found[str((maker.inputs[0] if maker is not None and maker.op_type == "MaxPool" else x).name)]
        weight = layer.weight.numpy()
        rounded, scale = rounded_channels(weight, 0, None, 1.0)
        layer.weight.data = torch.from_numpy(rounded * scale.reshape(-1, 1, 1, 1))
        hooks.append(
            layer.register_forward_pre_hook(
                lambda _, given, into=into: torch.from_numpy(into.rounded(given[0].numpy()))
            )
        )
        out = node.outputs[0]
        users = [use.node for use in out.uses()]
        if len(users) == 1 and users[0].op_type == "Relu":
            out = users[0].outputs[0]
        hooks.append(
            layer.register_forward_hook(
                lambda _, __, given, to=found[str(out.name)]: torch.from_numpy(to.rounded(given.numpy()))
            )
        )
    return hooks


@pytest.mark.parametrize("family", ["resnet", "timm"])
def test_what_rounding_adds_on_average_is_taken_away(family: str, tmp_path: Path) -> None:
    """At a layer that reads the image itself torch says what that is: no error of other layers is in it."""
    spec = Backbone(model=str(tiny_images.build(tmp_path / "model", family)))
    model = load_image_model(spec, tiny_images.LABELS).model
    path = tmp_path / "model.onnx"
    save(trace_vision(model, SIZE, sockets=False), path)
    graph = onnx_ir.load(path)
    images = pixels(8)
    images[:, :, :16] = -1.03  # a background, whose rounding error is the same everywhere
    found = ranges(path, [str(value.name) for value in rounded_tensors(layers(graph))], images, 1)
    off = shifts(path, found, images, 1)
    assert off.keys() == {weight_name(node) for node in layers(graph)}
    first = layers(graph)[0]
    exact, here = (
        nn.functional.conv2d(
            torch.from_numpy(x),
            torch.from_numpy(weight),
            stride=2,
            padding=list(first.attributes["pads"].as_ints())[:2],
        ).mean((0, 2, 3))
        for x, weight in (
            (images, first.inputs[1].const_value.numpy()),
            (found["pixel_values"].rounded(images), rounded_floats(first)),
        )
    )
    np.testing.assert_allclose(off[weight_name(first)], (here - exact).numpy(), atol=1e-5)
    assert np.abs(off[weight_name(first)]).max() > 1e-4
    exact_hidden = run(path, images)
    lost = []
    for taken in ({}, off):
        write_vision_int8(path, tmp_path / "int8.onnx", found, taken)
        lost.append(np.abs((run(tmp_path / "int8.onnx", images) - exact_hidden).mean((0, 2, 3))).sum())
    assert lost[1] < lost[0]


def test_some_layers_stay_float32(body: Any, tmp_path: Path) -> None:
    _, _, folder, found = body
    order = most_harmed(folder / "model.onnx", found, {}, [*pixels(4)], 1)
    half = order[: len(order) // 2]
    path = tmp_path / "model.onnx"
    assert write_vision_int8(folder / "model.onnx", path, found, {}, half) == len(order) - len(half)
    left = [str(node.inputs[1].name) for node in layers(onnx_ir.load(path))]
    assert sorted(left) == sorted(half)
    images = pixels(4, seed=1)
    exact = run(folder / "model.onnx", images)
    assert off(run(path, images), exact) < off(run(folder / "int8" / "model.onnx", images), exact)
    with pytest.raises(BackboneError, match="no layer that could be made int8"):
        write_vision_int8(folder / "model.onnx", path, found, {}, order)


def test_the_same_graph_gives_the_same_bytes(body: Any, tmp_path: Path) -> None:
    _, _, folder, found = body
    write_vision_int8(folder / "model.onnx", tmp_path / "model.onnx", found, {})
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / name).read_bytes() == (folder / "int8" / name).read_bytes()


VALUES = arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32))


@given(VALUES)
def test_a_range_holds_nothing_exactly_and_all_nearly(values: np.ndarray) -> None:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    whole = Range(low, high)
    np.testing.assert_array_equal(whole.rounded(np.zeros(3, np.float32)), 0.0)
    assert np.abs(whole.rounded(values) - values).max() <= whole.step * 1.01
    best = narrowed(values)
    error, least = (np.square(one.rounded(values) - values).mean() for one in (whole, best))
    assert least <= error * (1 + 1e-6)
    assert 0 <= best.zero <= 255


@given(VALUES, st.floats(1e-6, 10))
def test_a_bias_fits_into_an_int32(bias: np.ndarray, step: float) -> None:
    """Also where a channel's weights are so small, or nothing at all, that its steps would be."""
    weight = np.zeros((len(bias), 2, 1, 1), np.float32)
    weight[::2] = 1e-30
    rounded, scale = rounded_channels(weight, 0, bias, step)
    assert np.abs(bias / (step * scale)).max() < 2**31
    assert np.abs(rounded).max() <= 127
