"""LoHa (Hyeon-Woo et al. 2021, FedPara, https://arxiv.org/abs/2108.06098) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class LoHa(PeftMethod):
    """The elementwise product of two low-rank updates, whose rank is up to r squared."""

    r: int = Field(default=8, ge=1)
    """Rank of each of the two updates."""
    alpha: float = Field(default=8.0, gt=0)
    """The update is scaled by alpha / r."""
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the update's rows that a pass leaves out."""
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a pass leaves out a layer's update."""

    peft_config = "peft:LoHaConfig"
    folds = True
    convolutions = True
    conv1d = False
