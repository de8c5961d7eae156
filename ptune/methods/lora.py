"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) through peft."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ptune.errors import RecipeError
from ptune.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class Lora(Spec):
    """Low-rank adapters beside frozen linear layers."""

    r: int = Field(default=16, ge=1)
    """Rank of each update."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / r (alpha / sqrt(r) with `rslora`)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter's first matrix."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names or name endings of the linear layers to adapt; all-linear leaves out the output head."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023)."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Returns `model` wrapped in a PeftModel whose only trainable weights are the adapter's, in float32.

        Raises: RecipeError where a name in `target_modules` fits no layer.
        """
        from peft import LoraConfig, get_peft_model

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        if not isinstance(targets, str):
            _check_targets(targets, [name for name, _ in model.named_modules() if name])
        config = LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            use_rslora=self.rslora,
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, config)


def _check_targets(targets: list[str], modules: list[str]) -> None:
    """peft passes over a name that fits nothing as long as another one does."""
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in modules):
            known = {name.rpartition(".")[2] for name in modules}
            close = difflib.get_close_matches(target, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise RecipeError(f"method.target_modules: the model has no layer named {target!r}{hint}")
