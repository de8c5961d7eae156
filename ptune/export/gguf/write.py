"""Writes a model in torch as a GGUF file, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from ptune.errors import UsageError
from ptune.export.gguf.families import (
    Family,
    Value,
    family_of,
    heads_of,
    keys_of,
    order_of,
    ordered,
    restored,
    rope_factors,
)
from ptune.export.gguf.rounding import Quantizer, file_type, left_of, stored, stored_size, type_of
from ptune.export.gguf.vocabulary import Vocabulary


@dataclass(frozen=True)
class Facts:
    """What a file says of itself, for people."""

    name: str
    licence: str
    context: int


class Names:
    """transformers' names of a model's weights in llama.cpp's."""

    def __init__(self, config: Any, family: Family) -> None:
        architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
        self._map = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)

    def of(self, name: str) -> str:
        """Raises: UsageError for a weight that llama.cpp has no place for."""
        found = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UsageError(f"--gguf: llama.cpp has no place for the weight {name}")
        return str(found)


def write_model(
    path: Path,
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    pre: str,
    facts: Facts,
    wanted: str,
    quantizer: Quantizer,
) -> None:
    """Writes the file. The model's weights become what is left of them in it, so that both sides compute with the same.

    wanted: a type of `ptune.formats.gguf_export.GgufType` other than auto.
    """
    config = model.config.get_text_config()
    family, names = family_of(config), Names(config, family_of(config))
    writer = gguf.GGUFWriter(path, family.architecture)
    _describe(writer, config, family, facts)
    writer.add_file_type(file_type(wanted))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    vocabulary.write(writer, pre)
    weights = dict(model.named_parameters())
    plan = []
    for own, weight in weights.items():
        name, order = names.of(own), order_of(own, family, weight.ndim)
        shape = tuple(reversed(weight.shape)) if order == "transposed" else tuple(weight.shape)
        kind = type_of(name, shape, wanted)
        plan.append((own, name, order, kind))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), stored_size(shape, kind), raw_dtype=kind)
    factors = rope_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for own, _, order, kind in plan:
        heads = heads_of(own, config) if order == "rotary" else 1
        array = ordered(weights[own].detach().float().numpy(), order, heads)
        data = stored(array, kind, quantizer)
        writer.write_tensor_data(data)
        with torch.no_grad():
            weights[own].copy_(
                torch.from_numpy(restored(left_of(data, kind).reshape(array.shape), order, heads))
            )
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: Any, family: Family, facts: Facts) -> None:
    writer.add_type("model")
    writer.add_name(facts.name)
    writer.add_license(facts.licence)
    for key, value in {"context_length": facts.context, **keys_of(config, family)}.items():
        add_value(writer, f"{family.architecture}.{key}", value)


def add_value(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    """Adds a key with the type that llama.cpp reads it in."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def write_carrier(path: Path, vocabulary: Vocabulary, pre: str) -> None:
    """The smallest model that brings a tokenizer: llama.cpp opens it in a moment."""
    width, kind = 32, gguf.GGMLQuantizationType.Q4_0
    writer = gguf.GGUFWriter(path, "llama")
    said: dict[str, Value] = {
        "context_length": 64, "embedding_length": width, "block_count": 1, "feed_forward_length": width,
        "attention.head_count": 1, "attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": width, "vocab_size": len(vocabulary.tokens),
    }  # fmt: skip
    for key, value in said.items():
        add_value(writer, f"llama.{key}", value)
    vocabulary.write(writer, pre)
    bytes_of_row = stored_size((1, width), kind)
    writer.add_tensor(
        "token_embd.weight", np.zeros((len(vocabulary.tokens), bytes_of_row), np.uint8), raw_dtype=kind
    )
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(width, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((width, width), np.float32))
    finish(writer)


def copy_with(source: Path, target: Path, changed: Mapping[str, Any]) -> None:
    """A GGUF file with other values of some keys of text; its tensors stay byte for byte."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.get_field("general.architecture").contents()))
    copy_fields(reader, writer, changed)
    for key in changed:
        if reader.get_field(key) is None:
            writer.add_string(key, changed[key])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    finish(writer)


def copy_fields(
    reader: gguf.GGUFReader,
    writer: gguf.GGUFWriter,
    changed: Mapping[str, Any] = MappingProxyType({}),
    without: tuple[str, ...] = (),
) -> None:
    """What a file says besides its tensors, with other values for some, and `without` some."""
    for name, one in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", *without):
            continue
        sub = one.types[1] if len(one.types) > 1 else None
        writer.add_key_value(name, changed.get(name, one.contents()), one.types[0], sub)


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes everything that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
