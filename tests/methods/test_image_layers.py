"""What LoRA and freezing mean in models of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from support import tiny_images
from torch import nn
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from ptune.backbone.image_model import LoadedImageModel, load_image_model
from ptune.config.recipe import Backbone
from ptune.errors import RecipeError
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora

FAMILIES = (*tiny_images.FAMILIES, "timm")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit")
    for family in FAMILIES:
        tiny_images.build(folder / family, family)
    return folder


def loaded(kit: Path, family: str) -> LoadedImageModel:
    return load_image_model(Backbone(model=str(kit / family)), tiny_images.LABELS)


def adapted(model: nn.Module) -> set[str]:
    names = {name.partition(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    return {name.removeprefix("base_model.model.") for name in names}


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_adapts_every_linear_layer_and_ungrouped_convolution_of_the_body(family: str, kit: Path) -> None:
    plain = loaded(kit, family)
    convolutions = {n: m for n, m in plain.model.named_modules() if isinstance(m, nn.Conv2d)}
    expected = {n for n, m in convolutions.items() if m.groups == 1 and type(m) is nn.Conv2d}
    expected |= {n for n, m in plain.model.named_modules() if isinstance(m, nn.Linear)} - set(plain.head)
    model = Lora(r=2).apply(loaded(kit, family).model, head=plain.head)
    assert adapted(model) == expected
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    others = {name for name in trained if ".lora_" not in name}
    assert others
    assert all(".modules_to_save." in name and plain.head[0] in name for name in others)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_factor_gets_a_gradient(family: str, kit: Path) -> None:
    plain = loaded(kit, family)
    model = Lora(r=2).apply(plain.model, head=plain.head)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter)
    model(pixel_values=torch.randn(2, 3, tiny_images.SIZE, tiny_images.SIZE)).logits.square().sum().backward()
    # Of timm's tiny squeeze-and-excite layers some units are off, and no gradient flows through those.
    factors = {n: p for n, p in model.named_parameters() if p.requires_grad and ".se." not in n}
    assert not [name for name, factor in factors.items() if factor.grad is None or not factor.grad.any()]


def test_names_that_were_asked_for(kit: Path) -> None:
    plain = loaded(kit, "vit")
    model = Lora(r=2, target_modules=("q_proj", "projection")).apply(plain.model, head=plain.head)
    assert {name.rpartition(".")[2] for name in adapted(model)} == {"q_proj", "projection"}
    timm = loaded(kit, "timm")
    with pytest.raises(RecipeError, match="'conv_dw' names no linear layer or plain convolution of the body"):
        Lora(r=2, target_modules=("conv_dw",)).apply(timm.model, head=timm.head)
    with pytest.raises(RecipeError, match="no layer named 'conv_pvl'; did you mean 'conv_pwl'"):
        Lora(r=2, target_modules=("conv_pvl",)).apply(loaded(kit, "timm").model, head=timm.head)


@torch.no_grad()
def test_a_convolution_that_pads_by_the_images_size_stays_as_it_is() -> None:
    """peft's convolution beside it would pad otherwise, and its output would not even have the same size."""
    config = TimmWrapperConfig.from_dict({"architecture": "tf_efficientnet_lite0"}, num_labels=2)
    model = TimmWrapperForImageClassification(config).eval()
    inputs = torch.randn(1, 3, 64, 64)
    before = model(pixel_values=inputs).logits
    adapter: PeftModel = Lora(r=2).apply(model)
    assert "timm_model.conv_stem" not in adapted(adapter)
    assert torch.equal(adapter(pixel_values=inputs).logits, before)


LAST = {
    "resnet": ("resnet.encoder.stages.1.", "classifier.1."),
    "convnext": ("convnext.encoder.stages.1.", "convnext.layernorm.", "classifier."),
    "vit": ("vit.layers.1.", "vit.layernorm.", "classifier."),
}


@pytest.mark.parametrize("family", LAST)
def test_freeze_trains_the_last_blocks_and_all_that_comes_after_them(family: str, kit: Path) -> None:
    plain = loaded(kit, family)
    model = FreezeExceptLast(layers=1).apply(plain.model, head=plain.head)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(LAST[family])}
    for prefix in LAST[family]:
        assert any(name.startswith(prefix) for name in trained)


@pytest.mark.parametrize(
    ("architecture", "blocks", "last"),
    [
        ("resnet18", 4, ("layer4.", "fc.")),
        ("tf_efficientnet_lite0", 7, ("blocks.6.", "conv_head.", "bn2.", "classifier.")),
        ("vit_tiny_patch16_224", 12, ("blocks.11.", "norm.", "head.")),
        ("convnext_atto", 4, ("stages.3.", "head.")),
    ],
)
def test_freeze_knows_the_blocks_of_timm(architecture: str, blocks: int, last: tuple[str, ...]) -> None:
    config = TimmWrapperConfig.from_dict({"architecture": architecture}, num_labels=2)
    with torch.device("meta"):
        model: PreTrainedModel = TimmWrapperForImageClassification(config)
    with pytest.raises(RecipeError, match=f"the model has {blocks} blocks"):
        FreezeExceptLast(layers=99).apply(model)
    FreezeExceptLast(layers=1).apply(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    prefixes = tuple(f"timm_model.{prefix}" for prefix in last)
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
