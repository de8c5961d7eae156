"""(IA)^3 (Liu et al. 2022, https://arxiv.org/abs/2205.05638) through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptune.errors import RecipeError
from ptune.methods.peft_method import PeftMethod
from ptune.methods.targets import Targets, ends_with

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Ia3(PeftMethod):
    """Trained scales of keys, values and the inputs of the second feed-forward layers: the fewest weights of all."""

    target_modules: Targets = ()
    """Names or name endings of the layers to scale; default: keys, values and second feed-forward layers, as peft knows them for the model's type."""
    feedforward_modules: tuple[str, ...] = ()
    """Those of `target_modules` whose input is scaled instead of their output."""

    peft_config = "peft:IA3Config"
    quantized = ("int8", "nf4")
    scales = True
    convolutions = True

    def place(self, model: PreTrainedModel, head: Sequence[str]) -> dict[str, Any]:
        """As `PeftMethod.place`. Raises: RecipeError where peft does not know the model's type."""
        if self.target_modules:
            place = super().place(model, head)
            names = place["target_modules"] if isinstance(place["target_modules"], list) else []
            # Of image models these are whole names, and peft wants the others to be among them.
            inner = [name for name in names if ends_with(name, self.feedforward_modules)]
            return {**place, "feedforward_modules": inner or list(self.feedforward_modules)}
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as INNER
        from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN

        kind = model.config.model_type
        if kind not in KNOWN or kind not in INNER:
            raise RecipeError(
                f"method: peft has no choice of layers for Ia3 in a model of type {kind!r}: name them in"
                " method.target_modules, and those whose input is scaled in method.feedforward_modules"
            )
        chosen = self.model_copy(update={"target_modules": tuple(KNOWN[kind])})
        return {**PeftMethod.place(chosen, model, head), "feedforward_modules": list(INNER[kind])}

    def fields(self) -> dict[str, Any]:
        """As `PeftMethod.fields`."""
        return {"feedforward_modules": list(self.feedforward_modules)}
