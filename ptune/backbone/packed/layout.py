"""What a format says about one packed weight: the tensors it lies in, and the values that they stand for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ptune.errors import BackboneError

Shape: TypeAlias = tuple[int, ...]
Parts: TypeAlias = Mapping[str, Tensor]  # a weight's tensors, by the format's own names for them

HALF = (torch.float16, torch.bfloat16, torch.float32)  # types of scales


@dataclass(frozen=True)
class Part:
    """A tensor of a packed weight."""

    shape: Shape
    types: tuple[torch.dtype, ...]
    needed: bool = True  # others may be missing


class Layout(Protocol):
    """A way of packing weights, with all that a checkpoint's config says about it."""

    def shape(self, parts: Parts) -> Shape:
        """The shape of the weight, [out, in] but for experts, as its tensors say."""

    def parts(self, shape: Shape) -> dict[str, Part]:
        """The tensors that a weight of this shape is packed in."""

    def checked(self, parts: Parts, shape: Shape) -> Parts:
        """Those that are kept, after a look at their values. Raises: BackboneError where these contradict each other."""

    def unpack(self, parts: Parts, shape: Shape) -> Tensor:
        """The values that they stand for, in float32, from what `checked` gave."""


def check(layout: Layout, parts: Parts, name: str) -> tuple[Parts, Shape]:
    """The tensors of a weight that are kept, and its shape. Raises: BackboneError in half a sentence that begins with `name`."""
    try:
        shape = layout.shape(parts)
        for part, wanted in layout.parts(shape).items():
            _check_part(part, wanted, parts.get(part))
        return layout.checked(parts, shape), shape
    except KeyError as error:
        raise BackboneError(f"{name} lacks its {error.args[0]}") from None
    except BackboneError as error:
        raise BackboneError(f"{name} {error}") from None


def _check_part(name: str, wanted: Part, found: Tensor | None) -> None:
    if found is None:
        if wanted.needed:
            raise BackboneError(f"lacks its {name}")
        return
    if found.dtype not in wanted.types:
        raise BackboneError(f"has {name} in {_named(found.dtype)}, not in {_named(wanted.types[0])}")
    one = found.numel() == 1 and math.prod(wanted.shape) == 1  # a number may have any dimensions
    if tuple(found.shape) != wanted.shape and not one:
        raise BackboneError(
            f"has {name} of shape {list(found.shape)}, where its config asks for {list(wanted.shape)}"
        )


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
