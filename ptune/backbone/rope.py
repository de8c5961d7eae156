"""Fixes rotary embeddings whose frequencies depend on the sequence length to one set of frequencies.

transformers chooses the frequencies of LongRoPE (https://arxiv.org/abs/2402.13753) and of dynamic NTK scaling in every
forward pass, by the largest position in the *whole batch*. A short prompt then gets different logits beside a long one than
alone, and cached keys may be rotated by other frequencies than the queries that read them. So one set is chosen by the
longest sequence that will be served, and training, export and serving all use it. The choice is stored in the config, so
that saved models keep it.

Every other kind (default, linear, llama3, yarn, proportional) has the same frequencies at every length; so has what Hunyuan
calls dynamic and gives an `alpha`. A kind that transformers does not know is refused by its name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ptune.errors import BackboneError

BY_LENGTH = ("longrope", "dynamic")
KNOWN = ("default", *ROPE_INIT_FUNCTIONS)
EXTENDED = (
    "ptune_extended_context"  # config field of a model whose frequencies differ from those of its pretraining
)


def with_fixed_rope(config: PretrainedConfig, context: int | None = None) -> PretrainedConfig:
    """The config with frequencies for sequences of up to `context` tokens, and that as its longest sequence.

    context: default: the length of the model's pretraining, with the original frequencies.
    Returns the same object if frequencies do not depend on the length.

    Raises: BackboneError where `context` is given and the model has one set of frequencies only, or no such length; where
    transformers does not know the kind.
    """
    _check_known(config)
    if not list(_by_length(config)):
        if context is not None:
            raise BackboneError(
                f"backbone.context {context} is for models whose rotary embedding depends on the length of a sequence"
                f" ({' or '.join(BY_LENGTH)}), and {config.model_type} has one for all lengths: leave it out"
            )
        return config
    config = copy.deepcopy(config)
    sets = list(_by_length(config))  # of the copy
    pretrained = min(_pretrained_length(config, parameters) for parameters in sets)
    chosen = pretrained if context is None else context
    for parameters in sets:
        fix = _fix_longrope if parameters["rope_type"] == "longrope" else _fix_dynamic
        fix(config, parameters, chosen)
    config.max_position_embeddings = chosen
    if chosen > pretrained:
        setattr(config, EXTENDED, chosen)
    return config


def drop_choice_by_length(model: nn.Module) -> None:
    """Removes the choice of frequencies from a model with a fixed config, where all choices are equal.

    So a traced graph contains no maximum over the positions of all sequences.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind == "longrope":
            module.rope_type = "default"
        elif isinstance(kind, dict):
            module.rope_type = {layer: "default" if one == "longrope" else one for layer, one in kind.items()}


def _check_known(config: PretrainedConfig) -> None:
    """Raises: BackboneError for a kind of rotary embedding that transformers cannot compute."""
    if getattr(config, "auto_map", None):  # the model's own code may know it
        return
    for parameters in _sets(config):
        kind = parameters.get("rope_type", "default")
        if kind not in KNOWN:
            raise BackboneError(
                f"config.json asks for the rotary embedding {kind!r}, and transformers knows {', '.join(KNOWN)}:"
                " take a model with one of these, or a newer transformers"
            )


def _by_length(config: PretrainedConfig) -> Iterator[dict[str, Any]]:
    """The rope parameters that depend on the length: the model's, or those of each layer type."""
    for one in _sets(config):
        if one.get("rope_type") in BY_LENGTH and not _is_fixed(config, one):
            yield one


def _sets(config: PretrainedConfig) -> list[dict[str, Any]]:
    """The rope parameters: the model's, or those of each layer type."""
    parameters = getattr(config, "rope_parameters", None) or {}
    sets = [parameters] if "rope_type" in parameters else list(parameters.values())
    return [one for one in sets if isinstance(one, dict)]


def _is_fixed(config: PretrainedConfig, parameters: dict[str, Any]) -> bool:
    if parameters["rope_type"] == "longrope":
        return bool(parameters["long_factor"] == parameters["short_factor"])
    return config.model_type.startswith("hunyuan") and bool(parameters.get("alpha"))


def _pretrained_length(config: PretrainedConfig, parameters: dict[str, Any]) -> int:
    """The length that the model was pretrained at, in tokens."""
    if parameters["rope_type"] == "longrope":
        outside = getattr(config, "original_max_position_embeddings", None)
        return int(outside or parameters["original_max_position_embeddings"])
    return int(config.max_position_embeddings)


def _fix_longrope(config: PretrainedConfig, parameters: dict[str, Any], context: int) -> None:
    """Keeps one of the two sets of factors. Raises: BackboneError if neither is for sequences of that length."""
    original, longest = _pretrained_length(config, parameters), int(config.max_position_embeddings)
    if context > longest:
        raise BackboneError(f"backbone.context may be {longest} at most, the model's longest (is {context})")
    if parameters.get("attention_factor") is None:
        # As transformers works it out; from here on max_position_embeddings would mislead it.
        factor = parameters.get("factor") or longest / original
        scaled = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        parameters["attention_factor"] = scaled
    name = "long_factor" if context > original else "short_factor"
    parameters["long_factor"] = parameters["short_factor"] = list(parameters[name])


def _fix_dynamic(config: PretrainedConfig, parameters: dict[str, Any], context: int) -> None:
    """Turns dynamic NTK scaling into the default type, with the base that it has at that length."""
    original = int(config.max_position_embeddings)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dim = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    factor = float(parameters.get("factor", 1.0))
    stretched = factor * max(context, original) / original - (factor - 1)
    parameters["rope_theta"] = parameters["rope_theta"] * stretched ** (dim / (dim - 2))
    parameters["rope_type"] = "default"
