"""Names of layers that peft takes for the experts of a mixture.

Some mixtures' experts and routers were linear layers in transformers 4, and are weights of three dimensions now. For these peft
reads a target such as gate_proj, and each of them where all linear layers are asked for, as the weights that have taken their
place. ptune adapts those where `method.target_parameters` names them, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ptune.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def names_of_experts(model: PreTrainedModel) -> frozenset[str]:
    """The last parts of such names in this model, as peft knows them."""
    from peft.utils import transformers_weight_conversion as conversion

    family = conversion._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    return frozenset(conversion._MOE_TARGET_MODULE_MAPPING.get(family, ()))


def refuse_experts(model: PreTrainedModel, targets: Iterable[str]) -> None:
    """Raises: RecipeError for a target that peft would take for experts."""
    for target in targets:
        if target.rpartition(".")[2] in names_of_experts(model):
            raise RecipeError(
                f"method.target_modules: peft takes {target!r} for the experts of {type(model).__name__}: leave it out, or name"
                " experts in method.target_parameters (mlp.experts.gate_up_proj)"
            )
