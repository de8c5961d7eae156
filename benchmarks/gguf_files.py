"""What llama.cpp reads: SmolLM2's weights as Q8_0, and LoRA adapters that peft wrote.

llama.cpp's own converters start from a transformers folder. Here the GGUF file that ptune itself reads is the source, so
that both sides stand on the same dequantised weights, in the order of rows that llama.cpp wants.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def source_file(model: str) -> Path:
    """The GGUF file of a model that ptune reads from one."""
    from ptune.backbone.locate import locate

    source = locate(model)
    if source.gguf is None:
        raise SystemExit(
            f"{model} does not come as a GGUF file, so llama.cpp would not read the same weights"
        )
    return Path(source.path) / source.gguf


_TYPE = ("general.file_type",)


@dataclass(frozen=True)
class Shape:
    """A Llama's."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int


SHAPES = {
    "tiny": Shape(128, 256, 2, 4, 2),  # for trying this out
    "1b": Shape(2048, 5632, 22, 32, 4),  # TinyLlama
    "3b": Shape(3072, 8192, 28, 24, 8),  # Llama 3.2
}


def write_random(like: Path, shape: Shape, target: Path) -> Path:
    """A Llama of this shape with random weights in Q4_1, its head its own, with the tokenizer of `like`."""
    import gguf
    import numpy as np

    from ptune.export.gguf.write import copy_fields, finish

    if target.is_file():
        return target
    own = {
        "llama.embedding_length": shape.width,
        "llama.block_count": shape.layers,
        "llama.feed_forward_length": shape.inner,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.rope.dimension_count": shape.width // shape.heads,
    }
    reader = gguf.GGUFReader(like)
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    copy_fields(reader, writer, own, without=_TYPE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    drawn, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q4_1
    vocabulary = next(int(one.shape[1]) for one in reader.tensors if one.name == "token_embd.weight")
    for name, size in _tensors(shape, vocabulary):
        if len(size) == 1:
            writer.add_tensor(name, np.ones(size, np.float32))
        else:
            weights = drawn.standard_normal(size, np.float32) * np.float32(size[1] ** -0.5)
            writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
    finish(writer)
    part.rename(target)
    return target


def _tensors(shape: Shape, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and sizes of a Llama's weights, [out, in]."""
    keys = shape.kv_heads * (shape.width // shape.heads)
    yield "token_embd.weight", (vocabulary, shape.width)
    yield "output.weight", (vocabulary, shape.width)
    yield "output_norm.weight", (shape.width,)
    for layer in range(shape.layers):
        at = f"blk.{layer}"
        yield f"{at}.attn_norm.weight", (shape.width,)
        yield f"{at}.ffn_norm.weight", (shape.width,)
        yield f"{at}.attn_q.weight", (shape.width, shape.width)
        yield f"{at}.attn_k.weight", (keys, shape.width)
        yield f"{at}.attn_v.weight", (keys, shape.width)
        yield f"{at}.attn_output.weight", (shape.width, shape.width)
        yield f"{at}.ffn_gate.weight", (shape.inner, shape.width)
        yield f"{at}.ffn_up.weight", (shape.inner, shape.width)
        yield f"{at}.ffn_down.weight", (shape.width, shape.inner)


def write_q8_0(source: Path, target: Path) -> Path:
    """Every matrix of a GGUF file dequantised and rounded to Q8_0; what is no matrix stays float32."""
    import gguf

    from ptune.export.gguf.write import copy_fields, finish

    if target.is_file():
        return target
    reader = gguf.GGUFReader(source)
    part = target.with_suffix(".part")
    writer = gguf.GGUFWriter(part, str(_value(reader, "general.architecture")))
    copy_fields(reader, writer, without=_TYPE)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if weights.ndim > 1:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, weights)
    finish(writer)
    part.rename(target)
    return target


def write_quantized(source: Path, target: Path, kind: str, quantizer: Path) -> Path:
    """A GGUF file in another of llama.cpp's types, such as Q4_K_M, by its own llama-quantize."""
    if target.is_file():
        return target
    part = target.with_suffix(".part")
    command: list[str | Path] = [quantizer, "--allow-requantize", source, part, kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{quantizer} did not write {kind}:\n{done.stdout[-2000:]}")
    part.rename(target)
    return target


def write_lora(folder: Path, source: Path, target: Path) -> Path:
    """A folder that peft wrote, as the adapter of the model in `source`, in float32."""
    from safetensors.numpy import load_file

    from ptune.backbone.load import published_config
    from ptune.backbone.locate import locate
    from ptune.config.recipe import Backbone
    from ptune.export.gguf.adapter import layers_of, write_adapter
    from ptune.export.gguf.families import family_of

    if target.is_file():
        return target
    config = published_config(Backbone(model=str(source)), locate(str(source)))
    said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "adapter_model.safetensors")
    names = (name.removeprefix("base_model.model.").rsplit(".", 2)[0] for name in tensors)
    layers = layers_of(tensors, dict.fromkeys(names, said["lora_alpha"] / said["r"]))
    part = target.with_suffix(".part")
    write_adapter(part, layers, config, family_of(config), folder.name)
    part.rename(target)
    return target


def _value(reader: Any, name: str) -> Any:
    return reader.get_field(name).contents()
