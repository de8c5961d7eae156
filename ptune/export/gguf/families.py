"""The families that are written as GGUF: what llama.cpp wants to know of each, and in which order it wants weights.

A family is here because a model of it with random weights answers in llama.cpp what it answers in torch
(tests/publish/test_gguf.py). Others are refused, since llama.cpp would load many of them and compute something else.
Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptune.errors import UsageError

Weights = NDArray[np.float32]
Order = Literal["same", "rotary", "plus one", "transposed"]
Value = int | float | str | bool


@dataclass(frozen=True)
class Family:
    """How models of one `model_type` are written."""

    architecture: str  # as llama.cpp calls it
    rotary: bool = False  # rows of q and k that rotate together are neighbours
    plus_one: bool = False  # norms multiply by 1 + weight
    transposed: bool = False  # Conv1D keeps its weights [in, out]
    keys: Callable[[Any], Mapping[str, Value]] = field(default=lambda config: {})


def _gemma2(config: Any) -> dict[str, Value]:
    return {
        "attn_logit_softcapping": float(config.attn_logit_softcapping or 0),
        "final_logit_softcapping": float(config.final_logit_softcapping or 0),
        "attention.sliding_window": config.sliding_window,
    }


def _gemma3(config: Any) -> dict[str, Value]:
    near = config.rope_parameters["sliding_attention"]
    return {"attention.sliding_window": config.sliding_window, "rope.freq_base_swa": near["rope_theta"]}


FAMILIES: Mapping[str, Family] = {
    "gemma": Family("gemma", plus_one=True),
    "gemma2": Family("gemma2", plus_one=True, keys=_gemma2),
    "gemma3_text": Family("gemma3", plus_one=True, keys=_gemma3),
    "gpt2": Family("gpt2", transposed=True),
    "llama": Family("llama", rotary=True),
    "mistral": Family("llama", rotary=True),
    "phi3": Family("phi3"),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
}

_LARGEST = {
    "gemma2": 46,
    "gemma3_text": 62,
}  # layers of the 27B models, whose heads llama.cpp scales otherwise
_EVERY = {"gemma2": 2, "gemma3_text": 6}  # of so many layers the last one sees all tokens


def family_of(config: Any) -> Family:
    """Raises: UsageError for a model that would be another one in llama.cpp, with the reason."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(FAMILIES)
        raise UsageError(f"--gguf: models of type {config.model_type} are not written as GGUF, only {known}")
    if (reason := _otherwise(config)) is not None:
        raise UsageError(f"--gguf: llama.cpp computes this {config.model_type} otherwise: {reason}")
    return family


def _otherwise(config: Any) -> str | None:
    """What the config asks for and llama.cpp does not do."""
    kinds = {rope["rope_type"] for rope in _ropes(config)} - {"default", "linear", "llama3"}
    if kinds:
        return f"its rotary frequencies are of type {kinds.pop()}"
    if getattr(config, "use_sliding_window", False):
        return "its attention slides in some layers"
    if getattr(config, "attention_bias", False) and config.model_type == "qwen3":
        return "its attention has biases"
    if (every := _EVERY.get(config.model_type)) is not None:
        wanted = [
            "full_attention" if (at + 1) % every == 0 else "sliding_attention"
            for at in range(config.num_hidden_layers)
        ]
        if list(config.layer_types) != wanted:
            return "its layers slide in another order"
        whole = config.num_hidden_layers == _LARGEST[config.model_type]
        scalar = config.hidden_size / config.num_attention_heads if whole else config.head_dim
        if config.query_pre_attn_scalar != scalar:
            return f"query_pre_attn_scalar is {config.query_pre_attn_scalar:g}, not {scalar:g}"
    if config.model_type == "gemma3_text" and (
        config.attn_logit_softcapping or config.final_logit_softcapping
    ):
        return "it caps its logits"
    if config.model_type == "gpt2" and (
        config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights
    ):
        return "its scores are scaled otherwise"
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    activation = activation or config.activation_function
    gelu = config.model_type.startswith(("gemma", "gpt2"))
    wanted_here = ("gelu_pytorch_tanh", "gelu_new", "gelu_pytorch") if gelu else ("silu",)
    if config.model_type != "gemma" and activation not in wanted_here:
        return f"its activation is {activation}"
    return None


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """Rotary parameters of all kinds of layers; none of a model with positions of its own."""
    given = getattr(config, "rope_parameters", None)
    if not given:
        return []
    return [given] if "rope_type" in given else [*given.values()]


