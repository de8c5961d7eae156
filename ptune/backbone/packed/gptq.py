"""GPTQ: integers of 2, 3, 4 or 8 bits in groups along the input, each group with a scale and a zero point.

w = scale * (q - zero). A matrix is stored turned round, [in, out]; the integers of 32 / bits rows share a word. Version 1 of the
format stores zero - 1, version 2 (`checkpoint_format: gptq_v2`) the zero itself. With `desc_act` a column's group is in g_idx.

Sources: Frantar et al. 2022, https://arxiv.org/abs/2210.17323; GPTQModel's `TorchLinear.dequantize_weight`,
https://github.com/ModelCloud/GPTQModel/blob/main/gptqmodel/nn_modules/qlinear/__init__.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptune.backbone.packed.bits import unpacked
from ptune.backbone.packed.groups import in_groups
from ptune.backbone.packed.layout import HALF, Layout, Part, Parts, Shape
from ptune.backbone.packed.settings import choice, number
from ptune.errors import BackboneError

BITS = (2, 3, 4, 8)
_WORD = 32


@dataclass(frozen=True)
class Gptq:
    """As `Layout`."""

    bits: int
    group: int  # inputs; -1: all
    version: int  # 1: zero points are stored as one less

    def shape(self, parts: Parts) -> Shape:
        return parts["scales"].shape[1], parts["qweight"].shape[0] * _WORD // self.bits

    def parts(self, shape: Shape) -> dict[str, Part]:
        out, inner = shape
        groups = -(-inner // self._group(inner))
        return {
            "qweight": Part((inner * self.bits // _WORD, out), (torch.int32,)),
            "qzeros": Part((groups, -(-out * self.bits // _WORD)), (torch.int32,)),
            "scales": Part((groups, out), HALF),
            "g_idx": Part((inner,), (torch.int32, torch.int64), needed=False),
        }

    def checked(self, parts: Parts, shape: Shape) -> Parts:
        """Leaves g_idx out where groups follow each other."""
        index, groups = parts.get("g_idx"), parts["scales"].shape[0]
        if index is None:
            return parts
        if int(index.min()) < 0 or int(index.max()) >= groups:
            wrong = index[(index < 0) | (index >= groups)][0]
            raise BackboneError(f"has a column in group {int(wrong)} of {groups} (g_idx)")
        if torch.equal(index.long(), torch.arange(shape[1]) // self._group(shape[1])):
            return {name: part for name, part in parts.items() if name != "g_idx"}
        return parts

    def unpack(self, parts: Parts, shape: Shape) -> Tensor:
        out, inner = shape
        q = unpacked(parts["qweight"].t(), self.bits, inner)
        zero = unpacked(parts["qzeros"], self.bits, out).t()
        if self.version == 1:
            zero = (zero + 1) & (2**self.bits - 1)
        index = parts.get("g_idx")
        if index is None and inner % self._group(inner):
            index = torch.arange(inner, device=q.device) // self._group(inner)
        return in_groups(q, parts["scales"].t(), zero, index)

    def _group(self, inner: int) -> int:
        return inner if self.group == -1 else self.group


def layouts(settings: Mapping[str, Any]) -> Callable[[str], Layout]:
    """The layout of each layer, by name. Raises: BackboneError in half a sentence."""
    bits = choice(settings, "bits", BITS)
    group = number(settings, "group_size")
    choice(settings, "is_marlin_format", (False,), False)
    said = "checkpoint_format" if settings.get("checkpoint_format") else "format"
    version = choice(settings, said, ("gptq", "gptq_v2"), "gptq")
    choice(settings, "pack_dtype", ("int32",), "int32")
    layout = Gptq(bits, group, 2 if version == "gptq_v2" else 1)
    return lambda _name: layout
