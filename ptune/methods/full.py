"""Train every weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptune.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class Full(Spec):
    """Full fine-tuning."""

    def apply(self, model: nn.Module, new_tokens: Sequence[int] = (), head: Sequence[str] = ()) -> nn.Module:
        """Returns `model` with every weight trainable, rows of new tokens and a fresh head among them."""
        return model.requires_grad_(True)
