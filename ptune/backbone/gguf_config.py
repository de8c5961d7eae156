"""What a GGUF file says of a model's rotary embedding and scores, and transformers leaves unread.

A model whose frequencies are stretched for long texts (Llama 3.1 and later, Gemma 3, Phi with 128k, YaRN) would be another model without
it, from the first tokens on.
Keys and tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; which scores llama.cpp scales otherwise: its llama-model.cpp
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ptune.errors import BackboneError

Factors = NDArray[np.float64]
_READ_BY_TRANSFORMERS = frozenset({"gpt-oss", "gemma4"})
_LARGEST = {
    "gemma2": 46,
    "gemma3_text": 62,
}  # layers of the 27B models, whose scores are scaled by their width
_HIGH, _ORIGINAL = 4.0, 8192  # high_freq_factor and original length of every Llama 3 that Meta published
_CLOSE = 1e-4  # relative, of frequencies


def complete(config: PretrainedConfig, file: Path) -> None:
    """Sets what the file says and transformers has not read, in place. Raises: BackboneError where ptune cannot follow it."""
    from gguf import GGUFReader

    reader = GGUFReader(str(file))  # as transformers names it, so that `read_once` parses the file once
    architecture = str(reader.get_field("general.architecture").contents())
    if architecture in _READ_BY_TRANSFORMERS or not getattr(config, "rope_parameters", None):
        return

    def said(key: str) -> Any:
        field = reader.get_field(f"{architecture}.rope.{key}")
        return None if field is None else field.contents()

    tensors = {
        one.name: np.asarray(one.data, np.float64) for one in reader.tensors if one.name.startswith("rope_f")
    }
    rope: dict[str, Any] = config.rope_parameters
    rope = rope if "rope_type" in rope else rope["full_attention"]
    if architecture == "phi3" and (turned := said("dimension_count")) is not None:
        rope["partial_rotary_factor"] = turned / _head_width(config)
    kind, factor = said("scaling.type"), said("scaling.factor")
    if (factors := tensors.get("rope_freqs.weight")) is not None:
        _stretch_as_llama3(config, rope, factors, file)
    elif (longer := tensors.get("rope_factors_long.weight")) is not None:
        original = int(said("scaling.original_context_length") or config.max_position_embeddings)
        config.original_max_position_embeddings = original
        rope |= {
            "rope_type": "longrope",
            "long_factor": longer.tolist(),
            "short_factor": tensors["rope_factors_short.weight"].tolist(),
            "original_max_position_embeddings": original,
        }
        if (scaled := said("scaling.attn_factor")) is not None:
            rope["attention_factor"] = scaled
    elif kind == "linear" and factor:
        rope |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn" and factor:
        original = int(said("scaling.original_context_length") or config.max_position_embeddings)
        rope |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    elif kind not in (None, "none", "linear", "yarn"):
        raise _refusal(file, f"are of type {kind!r}")
    if (layers := _LARGEST.get(config.model_type)) is not None:
        whole = config.num_hidden_layers == layers
        wide = config.hidden_size // config.num_attention_heads
        config.query_pre_attn_scalar = wide if whole else config.head_dim


def _stretch_as_llama3(config: PretrainedConfig, rope: dict[str, Any], factors: Factors, file: Path) -> None:
    """Sets the parameters of Llama 3's way of which a file holds the result, by what each frequency is divided."""
    most = float(factors.max())
    if most == 1:
        return
    width = 2 * len(factors)
    frequencies = rope["rope_theta"] ** -(np.arange(0, width, 2) / width)
    for high, original in ((_HIGH, _ORIGINAL), *_solved(frequencies, factors, most)):
        tried = copy.deepcopy(config)
        parameters = {
            "rope_type": "llama3", "rope_theta": rope["rope_theta"], "factor": most, "low_freq_factor": 1.0,
            "high_freq_factor": high, "original_max_position_embeddings": original,
        }  # fmt: skip
        tried.rope_parameters = parameters
        found, _ = ROPE_INIT_FUNCTIONS["llama3"](tried, "cpu")
        if len(found) == len(factors) and np.allclose(found.numpy(), frequencies / factors, rtol=_CLOSE):
            rope |= parameters
            return
    raise _refusal(file, "are divided by factors that are not of Llama 3's kind")


def _solved(frequencies: Factors, factors: Factors, most: float) -> list[tuple[float, int]]:
    """high_freq_factor and the original length, from the frequencies in between; low_freq_factor is 1.

    In between, the share of a frequency that stays is linear in how often it turns within the original length. Multiplied by one number,
    all three give the same, so that one of them may be chosen.
    """
    share = (1 / factors - 1 / most) / (1 - 1 / most)
    between = (share > _CLOSE) & (share < 1 - _CLOSE)
    turns, share = frequencies[between] / (2 * math.pi), share[between]
    if not len(share):
        return []
    found = [(_HIGH, round(float(np.median((share * (_HIGH - 1) + 1) / turns))))]
    if len(share) > 1:
        slope, start = np.polyfit(turns, share, 1)
        found.append((round(float(1 - 1 / start), 3), round(float(-slope / start))))
    return found


def _head_width(config: PretrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _refusal(file: Path, reason: str) -> BackboneError:
    return BackboneError(
        f"{file.name}: its rotary frequencies {reason}, which ptune does not read from GGUF: name the folder of the model's"
        " original weights"
    )
