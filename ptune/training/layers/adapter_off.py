"""A model as it was before an adapter was put into it: the reference of preferences and of reinforcement, without a second model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import PreTrainedModel


@contextlib.contextmanager
def without_adapter(base: PreTrainedModel) -> Iterator[None]:
    """Within the block, `base` answers as it did before an adapter was put into it."""
    layers = [
        module for module in base.modules() if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    trained = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, was in trained:  # peft makes every weight of an adapter a trained one
            parameter.requires_grad_(was)


def adapter_off(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """A block in which the adapter of peft's whole model is off, virtual tokens included; one without an adapter stays as it is."""
    return model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()
