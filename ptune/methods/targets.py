"""Which layers an adapter goes beside."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from ptune.errors import RecipeError
from ptune.methods.expert_names import names_of_experts, refuse_experts
from ptune.methods.image_layers import adaptable, is_image_model
from ptune.methods.text_part import text_part

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# peft refuses these beside Mamba's layers (its `_check_lora_target_modules_mamba`), whose fast kernels read their weights.
_REFUSED = {"out_proj": ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")}

Targets: TypeAlias = Literal["all-linear"] | tuple[str, ...]


def targets_of(
    model: PreTrainedModel,
    targets: Targets,
    exclude: Sequence[str],
    layers: Sequence[int],
    head: Sequence[str],
    *,
    convolutions: bool,
) -> str | list[str]:
    """peft's `target_modules`: full names where the recipe leaves layers out or the model sees images; else as in the recipe. Of a model that
    reads images beside text, layers of its decoder alone.

    exclude: names or endings of layers that are not adapted. layers: numbers of the blocks to adapt; empty: all.
    convolutions: whether the method can adapt those of image models.

    Raises: RecipeError if a name or number matches no layer, or none is left.
    """
    inside = f"{text_part(model)}."
    names = [name for name, _ in model.named_modules() if name and f"{name}.".startswith(inside.lstrip("."))]
    if not isinstance(targets, str):
        _check_names("target_modules", targets, names)
        refuse_experts(model, targets)
        _refuse_routers(model, targets)
    of_experts, beyond = names_of_experts(model), _out_of_reach(model)
    left_out = bool(of_experts or beyond)
    if is_image_model(model):
        found = _image_layers(model, targets, head, convolutions)
    elif not exclude and not layers and inside == "." and not (left_out and isinstance(targets, str)):
        return targets if isinstance(targets, str) else list(targets)
    elif isinstance(targets, str):
        linear = [name for name in linear_layers(model, head) if name in {*names} - beyond]
        found = [name for name in linear if name.rpartition(".")[2] not in of_experts]
    else:
        found = [name for name in names if ends_with(name, targets)]
    return among(model, found, exclude, layers)


def among(
    model: PreTrainedModel, found: Sequence[str], exclude: Sequence[str], layers: Sequence[int]
) -> list[str]:
    """Those of some layers that are not excluded, in the blocks of these numbers. Raises: RecipeError as `targets_of`."""
    _check_names("exclude_modules", exclude, [name for name, _ in model.named_modules() if name])
    left = [name for name in found if not ends_with(name, exclude)]
    if not left:
        raise RecipeError("method.exclude_modules leaves no layer to adapt: exclude fewer")
    return _in_blocks(left, layers) if layers else left


def linear_layers(model: PreTrainedModel, head: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers, without the output head and the modules in `head`."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output, beyond = model.get_output_embeddings(), tuple(f"{name}." for name in head)
    return [
        name
        for name, one in model.named_modules()
        if isinstance(one, nn.Linear | Conv1D) and one is not output and not f"{name}.".startswith(beyond)
    ]


def _out_of_reach(model: PreTrainedModel) -> set[str]:
    """Linear layers that no adapter reaches: of state spaces those that peft refuses, and dt_proj, whose weight Mamba reads itself; routers
    that choose experts in their own `forward`.
    """
    modules = dict(model.named_modules())
    read = {
        f"{name}.dt_proj"
        for name, one in modules.items()
        if hasattr(one, "A_log") and hasattr(one, "dt_proj")
    }
    kind = model.config.model_type
    refused = [leaf for leaf, kinds in _REFUSED.items() if kind in kinds]
    return read | _routers(model) | {name for name in modules if ends_with(name, refused)}


def _routers(model: PreTrainedModel) -> set[str]:
    """Linear layers of a family's own code that compute more than a product, such as Phi's routers: beside them peft would add to a tuple."""
    from torch import nn

    return {
        name
        for name, one in model.named_modules()
        if isinstance(one, nn.Linear)
        and type(one).forward is not nn.Linear.forward
        and type(one).__module__.startswith(("transformers.models.", "transformers_modules."))
    }


def _refuse_routers(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raises: RecipeError for a target that computes more than a product."""
    for router in sorted(_routers(model)):
        for target in targets:
            if ends_with(router, (target,)):
                raise RecipeError(
                    f"method.target_modules: {target!r} of {type(model).__name__} chooses experts beside its product, and no adapter fits"
                    " beside that: leave it out"
                )


def _in_blocks(names: Sequence[str], layers: Sequence[int]) -> list[str]:
    """The names inside blocks of these numbers. Raises: RecipeError for a number that no block has."""
    numbers = {name: [int(part) for part in re.findall(r"\.(\d+)\.", name)] for name in names}
    known = {found[0] for found in numbers.values() if found}
    for layer in layers:
        if layer not in known:
            raise RecipeError(
                f"method.layers_to_transform: there is no block {layer} with such layers; the blocks are"
                f" {', '.join(map(str, sorted(known))) or 'not numbered'}"
            )
    return [name for name in names if numbers[name] and numbers[name][0] in layers]


def _image_layers(
    model: PreTrainedModel, targets: Targets, head: Sequence[str], convolutions: bool
) -> list[str]:
    """Full names of the layers of an image model to adapt (peft's all-linear ignores convolutions).

    Raises: RecipeError if there is none, or a name matches no layer that can be adapted.
    """
    from torch import nn

    layers = adaptable(model, head)
    if not convolutions:
        layers = [name for name in layers if isinstance(model.get_submodule(name), nn.Linear)]
    if not layers:
        raise RecipeError(
            f"peft cannot adapt {type(model.base_model).__name__}: use FreezeExceptLast or Full"
            if convolutions
            else f"method: {type(model.base_model).__name__} has no linear layers in its body, and this method adapts no"
            " convolutions: use Lora, FreezeExceptLast or Full"
        )
    if isinstance(targets, str):
        return layers
    for target in targets:
        if not any(ends_with(name, (target,)) for name in layers):
            raise RecipeError(
                f"method.target_modules: {target!r} names no linear layer or plain convolution of the body"
                " (grouped ones and those that pad by the image's size stay frozen)"
            )
    return [name for name in layers if ends_with(name, targets)]


def ends_with(name: str, endings: Sequence[str]) -> bool:
    """Whether a layer's name is one of these, or ends with one at a dot."""
    return any(f".{name}".endswith(f".{ending}") for ending in endings)


def _check_names(field: str, wanted: Sequence[str], modules: Sequence[str]) -> None:
    """Raises: RecipeError if a name matches no layer; peft ignores it as long as another one matches."""
    for target in wanted:
        if not any(ends_with(name, (target,)) for name in modules):
            known = {name.rpartition(".")[2] for name in modules}
            close = difflib.get_close_matches(target, sorted(known), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise RecipeError(f"method.{field}: the model has no layer named {target!r}{hint}")
