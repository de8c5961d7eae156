"""What methods share that put trained vectors before a text: virtual tokens, or keys and values of such tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ptune.errors import RecipeError
from ptune.methods.peft_method import PeftMethod, task_type

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PromptLearning(PeftMethod):
    """The base of these methods: of causal language models."""

    num_virtual_tokens: int = Field(default=20, ge=1)
    """Vectors before every text."""

    quantized = ("int8", "nf4")
    virtual_tokens = True
    mergeable = False

    def place(self, model: PreTrainedModel, head: Sequence[str]) -> dict[str, Any]:
        """As `PeftMethod.place`. Raises: RecipeError for fields of layers, and for other models than causal ones."""
        name, kind = type(self).__name__, task_type(model)
        if kind != "CAUSAL_LM":
            raise RecipeError(f"method {name} is for chat and translation by causal models: use Lora")
        if self.target_modules != "all-linear" or self.exclude_modules or self.layers_to_transform:
            raise RecipeError(f"method {name} changes no layers: leave out the fields that choose them")
        return {"task_type": kind}
