"""A GGUF file of a tiny Llama, laid out as llama.cpp's converter does it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
from transformers import PreTrainedModel

from ptune.export.gguf.write import add_value
from support import tiny_models

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(
    path: Path,
    *,
    licence: str = "mit",
    model: PreTrainedModel | None = None,
    pre: str | None = None,
    stored: Mapping[str, tuple[np.ndarray, gguf.GGMLQuantizationType]] | None = None,
    rope: Mapping[str, str | float | int] = MappingProxyType({}),
    tensors: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> PreTrainedModel:
    """Writes a Llama in float32 and returns the model itself; default: the tiny one of seed 0.

    pre: what the file calls its way of splitting text. stored: bytes of tensors in other types, by their names in the file.
    rope: what is said of the rotary embedding beside its base. tensors: further ones.
    """
    model = model or tiny_models.model("llama")
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_license(licence)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    for key, value in rope.items():
        add_value(writer, f"llama.rope.{key}", value)
    for key, further in tensors.items():
        writer.add_tensor(key, further)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        for suffix, count in heads.items():
            if suffix in name:
                array = _interleaved(array, count)
        data, kind = (stored or {}).get(_name(name), (np.ascontiguousarray(array), None))
        writer.add_tensor(_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not name.startswith("model.layers."):
        return fixed.get(name, "output.weight")
    block, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{block}.{NAMES[rest.removesuffix('.weight')]}.weight"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF pairs neighbouring rotary dimensions, transformers the two halves of a head."""
    out_features, in_features = weight.shape
    halves = weight.reshape(heads, 2, out_features // heads // 2, in_features)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokenizer = tiny_models.tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in tiny_models.SPECIAL else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(tiny_models.CHATML)
