"""Train every weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptune.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class Full(Spec):
    """Full fine-tuning."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Returns `model` with every weight trainable."""
        return model.requires_grad_(True)
