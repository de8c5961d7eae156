"""The backbone's own dropout."""

from __future__ import annotations

from torch import nn

from ptune.errors import RecipeError


def set_dropout(model: nn.Module, probability: float) -> None:
    """Sets every dropout of `model`: its Dropout layers, and probabilities that layers store as numbers.

    Raises: RecipeError if the model has none, unless none is what it is to have.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
            changed += 1
        for name, value in list(vars(module).items()):
            if "dropout" in name and type(value) in (float, int):  # a config may say 0 for 0.0
                setattr(module, name, probability)
                changed += 1
    if not changed and probability:
        raise RecipeError(
            f"train.dropout: {type(model).__name__} has no dropout of its own; set method.dropout"
        )
