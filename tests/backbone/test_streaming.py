"""Layers that are in memory only while they run: which ones, when they are read, and what is refused."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ptune.backbone import layer_file
from ptune.backbone.layer_file import LayerFile
from ptune.backbone.load import load
from ptune.backbone.streaming import layers_of, stream, streamable
from ptune.config.recipe import Backbone, Recipe, Train
from ptune.errors import BackboneError, PtuneError
from ptune.methods.full import Full
from ptune.training.memory.backward_pass import nothing_left_behind
from ptune.training.preparation import checkpoint_layers

CPU = torch.device("cpu")
IDS = torch.arange(3, 19)[None]
LAYERS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.build(tmp_path_factory.mktemp("streamed") / "qwen3", "qwen3", num_hidden_layers=LAYERS)


def loaded(folder: Path, quantize: Any, *, streamed: bool) -> PreTrainedModel:
    return load(Backbone(model=str(folder), quantize=quantize, dtype="float32"), streamed=streamed).model


@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_it_computes_the_same_and_holds_the_same(folder: Path, quantize: str) -> None:
    resident, streamed = (loaded(folder, quantize, streamed=on) for on in (False, True))
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(resident(IDS).logits, streamed(IDS).logits)
    expected, held = resident.state_dict(), streamed.state_dict()
    assert expected.keys() == held.keys()
    assert all(torch.equal(tensor, held[name]) for name, tensor in expected.items())
    assert (
        resident.generate(IDS, max_new_tokens=4).tolist() == streamed.generate(IDS, max_new_tokens=4).tolist()
    )


def reads_of(model: nn.Module) -> list[int]:
    """The layers that are read from here on, in order."""
    running = layers_of(model)[0].before_it_runs.func.__self__
    order: list[int] = []
    own = running._read

    def noted(number: int, slot: int) -> None:
        order.append(number)
        own(number, slot)

    running._read = noted
    return order


def settled(model: nn.Module) -> None:
    layers_of(model)[0].before_it_runs.func.__self__._wait()


def test_a_pass_reads_each_layer_once_and_the_next_one_ahead(folder: Path) -> None:
    model = loaded(folder, "none", streamed=True)
    order = reads_of(model)
    with torch.no_grad():
        model(IDS)
        settled(model)
        assert order == [0, 1, 2, 3, 4, 5, 0]
        order.clear()
        model(IDS)
        settled(model)
    assert order == [1, 2, 3, 4, 5, 0]


def test_a_step_turns_round_at_both_ends(folder: Path) -> None:
    """The last layers of the forward pass are the first of the backward pass, and the other way round."""
    model = loaded(folder, "nf4", streamed=True)
    model.get_input_embeddings().weight.requires_grad_(True)
    checkpoint_layers(model)
    model.train()
    order = reads_of(model)
    for first in (0, 1):
        order.clear()
        model(IDS, use_cache=False).logits.sum().backward()
        settled(model)
        assert order[2 - 2 * first :] == [2, 3, 4, 5, 3, 2, 1, 0], order


def test_a_gradient_needs_the_layers_computed_again(folder: Path) -> None:
    model = loaded(folder, "none", streamed=True)
    model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(PtuneError, match=r"train\.gradient_checkpointing"):
        model(IDS)


class Layer(GradientCheckpointingLayer):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(hidden))


class SideBySide(nn.Module):
    """Layers that all have the same input: their gradients may be computed in any order, or in turns."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(), Layer(), Layer()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(hidden) for layer in self.layers]).sum()


def test_layers_that_do_not_follow_each_other_are_refused(tmp_path: Path) -> None:
    model = SideBySide().requires_grad_(False).train()
    for layer in model.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)
    stream(model, LayerFile(tmp_path), CPU)
    total = model(torch.ones(1, 4, requires_grad=True))
    with pytest.raises(PtuneError, match="do not follow each other"), nothing_left_behind():
        total.backward()


def test_layers_that_cannot_be_computed_again_are_refused(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Embedding(4, 4), nn.ModuleList([nn.Linear(4, 4)]))
    with pytest.raises(BackboneError, match=r"backbone\.stream: Sequential has no layers"):
        stream(plain, LayerFile(tmp_path), CPU)


def test_shared_and_trained_weights_stay() -> None:
    model = SideBySide().requires_grad_(False)
    model.layers[1].linear.weight = model.layers[0].linear.weight
    model.layers[2].linear.bias.requires_grad_(True)
    held = [[id(place.holder) for place in layer] for layer in streamable(model)]
    first, second, third = (layer.linear for layer in model.layers)
    assert held == [[id(first.bias)], [id(second.bias)], [id(third.weight)]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": Full(), "train": Train(gradient_checkpointing=True)}, "method Lora"),
        ({"train": Train()}, r"needs train\.gradient_checkpointing"),
    ],
)
def test_recipes_that_cannot_be_streamed(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Recipe(backbone=Backbone(stream=True), **wrong)


def test_a_file_gives_back_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_file, "_CHUNK_BYTES", 3 * 4096)
    file = LayerFile(tmp_path)
    given = [torch.randn(size) for size in (1, 1000, 5000, 0)] + [
        torch.arange(9, dtype=torch.int8),
        torch.ones(()),
    ]
    kept = [file.keep(tensor) for tensor in given]
    assert all(torch.equal(one, other) for one, other in zip(given, kept, strict=True))
    assert file.keep(kept[2]) is kept[2]
    into = torch.empty(given[2].nbytes, dtype=torch.uint8)
    file.read(file.offset_of(kept[2]), into)
    assert torch.equal(into.view(torch.float32), given[2])
    assert list(tmp_path.iterdir()) == []
