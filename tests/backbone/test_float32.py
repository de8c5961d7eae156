"""A model that makes its float32 weights when it runs computes the same bits as one that holds them, and holds no such copies."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from support import tiny_models
from support.bundles import peft_folder
from support.float32_copies import with_own_weights
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.float32 import Float32Linear, computed_weights, held_bytes, in_float32
from ptune.backbone.quantize import quantize
from ptune.export.decoder.nf4 import blocks_of
from ptune.export.decoder.trace import trace
from ptune.export.fuse import fuse
from ptune.export.weights import ModelWeights, attach, save
from ptune.verify.reference import adapted

IDS = torch.arange(5, 45)[None]
KINDS = ["nf4", "int8", "bfloat16", "float16"]


def kept(kind: str, family: str = "qwen2") -> PreTrainedModel:
    """A model in fewer bytes. Qwen2 has linear layers with and without bias."""
    model = tiny_models.model(family).requires_grad_(False).eval()
    if kind in ("bfloat16", "float16"):
        return model.to(getattr(torch, kind))
    quantize(model, kind)  # type: ignore[arg-type]
    return model


def computed_and_held(kind: str, family: str = "qwen2") -> tuple[PreTrainedModel, PreTrainedModel]:
    computed = kept(kind, family)
    in_float32(computed)
    held = copy.deepcopy(computed)
    with_own_weights(held)
    return computed, held


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_are_those_of_copies(kind: str) -> None:
    computed, held = computed_and_held(kind)
    layers = [layer for layer in held.modules() if isinstance(layer, nn.Linear)]
    assert {type(layer) for layer in layers} == {nn.Linear}
    assert {layer.weight.dtype for layer in layers} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(computed(IDS).logits, held(IDS).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_but_the_head_hold_no_float32_copies(kind: str) -> None:
    computed, _ = computed_and_held(kind)
    linears = {name for name, layer in computed.named_modules() if isinstance(layer, nn.Linear)}
    assert {name.removesuffix(".weight") for name in computed_weights(computed)} == linears - {"lm_head"}
    large = {name for name, parameter in computed.named_parameters() if parameter.ndim > 1}
    assert large == {"model.embed_tokens.weight", "lm_head.weight"}
    assert {parameter.dtype for parameter in computed.parameters()} == {torch.float32}


@pytest.mark.parametrize(("kind", "share"), [("nf4", 1 / 8), ("int8", 1 / 4), ("bfloat16", 1 / 2)])
def test_what_float32_weights_are_made_of_counts(kind: str, share: float) -> None:
    computed, held = computed_and_held(kind)
    ends = computed.get_memory_footprint()
    layers = held.get_memory_footprint() - ends
    assert held_bytes(computed) == ends + share * layers
    assert held_bytes(held) == held.get_memory_footprint()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nf4_weights_are_code_times_scale_whatever_the_base_was_published_in(dtype: torch.dtype) -> None:
    """Rounded to bfloat16, they would have no exact form in nf4, and no graph on those bytes."""
    model = tiny_models.model("qwen2").requires_grad_(False).to(dtype)
    quantize(model, "nf4")
    in_float32(model)
    for layer in computed_weights(model).values():
        assert blocks_of(layer.weight.numpy()) is not None


def test_a_float32_model_stays_as_it_is() -> None:
    model = tiny_models.model("llama_tied")
    before = dict(model.named_parameters())
    in_float32(model)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert not any(isinstance(layer, Float32Linear) for layer in model.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_peft_plugs_into_them_as_into_plain_layers(kind: str, tmp_path: Path) -> None:
    base = tiny_models.build(tmp_path / "model", "qwen2")
    adapter = peft_folder(base, tmp_path / "adapter", spread=0.1)
    logits = []
    for model in computed_and_held(kind):
        bare = model(IDS).logits.detach()
        tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
        logits.append(tuned(IDS).logits.detach())
        assert not torch.equal(logits[-1], bare)
        tuned.unload()
        assert torch.equal(model(IDS).logits.detach(), bare)
    assert torch.equal(*logits)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weight_is_made_to_load_lora_and_the_numbers_stay(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft asks for the type and place of each 21 times."""
    base = tiny_models.build(tmp_path / "model", "qwen2")
    folder = peft_folder(base, tmp_path / "adapter", spread=0.1)
    plain, ours = (computed_and_held(kind)[0] for _ in range(2))
    made: list[nn.Module] = []
    make = Float32Linear._made

    def counted(self: Float32Linear) -> torch.Tensor:
        made.append(self)
        return make(self)

    monkeypatch.setattr(Float32Linear, "_made", counted)
    tuned = adapted(ours, folder)
    assert not made
    assert torch.equal(tuned(IDS).logits, PeftModel.from_pretrained(plain, str(folder)).eval()(IDS).logits)
    assert made


@pytest.mark.parametrize(
    ("kind", "family"), [("nf4", "llama"), ("int8", "llama_tied"), ("bfloat16", "llama_tied")]
)
def test_the_exported_file_is_that_of_copies(kind: str, family: str, tmp_path: Path) -> None:
    files = []
    for at, model in enumerate(computed_and_held(kind, family)):
        traced = trace(model.config)
        attach(traced, ModelWeights(model))
        fuse(traced.graph)
        save(traced, tmp_path / str(at) / "model.onnx")
        files.append([(tmp_path / str(at) / name).read_bytes() for name in ("model.onnx", "model.onnx.data")])
    assert files[0] == files[1]
