"""Whether a decoder can be exported to ONNX, told from its config before a weight is read or a graph is traced.

The exported graph has a cache of keys and values, one kind of attention, onnxruntime's GroupQueryAttention, and states of some
families' other layers. What needs more is refused here. What is let through is still traced, compared
with torch and refused where it differs.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    PretrainedConfig,
)

from ptune.backbone.text_alone import text_alone
from ptune.backbone.vision_language import in_three_dimensions, sees_images, why_blind

ATTENTION = ("full_attention", "sliding_attention")  # kinds of layers that GroupQueryAttention computes
_RECURRENCES = (
    "torch_chunk_gated_delta_rule",
    "chunk_kimi_delta_attention",
    "mamba2_chunk_scan",
    "mamba_selective_scan",
)
# Kinds of layers that keep states, and transformers' functions that have a place in the graph (`ptune.export.decoder.state_kinds`): such
# layers are exported where the model's code calls one. Layers of a hybrid kind attend as well.
WITH_STATES = {"conv": ("causal_conv1d_fn",), "linear_attention": _RECURRENCES, "hybrid": _RECURRENCES}
WITHOUT_EITHER = ("mlp", "moe")  # kinds of layers that see one token at a time
INSTEAD = "export a model with plain attention in all layers, such as Llama, Qwen3 or Gemma 3"

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_BY_DATA = re.compile(r"\.tolist\(\)|\.nonzero\(")  # in code that goes by what tokens chose
_STATE = ("mamba_d_state", "ssm_state_size", "state_size", "conv_L_cache", "linear_conv_kernel_dim")


def why_not_exportable(config: PretrainedConfig) -> str | None:
    """Why a decoder with this config cannot be exported, and what to do instead; None where nothing speaks against it.

    An encoder-decoder that generates text is exported as such, and None is returned for it.
    """
    if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING and config.is_encoder_decoder:
        return None
    if sees_images(config) and why_blind(config) is None:
        text = config.get_text_config()
        reason = _layers(text) if in_three_dimensions(config) else why_not_exportable(text)
        return None if reason is None else f"{config.model_type}, its text model: {reason}"
    config = text_alone(config)
    for look in (_of_another_kind, _several_parts, _layers, _heads, _attention, _experts):
        if (reason := look(config)) is not None:
            return f"{config.model_type} {reason}"
    return None


def _of_another_kind(config: PretrainedConfig) -> str | None:
    if config.is_encoder_decoder:
        return f"is an encoder-decoder that does not go from text to text; {INSTEAD}, or T5, BART or Marian"
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return "is an encoder, which writes no text; train a classifier or an embedding on it, and export its run"
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "auto_map", None) or _text(config):
        return None
    return f"is no causal language model that transformers knows; {INSTEAD}"


def _several_parts(config: PretrainedConfig) -> str | None:
    text = _text(config)
    if text is not None:
        others = " and ".join(sorted(_part(name) for name in config.sub_configs if name != "text_config"))
        alone = f"; save its text model ({text.model_type}) as a folder of its own and export that"
        if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING or why_not_exportable(text) is not None:
            alone = f", and its text model ({text.model_type}) could not be exported by itself; {INSTEAD}"
        return f"reads {others or 'more'} beside text, which the exported graph has no inputs for{alone}"
    if any(name in getattr(config, "sub_configs", {}) for name in ("vision_config", "audio_config")):
        return f"reads images or sound beside text, which the exported graph has no inputs for; {INSTEAD}"
    return None


def _layers(config: PretrainedConfig) -> str | None:
    kinds = getattr(config, "layer_types", None) or ()
    code = _code(config)
    others = [kind for kind in dict.fromkeys(kinds) if not _has_a_graph(kind, code)]
    if others:
        named = ", ".join(repr(kind) for kind in others)
        count = sum(kind in others for kind in kinds)
        return (
            f"has {count} of {len(kinds)} layers of kind {named}, and the exported graph computes full and sliding"
            f" attention, and of layers that keep a state only those whose recurrence it has; {INSTEAD}"
        )
    if "mamba_selective_scan" in code and getattr(config, "n_mamba_heads", None):
        return f"scans the heads of each layer that keeps a state one by one, and the exported graph has one scan a layer; {INSTEAD}"
    state = next((name for name in _STATE if getattr(config, name, None)), None)
    if state is not None and not kinds:
        return f"has layers that keep a state ({state} {getattr(config, state)}) instead of keys and values; {INSTEAD}"
    return None


def _has_a_graph(kind: str, code: str) -> bool:
    """Whether the exporter knows layers of a kind in a model with this code."""
    return kind in (*ATTENTION, *WITHOUT_EITHER) or any(name in code for name in WITH_STATES.get(kind, ()))


def _attends(config: PretrainedConfig) -> bool:
    """Whether any layer has attention."""
    kinds = getattr(config, "layer_types", None)
    return not kinds or any(kind in (*ATTENTION, "hybrid") for kind in kinds)


def _heads(config: PretrainedConfig) -> str | None:
    with contextlib.suppress(RuntimeError):  # transformers' answer where layers differ
        if _attends(config) and getattr(config, "num_attention_heads", None) is None:
            return f"has no attention heads: it keeps a state, or is made of several models; {INSTEAD}"
    return None


def _attention(config: PretrainedConfig) -> str | None:
    """Attention that GroupQueryAttention cannot stand in for, by the model's code: no config says it."""
    code = _code(config)
    if not code or not _attends(config):
        return None
    if "ALL_ATTENTION_FUNCTIONS" not in code:
        return f"computes attention in its own way, which cannot be replaced by onnxruntime's; {INSTEAD}"
    return None


def _code(config: PretrainedConfig) -> str:
    """The code of transformers for a decoder with this config; empty if it has none."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return ""
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return inspect.getsource(sys.modules[(kind[0] if isinstance(kind, tuple) else kind).__module__])


def _experts(config: PretrainedConfig) -> str | None:
    """Experts that are not computed by the function that a config names, by the model's code."""
    if not _has_experts(config):
        return None
    code = _code(config)
    if "@use_experts_implementation" in code or not _BY_DATA.search(code):
        return None
    return f"computes its experts in its own way, of which no product for each expert can be made; {INSTEAD}"


def _text(config: PretrainedConfig) -> PretrainedConfig | None:
    """The config of the text model inside one of several kinds of input."""
    text = getattr(config, "text_config", None)
    return text if isinstance(text, PretrainedConfig) else None


def _part(name: str) -> str:
    return {"vision": "images", "audio": "sound"}.get(name.removesuffix("_config"), "other input")


def _has_experts(config: PretrainedConfig) -> bool:
    """Whether a model has experts, and they are switched on where they are an option."""
    switched_on = all(getattr(config, name, True) for name in ("is_moe", "enable_moe_block"))
    places = (config, getattr(config, "ffn_config", None))  # DBRX has them in a config of its own
    counts = [getattr(place, name, None) or 0 for name in _EXPERTS for place in places]
    most = max(max(count) if isinstance(count, list | tuple) else int(count) for count in counts)
    return switched_on and most > 1
