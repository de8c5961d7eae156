"""NEFTune (Jain et al. 2023, https://arxiv.org/abs/2310.05914): noise on the embeddings of a text while it trains.

The noise of a text of L tokens of width D is uniform within alpha / sqrt(L D). Packed texts have each their own length. It is drawn
from torch's generator, which each step seeds by its number: a resumed run draws the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.errors import RecipeError
from ptune.training.rows.segments import lengths_now


def check_noise(recipe: Recipe) -> None:
    """Raises: RecipeError where the texts are not written by the model."""
    if recipe.train.neftune_alpha is not None and not isinstance(recipe.task, Chat):
        raise RecipeError(
            f"train.neftune_alpha is for chat and translation by causal models, not for {type(recipe.task).__name__}:"
            " leave it out"
        )


def with_noise(model: PreTrainedModel, alpha: float) -> None:
    """Adds noise to what the embedding of `model` gives in training mode. Raises: RecipeError for an encoder-decoder."""
    if model.config.is_encoder_decoder:
        raise RecipeError(
            f"train.neftune_alpha: {type(model).__name__} is an encoder-decoder, which shares its embedding with what it"
            " writes: leave it out"
        )

    def add(embedding: nn.Module, _: Any, found: torch.Tensor) -> torch.Tensor:
        if not embedding.training:
            return found
        return found + torch.empty_like(found).uniform_(-1, 1) * _widths(found, alpha)

    model.get_input_embeddings().register_forward_hook(add)


def _widths(found: torch.Tensor, alpha: float) -> torch.Tensor:
    """[1, tokens, 1] half the width of each token's noise; the texts in a row are those of the forward pass."""
    tokens, width = found.shape[-2:]
    lengths = lengths_now()
    lengths = lengths if len(lengths) == tokens else [tokens] * tokens
    each = [alpha / (length * width) ** 0.5 for length in lengths]
    return torch.tensor(each, dtype=found.dtype, device=found.device)[None, :, None]
