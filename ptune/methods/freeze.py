"""Method FreezeExceptLast: train the last blocks only."""

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
    """How many of the last blocks to train: blocks of a transformer, or stages of a convolutional network."""

    def apply(self, model: nn.Module, new_tokens: Sequence[int] = (), head: Sequence[str] = ()) -> nn.Module:
        """Returns `model` with only the last blocks, the norm and pooler after them, and a new head trainable.

        head: names of the modules that are not pretrained.

        Raises: RecipeError if the model has fewer blocks, or if there are new tokens, which would stay untrained.
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
    """The name and the list of transformer blocks: the longest module list that is not inside another one.

    In an encoder-decoder, the decoder's: its blocks come before the head.
    """
    from torch import nn

    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    written = {name: module for name, module in lists.items() if "decoder" in name.split(".")}
    config = getattr(model, "config", None)
    lists = written if getattr(config, "is_encoder_decoder", False) and written else lists
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    name = max(outermost, key=lambda name: len(lists[name]))
    return name, lists[name]
