"""PSOFT (https://openreview.net/forum?id=FSHrinMArK) through peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ptune.methods.peft_method import PeftMethod


class Psoft(PeftMethod):
    """Rotates each layer within the space of its largest singular vectors."""

    r: int = Field(default=32, ge=1)
    """Singular vectors of a layer."""
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    psoft_orth: bool = True
    """Keep the rotation exact."""
    psoft_mag_a: bool = True
    """Train a scale of the inputs."""
    psoft_mag_b: bool = True
    """Train a scale of the outputs."""

    peft_config = "peft:PsoftConfig"
    peft_names: ClassVar[Mapping[str, str]] = {"alpha": "psoft_alpha", "dropout": "psoft_dropout"}
    conv1d = False
