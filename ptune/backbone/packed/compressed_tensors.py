"""compressed-tensors, as llm-compressor and vLLM write it: integers or FP8, plain or packed into words, with scales of many shapes.

w = scale * (q - zero). Layers are told apart by groups of the config: by name, by a pattern of names, or all linear ones.
Activations that the config would round, too, are not rounded: ptune reads weights alone.

Source: https://github.com/vllm-project/compressed-tensors, `compressors/` and `quantization/lifecycle/forward_helpers.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ptune.backbone.packed.bits import unpacked
from ptune.backbone.packed.fp8 import TYPES, as_bytes
from ptune.backbone.packed.groups import in_blocks, in_groups
from ptune.backbone.packed.layout import HALF, Layout, Part, Parts, Shape
from ptune.backbone.packed.settings import ORIGINAL, choice, number
from ptune.errors import BackboneError

PLAIN = ("int-quantized", "float-quantized", "naive-quantized")
PACKED = "pack-quantized"
_WORD = 32
_ZERO_TYPES = (torch.int8, torch.uint8, torch.int32, torch.int64, *HALF)

Strategy = Literal["tensor", "channel", "group", "block"]


@dataclass(frozen=True)
class Compressed:
    """As `Layout`."""

    kind: Literal["words", "int8", "fp8"]
    bits: int
    strategy: Strategy
    group: int = -1  # inputs; -1: all
    block: tuple[int, int] = (1, 1)  # rows and columns
    symmetric: bool = True

    def shape(self, parts: Parts) -> Shape:
        if self.kind == "words":
            out, inner = (int(size) for size in parts["weight_shape"].flatten())
            return out, inner
        return tuple(parts["weight"].shape)

    def parts(self, shape: Shape) -> dict[str, Part]:
        out, inner = shape
        scales = self._scales(shape)
        found = {"weight_scale": Part(scales, HALF)}
        if self.kind == "words":
            found["weight_packed"] = Part((out, -(-inner * self.bits // _WORD)), (torch.int32,))
            zeros: Shape = (-(-out * self.bits // _WORD), scales[1])
        else:
            found["weight"] = Part(shape, TYPES if self.kind == "fp8" else (torch.int8,))
            zeros = scales
        if not self.symmetric:
            found["weight_zero_point"] = Part(zeros, (torch.int32,) if self.kind == "words" else _ZERO_TYPES)
        if self.strategy == "group":
            found["weight_g_idx"] = Part((inner,), (torch.int32, torch.int64), needed=False)
        return found

    def _scales(self, shape: Shape) -> Shape:
        out, inner = shape
        if self.strategy == "block":
            return -(-out // self.block[0]), -(-inner // self.block[1])
        if self.strategy == "tensor":
            return (1,)
        group = inner if self.group == -1 else self.group
        if inner % group:
            raise BackboneError(f"has {inner} inputs, which groups of {group} do not divide")
        return out, inner // group

    def checked(self, parts: Parts, shape: Shape) -> Parts:
        """Leaves out what says nothing: g_idx where groups follow each other, zero points of symmetric integers."""
        kept = {name: part for name, part in parts.items() if name in self.parts(shape)}
        index, groups = kept.pop("weight_g_idx", None), self._scales(shape)[-1]
        if index is not None and not bool((index == -1).any()):
            counts = torch.bincount(index.clamp(min=0).long(), minlength=groups)
            if int(index.min()) < 0 or len(counts) != groups or len(counts.unique()) != 1:
                raise BackboneError(f"has columns in groups that are not {groups} of one size (weight_g_idx)")
            if not torch.equal(index.long(), torch.arange(shape[1]) // (shape[1] // groups)):
                kept["weight_g_idx"] = index
        if self.kind == "fp8":
            kept["weight"] = as_bytes(kept["weight"])
        return {_KEPT.get(name, name): part for name, part in kept.items()}

    def unpack(self, parts: Parts, shape: Shape) -> Tensor:
        scale, zero = parts["weight_scale"], parts.get("weight_zero_point")
        if self.kind == "words":
            values = unpacked(parts["weight_packed"], self.bits, shape[1])
            middle = torch.full((1, scale.shape[1]), 2 ** (self.bits - 1), device=values.device)
            zero = middle if zero is None else unpacked(zero.t(), self.bits, shape[0]).t()
        else:
            values = parts["packed"].view(torch.float8_e4m3fn) if self.kind == "fp8" else parts["packed"]
        if self.strategy == "block":
            if zero is not None:
                raise BackboneError("has blocks with zero points")
            return in_blocks(values, scale, self.block)
        if self.strategy == "tensor":
            scale, zero = scale.reshape(1, 1), None if zero is None else zero.reshape(1, 1)
        return in_groups(values, scale, zero, parts.get("weight_g_idx"))


_KEPT = {"weight": "packed"}  # a layer's own `weight` is what it stands for


def layouts(settings: Mapping[str, Any]) -> Callable[[str], Layout]:
    """The layout of each layer, by name. Raises: BackboneError in half a sentence."""
    sparse = (settings.get("sparsity_config") or {}).get("format", "dense")
    if sparse != "dense" or (settings.get("transform_config") or {}).get("config_groups"):
        what = f"sparse weights ({sparse})" if sparse != "dense" else "transformed weights (transform_config)"
        raise BackboneError(f"was saved with {what}, which ptune does not read; {ORIGINAL}")
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise BackboneError(f"does not say how its layers were quantised (config_groups); {ORIGINAL}")
    known = [
        (list(one.get("targets") or ()), _layout(one, settings))
        for one in groups.values()
        if one.get("weights")
    ]

    def of(name: str) -> Layout:
        for matches in (_named, _by_kind):
            for targets, layout in known:
                if any(matches(name, target) for target in targets):
                    return layout
        raise BackboneError(f"{name} is packed, and in no group of its config (config_groups)")

    return of


def _named(name: str, target: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), name) is not None
    return target == name


def _by_kind(_name: str, target: str) -> bool:
    return target in ("Linear", "LinearBase", "Module")


def _layout(group: Mapping[str, Any], settings: Mapping[str, Any]) -> Compressed:
    written = group.get("format") or settings.get("format")
    choice({"format": written}, "format", (*PLAIN, PACKED))
    weights = group["weights"]
    bits, kind = weights.get("num_bits", 8), choice(weights, "type", ("int", "float"), "int")
    words = written == PACKED
    if kind == "float":
        choice({"num_bits": bits}, "num_bits", (8,))
    else:
        choice({"num_bits": bits}, "num_bits", range(1, 9))
    strategy = choice(weights, "strategy", ("tensor", "channel", "group", "block"), _strategy(weights))
    symmetric = choice(weights, "symmetric", (True, False), True)
    if words and (kind == "float" or strategy not in ("channel", "group")):
        raise BackboneError(
            f"was saved in {written} of type {kind!r} and strategy {strategy!r}, which ptune does not read; {ORIGINAL}"
        )
    if strategy == "block" and not symmetric:
        raise BackboneError(f"was saved in blocks with zero points, which ptune does not read; {ORIGINAL}")
    group_size = number(weights, "group_size") if strategy == "group" else -1
    block = weights.get("block_structure") or (1, 1)
    block = block.split("x") if isinstance(block, str) else block
    return Compressed(
        "words" if words else "fp8" if kind == "float" else "int8",
        bits,
        strategy,
        group_size,
        (int(block[0]), int(block[1])),
        symmetric,
    )


def _strategy(weights: Mapping[str, Any]) -> Strategy:
    """What old configs leave to the size of a group."""
    size = weights.get("group_size")
    return "tensor" if size is None else "channel" if size == -1 else "group"
