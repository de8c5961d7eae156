"""LN tuning (Zhao et al. 2023, https://arxiv.org/abs/2312.11420) through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ptune.errors import RecipeError
from ptune.methods.peft_method import PeftMethod, task_type
from ptune.methods.targets import among, ends_with

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LnTuning(PeftMethod):
    """Train the norms alone: copies of them, so that the base stays as it is."""

    target_modules: tuple[str, ...] = ()
    """Names or name endings of the norms to train; default: all that have weights."""

    peft_config = "peft:LNTuningConfig"
    quantized = ("int8", "nf4")
    copies = True

    def place(self, model: PreTrainedModel, head: Sequence[str]) -> dict[str, Any]:
        """As `PeftMethod.place`. Raises: RecipeError if the model has no norms with weights, or they keep statistics."""
        from torch.nn.modules.batchnorm import _BatchNorm

        wanted = self.target_modules
        norms = [
            name
            for name, one in model.named_modules()
            if (not wanted or ends_with(name, wanted))
            and "Norm" in type(one).__name__
            and isinstance(getattr(one, "weight", None), _tensor())
        ]
        if not norms:
            asked = f" named {', '.join(wanted)}" if wanted else ""
            raise RecipeError(f"method LnTuning: {type(model).__name__} has no norms with weights{asked}")
        if any(isinstance(model.get_submodule(name), _BatchNorm) for name in norms):
            raise RecipeError(
                f"method LnTuning: the norms of {type(model).__name__} keep statistics of batches, which peft's copies"
                " would change: use Lora, FreezeExceptLast or Full"
            )
        chosen = among(model, norms, self.exclude_modules, self.layers_to_transform)
        return {
            "target_modules": chosen,
            "task_type": task_type(model),
            "modules_to_save": list(head) or None,
        }


def _tensor() -> type:
    from torch import Tensor

    return Tensor
