"""Tiny random image models of transformers and timm, with their processors, and pictures: real code paths, no download.

from support.tiny_images import build, FAMILIES, picture
folder = build(tmp_path / "resnet", "resnet")      # config.json, model.safetensors, preprocessor_config.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn

LABELS = ("cat", "dog", "eel")
SIZE = 32
_CONVOLUTIONAL: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
FAMILIES: dict[str, Any] = {
    "resnet": lambda: transformers.ResNetConfig(**_CONVOLUTIONAL, layer_type="bottleneck"),
    "convnext": lambda: transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1]),
    "vit": lambda: transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIZE,
        patch_size=8,
        initializer_range=0.2,
    ),
}
TIMM = "test_efficientnet"  # an architecture that timm keeps for tests: convolutions of all kinds, batch norm


def build(folder: Path, family: str, **changes: Any) -> Path:
    """Writes a model folder with a head for three other labels, and returns it. changes: of the config."""
    if family == "timm":
        return _as_timm_publishes(folder)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    config = FAMILIES[family]()
    config.update(changes)
    config.id2label, config.architectures = {0: "x", 1: "y", 2: "z"}, []
    model = transformers.AutoModelForImageClassification.from_config(config)
    liven(model)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    processor(family).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return folder


def processor(family: str) -> Any:
    """An image processor as the family's published models have it, of a small size."""
    if family == "vit":
        return transformers.ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    return transformers.ConvNextImageProcessor(size={"shortest_edge": SIZE}, crop_pct=0.875)


def _as_timm_publishes(folder: Path) -> Path:
    """config.json and model.safetensors as a timm repository of the hub has them."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = timm.create_model(TIMM, num_classes=3)
    liven(model)
    torch.set_rng_state(state)
    folder.mkdir(parents=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors"
    )
    held = {
        "input_size": [3, SIZE, SIZE],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
    }
    held |= {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.25],
        "first_conv": "conv_stem",
        "classifier": "classifier",
    }
    config = {"architecture": TIMM, "num_classes": 3, "label_names": ["x", "y", "z"], "pretrained_cfg": held}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def liven(model: nn.Module) -> None:
    """Statistics and weights of batch norms far from those that change nothing."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth coloured picture with some noise, so that every filter shows."""
    chance = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 5, height))
    waves = [np.sin(across * k + seed) + np.cos(down * k) for k in (1, 2, 3)]
    values = 127 + 50 * np.stack(waves, -1) + chance.normal(0, 15, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def labelled_folder(folder: Path, each: int = 8, size: tuple[int, int] = (40, 36)) -> Path:
    """FOLDER/LABEL/N.png: each label has a brightness of its own, so that there is something to be learnt."""
    for place, label in enumerate(LABELS):
        (folder / label).mkdir(parents=True)
        for number in range(each):
            shaded = np.asarray(picture(*size, seed=100 * place + number)) // (place + 1)
            Image.fromarray(shaded).save(folder / label / f"{number}.png")
    return folder
