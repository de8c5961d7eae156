"""Train every weight."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptune.spec import Spec

if TYPE_CHECKING:
    from torch import nn


class Full(Spec):
    """Full fine-tuning."""

    def apply(self, model: nn.Module, new_tokens: Sequence[int] = (), head: Sequence[str] = ()) -> nn.Module:
        """Returns `model` with every weight trainable, rows of new tokens and a fresh head among them.

        A table that the model works out itself and never saves (Marian's positions) stays as it is: trained, it would be
        another one when the model is read back.
        """
        model.requires_grad_(True)
        for name in getattr(model, "_keys_to_ignore_on_save", None) or ():
            with contextlib.suppress(
                AttributeError
            ):  # it may name weights that this model has not, or patterns
                model.get_parameter(name).requires_grad_(False)
        return model
