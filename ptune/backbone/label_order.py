"""A published head's outputs, put in the order of the labels that it is to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from transformers import PreTrainedModel


def published_outputs(id2label: Mapping[int, str] | None, labels: Sequence[str]) -> list[int] | None:
    """The output that a published head has for each label; None where it has other labels.

    id2label: of the model's config. It names each output by its index; the order in which a file lists them means nothing, and
    in many "10" stands before "2".
    """
    outputs = {label: index for index, label in (id2label or {}).items()}
    named = outputs.keys() == {*labels} and sorted(outputs.values()) == [*range(len(labels))]
    return [outputs[label] for label in labels] if named else None


def output_layers(model: PreTrainedModel, count: int) -> list[str]:
    """Names of the layers behind the body that have so many outputs: those of the labels' logits."""
    return [
        name
        for name, layer in model.named_modules()
        if not name.startswith(f"{model.base_model_prefix}.")
        and isinstance(layer, nn.Linear | nn.Conv2d)
        and layer.weight.shape[0] == count
    ]


def put_in_order(model: nn.Module, layers: Sequence[str], outputs: Sequence[int]) -> None:
    """Gives these layers' outputs another order: the first will be what was output number outputs[0]."""
    for layer in map(model.get_submodule, layers):
        for parameter in layer.parameters():
            parameter.data = parameter.data[list(outputs)]
