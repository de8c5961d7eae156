"""A model on a ready-made checkpoint takes its packed bytes and the values of one layer, while it is read and while it trains."""

from __future__ import annotations

from pathlib import Path

import torch
from support import own_memory, tiny_models
from support import packed_checkpoints as made
from torch import Tensor
from transformers import PreTrainedModel

SIZE = {"hidden_size": 1024, "intermediate_size": 1024, "num_hidden_layers": 8}
ONE_LAYER = 4 * 1024 * 1024  # bytes of a linear layer's values

# After another model has been read, and trained for a step. Tokens are few: activations take little.
TRAIN = """
import torch
from ptune.backbone.load import load
from ptune.config.recipe import Backbone, Recipe
from ptune.training.preparation import applied, as_its_base_is_stored

def step(folder):
    recipe = as_its_base_is_stored(Recipe(backbone=Backbone(model=folder, dtype="float32")))
    loaded = load(recipe.backbone).model
    model = applied(recipe, loaded)
    model(torch.arange(5, 21)[None]).logits.sum().backward()
    return model

step(sys.argv[1])
with measured():
    model = step(sys.argv[2])
"""


def any_bits(layer: str, weight: Tensor) -> tuple[made.Tensors, Tensor]:
    """GPTQ of 4 bits in groups of 128 or fewer, of any integers: rounding as many weights one by one would take long."""
    out, inner = weight.shape
    groups = max(1, inner // 128)

    def words(*shape: int) -> Tensor:
        return torch.randint(-(2**31), 2**31 - 1, shape, dtype=torch.int32)

    tensors = {"qweight": words(inner // 8, out), "qzeros": words(groups, out // 8)}
    tensors["scales"] = torch.full((groups, out), 1e-3, dtype=torch.float16)
    return {f"{layer}.{name}": tensor for name, tensor in tensors.items()}, weight


def built(folder: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)

    def pack(tensors: made.Tensors) -> None:
        for name in [name for name in tensors if "_proj" in name]:
            tensors |= any_bits(name.removesuffix(".weight"), tensors.pop(name))[0]

    made.set_settings(
        folder,
        {"quant_method": "gptq", "bits": 4, "group_size": 128 if model.config.hidden_size > 128 else -1},
    )
    return made.changed(folder, pack)


def test_a_step_of_training(tmp_path: Path) -> None:
    large = tiny_models.model("llama", **SIZE)
    unpacked = 4 * sum(weight.numel() for name, weight in large.named_parameters() if "_proj" in name)
    small = tiny_models.model("llama", hidden_size=128, intermediate_size=128)
    gained = own_memory.gained(TRAIN, built(tmp_path / "small", small), built(tmp_path / "large", large))
    packed = unpacked / 8
    # Values of a layer are bytes first and products afterwards; LoRA's own weights and gradients take the rest.
    assert gained < packed + 4 * ONE_LAYER + 24 * 2**20 < unpacked / 2
