"""The layers of image models: which can be adapted, and which are the last ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptune.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def is_image_model(model: nn.Module) -> bool:
    """Whether a transformers model takes pixels."""
    return getattr(model, "main_input_name", "") == "pixel_values"


def adaptable(model: PreTrainedModel, head: Sequence[str] = ()) -> list[str]:
    """Names of the body's linear layers and ungrouped convolutions, which can get a low-rank update.

    Subclasses are left out: a convolution that pads by the image's size (timm's "same") or standardises its weights
    computes something else than a plain convolution.
    """
    from torch import nn

    if getattr(
        model.config, "tf_padding", False
    ):  # MobileNet reads its convolutions' fields, which peft hides
        return []
    prefix = f"{model.base_model_prefix}."
    beyond = tuple(f"{name}." for name in (*head, *_beyond(model)))
    return [
        name
        for name, layer in model.named_modules()
        if name.startswith(prefix)
        and not f"{name}.".startswith(beyond)
        and (type(layer) is nn.Linear or (type(layer) is nn.Conv2d and _is_plain(layer)))
    ]


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _beyond(model: PreTrainedModel) -> list[str]:
    """Modules inside the body that follow its hidden states: a pooler, or the head of a timm model."""
    prefix, body = model.base_model_prefix, model.base_model
    if hasattr(body, "get_classifier"):
        heads = body.get_classifier()
        layers = {id(layer) for layer in (heads if isinstance(heads, tuple | list) else [heads])}
        named = [name for name, layer in body.named_modules() if id(layer) in layers]
        after = (
            "head",
            "fc_norm",
            "head_drop",
            "attn_pool",
            "global_pool",
        )  # used by timm's forward_head
        named += [name for name, _ in body.named_children() if name in after]
    else:
        named = ["pooler"] if getattr(body, "pooler", None) is not None else []
    return [f"{prefix}.{name}" for name in named]


def last_parts(model: PreTrainedModel, count: int) -> list[nn.Module]:
    """The last `count` blocks (stages of a convolutional network), and everything in the body after them.

    Raises: RecipeError if there are fewer.
    """
    body = model.base_model
    blocks = _blocks(body)
    if count > len(blocks):
        raise RecipeError(f"method.layers is {count}, but the model has {len(blocks)} blocks")
    path, parts = blocks[-count].split("."), [body.get_submodule(blocks[-count])]
    for depth in reversed(range(len(path))):
        siblings = list(body.get_submodule(".".join(path[:depth])).named_children())
        place = [name for name, _ in siblings].index(path[depth])
        parts += [part for _, part in siblings[place + 1 :]]
    return parts


def _blocks(body: nn.Module) -> list[str]:
    """Names of the blocks: among series of modules whose names differ only in a number, the one with the most weights.

    Examples: encoder.stages.0, .1, … or layer1, layer2, …. A series nested in a block has fewer weights than the outer one.
    """
    best: list[str] = []
    most = 0
    for name, module in body.named_modules():
        series: dict[str, list[tuple[str, int]]] = {}
        for child_name, child in module.named_children():
            size = sum(parameter.numel() for parameter in child.parameters())
            if size:
                kind = child_name.rstrip("0123456789")
                series.setdefault(kind, []).append((f"{name}.{child_name}".lstrip("."), size))
        for members in series.values():
            total = sum(size for _, size in members)
            if len(members) > 1 and total > most:
                best, most = [member for member, _ in members], total
    return best
