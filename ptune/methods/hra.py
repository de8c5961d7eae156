"""HRA (Yuan et al. 2024, https://arxiv.org/abs/2405.17484) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Hra(PeftMethod):
    """A chain of r reflections of each layer's input."""

    r: int = Field(default=8, ge=2, multiple_of=2)
    """Reflections; an even number."""
    apply_gs: bool = False
    """Make the reflections orthogonal to each other."""

    peft_config = "peft:HRAConfig"
    folds = True
    peft_names: ClassVar[Mapping[str, str]] = {"apply_gs": "apply_GS"}
    convolutions = True
    conv1d = False
