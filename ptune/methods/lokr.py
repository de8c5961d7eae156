"""LoKr (Yeh et al. 2023, LyCORIS, https://arxiv.org/abs/2309.14859) through peft."""

from __future__ import annotations

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class LoKr(PeftMethod):
    """The Kronecker product of a small matrix and a low-rank one."""

    r: int = Field(default=8, ge=1)
    """Rank of the second matrix."""
    alpha: float = Field(default=8.0, gt=0)
    """The update is scaled by alpha / r."""
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the update's rows that a pass leaves out."""
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that a pass leaves out a layer's update."""
    decompose_both: bool = False
    """Make the first matrix low-rank, too."""
    decompose_factor: int = Field(default=-1, ge=-1)
    """Size of the first matrix; -1: near the root of the layer's."""

    peft_config = "peft:LoKrConfig"
    convolutions = True
    conv1d = False
