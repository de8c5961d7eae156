"""Method Full: train every weight."""

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
        """Returns `model` with every weight trainable, including the rows of new tokens and a new head.

        A table that the model computes itself and never saves (Marian's positions) stays frozen: if it were trained, the
        model would read back with a different one.
        """
        model.requires_grad_(True)
        for name in getattr(model, "_keys_to_ignore_on_save", None) or ():
            # The list may hold patterns, and names of weights that this model does not have.
            with contextlib.suppress(AttributeError):
                model.get_parameter(name).requires_grad_(False)
        return model
