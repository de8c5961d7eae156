"""Leaves layers of a pretrained decoder out: the start of a smaller student, which learns to do without them.

The layers that stay are numbered anew, as in a model that never had the others: it is saved, hashed, exported and served as such.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ptune.backbone.streaming import layers_of
from ptune.errors import BackboneError


def config_with_layers(config: PretrainedConfig, keep: Sequence[int]) -> PretrainedConfig:
    """The config with these layers only, in ascending order; `config` itself for none.

    Raises: BackboneError where the model has no layer of such a number, or two stacks of layers.
    """
    if not keep:
        return config
    if config.is_encoder_decoder:
        raise BackboneError(f"backbone.keep_layers is for causal models, and {config.model_type} is none")
    config = copy.deepcopy(config)
    text = config.get_text_config()
    count = text.num_hidden_layers
    if keep[-1] >= count:
        raise BackboneError(
            f"backbone.keep_layers: there is no layer {keep[-1]}; {config.model_type} has {count} here, from 0 to {count - 1}"
        )
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == count:  # such as the kind of attention of each layer
            setattr(text, name, [value[number] for number in keep])
    text.num_hidden_layers = len(keep)
    return config


def keep_layers(model: PreTrainedModel, keep: Sequence[int]) -> None:
    """Takes all other layers out of a model, and out of its config. Raises: BackboneError, as `config_with_layers`."""
    if not keep:
        return
    kept = config_with_layers(model.config, keep)
    layers = layers_of(model)
    blocks = next(
        module for module in model.modules() if isinstance(module, nn.ModuleList) and list(module) == layers
    )
    for number in sorted(set(range(len(layers))) - {*keep}, reverse=True):
        del blocks[number]
    for number, layer in enumerate(blocks):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # its place in a cache
                module.layer_idx = number
    text, chosen = model.config.get_text_config(), kept.get_text_config()
    for name, value in vars(chosen).items():  # in place: the modules hold this config
        setattr(text, name, value)
