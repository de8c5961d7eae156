"""Freeze the backbone except its last blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from ptune.errors import RecipeError
from ptune.methods.image_layers import is_image_model, last_parts
from ptune.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class FreezeExceptLast(Spec):
    """Train the last blocks, the final norm and a pooler; embeddings, a pretrained head and all earlier blocks stay frozen."""

    layers: int = Field(default=2, ge=1)
    """How many of the last blocks are trained: of a transformer's, or of a convolutional network's stages."""

    def apply(self, model: nn.Module, new_tokens: Sequence[int] = (), head: Sequence[str] = ()) -> nn.Module:
        """Returns `model` with only the last blocks, norm and pooler after them and a fresh head trainable.

        head: names of the modules that are not pretrained.

        Raises: RecipeError where the model has fewer blocks, or there are new tokens, which would stay untrained.
        """
        if new_tokens:
            raise RecipeError(
                "FreezeExceptLast leaves all embeddings as they are: new tokens need Lora or Full"
            )
        model.requires_grad_(False)
        if is_image_model(model):
            for part in last_parts(model, self.layers):
                part.requires_grad_(True)
            return with_head(model, head)
        name, blocks = _blocks(model)
        if self.layers > len(blocks):
            raise RecipeError(f"method.layers is {self.layers}, but the model has {len(blocks)} blocks")
        for block in list(blocks)[-self.layers :]:
            block.requires_grad_(True)
        parent = model.get_submodule(name.rpartition(".")[0])
        for child_name, child in parent.named_children():
            if "norm" in child_name or child_name.startswith("ln_"):
                child.requires_grad_(True)
        poolers = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "pooler"]
        return with_head(model, [*poolers, *head])  # a pooler comes after the blocks, too


def with_head(model: nn.Module, head: Sequence[str]) -> nn.Module:
    """`model` with these modules trainable."""
    for fresh in head:
        model.get_submodule(fresh).requires_grad_(True)
    return model


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of transformer blocks and its name: the longest list of modules that lies in no other list.

    Of an encoder-decoder it is the decoder's: the blocks that the head comes after.
    """
    from torch import nn

    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    written = {name: module for name, module in lists.items() if "decoder" in name.split(".")}
    config = getattr(model, "config", None)
    lists = written if getattr(config, "is_encoder_decoder", False) and written else lists
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    name = max(outermost, key=lambda name: len(lists[name]))
    return name, lists[name]
