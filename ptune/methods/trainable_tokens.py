"""Rows of single tokens, through peft's TrainableTokens (https://huggingface.co/docs/peft/package_reference/trainable_tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptune.errors import RecipeError
from ptune.methods.peft_method import PeftMethod, task_type
from ptune.methods.token_rows import rows_of

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


class TrainableTokens(PeftMethod):
    """Train the rows of some tokens in the embedding and the output head, and nothing else."""

    tokens: tuple[int, ...] = ()
    """Numbers of tokens of the vocabulary to train, beside `backbone.new_tokens`."""

    peft_config = "peft:TrainableTokensConfig"
    quantized = ("int8", "nf4")
    new_tokens = True

    def config(self, model: PreTrainedModel, new_tokens: Sequence[int], head: Sequence[str]) -> PeftConfig:
        """As `PeftMethod.config`. Raises: RecipeError if there is no token to train."""
        from peft import TrainableTokensConfig

        if head or task_type(model) != "CAUSAL_LM":
            raise RecipeError("method TrainableTokens is for chat and translation by causal models: use Lora")
        tokens = sorted({*self.tokens, *new_tokens})
        size = model.get_input_embeddings().num_embeddings
        if not tokens:
            raise RecipeError("method TrainableTokens: name tokens in method.tokens or backbone.new_tokens")
        if tokens[0] < 0 or tokens[-1] >= size:
            wrong = tokens[0] if tokens[0] < 0 else tokens[-1]
            raise RecipeError(f"method.tokens: there is no token {wrong}; the vocabulary ends at {size - 1}")
        rows = rows_of(model, tokens)
        assert rows is not None
        return TrainableTokensConfig(
            target_modules=list(rows),
            token_indices=tokens,
            task_type=task_type(model),
        )
