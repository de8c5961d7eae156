"""Describes a pretrained model without reading its weights: its config, and the size and type of its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig

from ptune.backbone.load import in_one_sentence, read_config
from ptune.backbone.locate import Source, locate
from ptune.backbone.vision_language import sees_images
from ptune.config.recipe import Backbone
from ptune.errors import BackboneError

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


@dataclass(frozen=True)
class Described:
    """A pretrained model on disk."""

    config: PretrainedConfig
    kind: Literal["safetensors", "gguf", "unknown"]  # unknown: the files are not on this machine
    file_bytes: int
    dtype: torch.dtype | None  # the type of most of the bytes


def describe(spec: Backbone) -> Described:
    """Reads only the config and headers. Raises: BackboneError if the model cannot be found or read."""
    source = locate(spec.model)
    with in_one_sentence(spec.model, source):
        config = read_config(spec, source)
        if sees_images(config):
            raise BackboneError(
                f"{spec.model} sees images beside text: its memory cannot be predicted yet, and it trains without a plan"
            )
        return Described(config, *files_of(source))


def files_of(source: Source) -> tuple[Literal["safetensors", "gguf", "unknown"], int, torch.dtype | None]:
    """Format, bytes and type of the weights, from their headers."""
    if source.gguf is not None:
        return "gguf", (Path(source.path) / source.gguf).stat().st_size, None
    paths = sorted(Path(source.path).glob("*.safetensors")) if not source.on_hub else []
    if not paths:
        return "unknown", 0, None
    by_type: dict[str, int] = {}
    for path in paths:
        for entry in _header(path).values():
            begin, end = entry["data_offsets"]
            by_type[entry["dtype"]] = by_type.get(entry["dtype"], 0) + end - begin
    return "safetensors", sum(by_type.values()), _TYPES.get(max(by_type, key=by_type.__getitem__))


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: 8 bytes of length, then JSON. https://github.com/huggingface/safetensors"""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return header
