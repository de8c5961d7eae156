"""BitFit (Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptune.errors import RecipeError
from ptune.methods.freeze import with_head
from ptune.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class BitFit(Spec):
    """Train the biases alone, and a new head. peft has no such method, so the run holds a whole model."""

    def apply(self, model: nn.Module, new_tokens: Sequence[int] = (), head: Sequence[str] = ()) -> nn.Module:
        """Returns `model` with only its biases and a new head trainable. Raises: RecipeError if it has no biases."""
        if new_tokens:
            raise RecipeError("BitFit leaves all embeddings as they are: new tokens need Lora or Full")
        model.requires_grad_(False)
        biases = [one for name, one in model.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise RecipeError(f"method BitFit: {type(model).__name__} has no biases: use Ia3 or LnTuning")
        for bias in biases:
            bias.requires_grad_(True)
        return with_head(model, head)