def context_of(config: Any, served: int | None) -> int:
    """Tokens up to which llama.cpp computes what torch does.

    Where attention slides in all layers (Mistral 0.1, Phi-3), llama.cpp lets it see everything: the same up to the window.
    served: longest sequence of the codec.
    """
    longest = min(served or config.max_position_embeddings, config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    if config.model_type in ("mistral", "phi3") and window:
        longest = min(longest, window)
    return int(longest)


def head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def keys_of(config: Any, family: Family) -> dict[str, Value]:
    """Everything about the model that is no tensor and no tokenizer, without the context's length."""
    heads, width = config.num_attention_heads, head_width(config)
    keys: dict[str, Value] = {
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": getattr(config, "intermediate_size", None)
        or getattr(config, "n_inner", None)
        or 4 * config.hidden_size,
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", heads),
        "vocab_size": config.vocab_size,
    }
    if config.model_type == "gpt2":
        return {**keys, "attention.layer_norm_epsilon": config.layer_norm_epsilon}
    ropes = _ropes(config)
    far = getattr(config, "rope_parameters", {}).get("full_attention", ropes[0])
    turned = int(width * far.get("partial_rotary_factor", 1.0))
    keys |= {
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": turned,
        "rope.freq_base": float(far["rope_theta"]),
    }
    if far["rope_type"] == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(far["factor"])}
    return {**keys, **family.keys(config)}


def rope_factors(config: Any) -> Weights | None:
    """By what each frequency of Llama 3's is divided, [width / 2]; None for other models.

    Source: transformers' `_compute_llama3_parameters`, after Llama 3.1's own code.
    """
    far = next((rope for rope in _ropes(config) if rope["rope_type"] == "llama3"), None)
    if far is None:
        return None
    width = head_width(config)
    frequencies = far["rope_theta"] ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    lengths = 2 * math.pi / frequencies
    before, low, high = (
        far[f"{name}"] for name in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    )
    smooth = np.clip((before / lengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - smooth) / far["factor"] + smooth)).astype(np.float32)


def order_of(name: str, family: Family, dimensions: int) -> Order:
    """What is done to a weight of transformers' name."""
    if family.rotary and name.endswith(("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")):
        return "rotary"
    if family.plus_one and name.endswith("norm.weight"):
        return "plus one"
    if family.transposed and dimensions == 2 and ".h." in name:
        return "transposed"
    return "same"


def heads_of(name: str, config: Any) -> int:
    """Heads that the rows of q's or k's weights belong to."""
    return int(config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)


def ordered(weights: Weights, order: Order, heads: int) -> Weights:
    """A weight as llama.cpp wants it."""
    if order == "rotary":
        return _regrouped(weights, heads, 2)
    if order == "plus one":
        return weights + np.float32(1)
    return np.ascontiguousarray(weights.T) if order == "transposed" else weights


def restored(weights: Weights, order: Order, heads: int) -> Weights:
    """The way back."""
    if order == "rotary":
        return _regrouped(weights, heads, len(weights) // heads // 2)
    if order == "plus one":
        return weights - np.float32(1)
    return np.ascontiguousarray(weights.T) if order == "transposed" else weights


def _regrouped(weights: Weights, heads: int, groups: int) -> Weights:
    """Rows [heads, groups, rest, …] in the order [heads, rest, groups, …].

    transformers rotates the two halves of a head, llama.cpp neighbouring rows.
    """
    parted = weights.reshape(heads, groups, -1, *weights.shape[1:])
    return np.ascontiguousarray(parted.swapaxes(1, 2).reshape(weights.shape))
