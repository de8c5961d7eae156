"""DeLoRA (Bini et al. 2025, https://arxiv.org/abs/2503.18225) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class DeLora(PeftMethod):
    """Low-rank updates whose direction and length are trained apart."""

    r: int = Field(default=8, ge=1)
    """Rank of the updates."""
    delora_lambda: float = Field(default=15.0, gt=0)
    """First bound of an update's length."""
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a pass leaves out a layer's update."""

    peft_config = "peft:DeloraConfig"
    folds = True
    conv1d = False
