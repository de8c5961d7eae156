"""Trained rows of single tokens in a model's embedding and output head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptune.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def rows_of(model: PreTrainedModel, tokens: Sequence[int]) -> dict[str, list[int]] | None:
    """peft's `trainable_token_indices`: layer -> rows. A head tied to the embedding shares its rows."""
    if not tokens:
        return None
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    if getattr(head, "bias", None) is not None:  # peft computes the head of new tokens without it
        raise RecipeError(
            f"backbone.new_tokens: the output head of {type(model).__name__} has a bias: use method Full"
        )
    names = {id(layer): name for name, layer in model.named_modules()}
    return {names[id(layer)]: list(tokens) for layer in layers}


def check_rows(model: PreTrainedModel) -> None:
    """Raises: RecipeError if peft did not put the trained rows into both the embedding and the head."""
    from peft.utils.other import TrainableTokensWrapper

    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if not isinstance(layer, TrainableTokensWrapper):
            raise RecipeError(
                f"backbone.new_tokens: peft cannot train single rows of {type(model).__name__}: use method Full"
            )
