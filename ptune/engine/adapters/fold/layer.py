"""One adapted layer of a PEFT file, as a method's `fold` reads it, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.peft_config import LoraConfig

Factor = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

SAFE = "save it again with peft's save_pretrained"


@dataclass(frozen=True)
class Update:
    """What is added to a layer's weight [out, in]: b @ a, with all scales in it.

    a [r, in], b [out, r]. Without b, a is the update itself [out, in]: it has no pair that is smaller. gains: what scales the
    layer beside that, by their kinds (`ptune.engine.adapters.gains`); they need a bundle with gains.
    """

    a: Factor
    b: Factor | None = None
    gains: Mapping[str, Factor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Of its exact pair."""
        return min(self.a.shape) if self.b is None else self.a.shape[0]


@dataclass(frozen=True)
class Base:
    """The weights that an adapter was trained on.

    weight: of a layer, by its name in the transformers model, [out, in] in float32 (dequantised). bias: likewise [out]; None where
    it has none. quantized: whether they came out of 8 or 4 bits. prompt_cache: of a decoder: embeddings [n, width] at the first
    positions -> the keys and values of each layer, [kv_heads, n, dim].
    """

    weight: Callable[[str], Factor]
    quantized: bool = False
    bias: Callable[[str], Factor | None] = lambda _: None
    prompt_cache: Callable[[Factor], Sequence[tuple[Factor, Factor]]] | None = None


class LayerError(Exception):
    """Why a layer cannot be folded; becomes a line of an AdapterError."""


Settings = TypeVar("Settings", bound=LoraConfig)


@dataclass(frozen=True)
class Layer(Generic[Settings]):
    """A layer's tensors and settings. `tensor` and `ids` check what comes from outside; they raise LayerError."""

    name: str
    inner: int  # in_features
    outer: int  # out_features
    tensors: Mapping[str, Array]  # by the end of their names
    shared: Mapping[str, Array]  # of all layers
    config: Settings
    base: Base | None

    @property
    def rank(self) -> int:
        """As adapter_config.json has it; at least 1."""
        rank = self.config.rank(self.name)
        if rank < 1:
            raise LayerError(f"r is {rank}, a rank is 1 or more")
        return rank

    @property
    def scale(self) -> float:
        """alpha / r."""
        return self.config.scale(self.name) if self.rank else 0.0

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.tensors

    def tensor(self, name: str, *shape: int | None) -> Factor:
        """A tensor of the layer, or one that all share. shape: that it must have; None: any length."""
        found = self._found(name, shape)
        if found.dtype != np.float32:
            raise LayerError(f"{name} has whole numbers")
        if not np.isfinite(found).all():
            raise LayerError(f"{name} has values that are not finite")
        return found

    def ids(self, name: str, end: int, *shape: int | None) -> npt.NDArray[np.int64]:
        """A tensor of indices from 0 to below `end`."""
        found = self._found(name, shape)
        if found.dtype != np.int64:
            raise LayerError(f"{name} must have whole numbers")
        if found.size and not 0 <= found.min() <= found.max() < end:
            raise LayerError(f"{name} has indices beyond {end}")
        return found

    def weight(self) -> Factor:
        """The base's own weight [out, in]."""
        assert self.base is not None
        return self.base.weight(self.name)

    def bias(self) -> Factor | None:
        """The base's own bias [out]; None where it has none."""
        assert self.base is not None
        return self.base.bias(self.name)

    def _found(self, name: str, shape: tuple[int | None, ...]) -> Array:
        found = self.tensors.get(name, self.shared.get(name))
        if found is None:
            raise LayerError(f"{name} is missing")
        fits = found.ndim == len(shape) and all(
            wanted in (None, there) for wanted, there in zip(shape, found.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise LayerError(f"{name} is {list(found.shape)}, needed is [{wanted}]")
        return found


def sliced(layer: Layer[Any], name: str, *shape: int) -> Factor:
    """The first numbers along each axis of a tensor that layers of different widths share."""
    whole = layer.tensor(name, *([None] * len(shape)))
    if any(there < wanted for there, wanted in zip(whole.shape, shape, strict=True)):
        raise LayerError(f"{name} is {list(whole.shape)}, needed is at least {list(shape)}")
    return whole[tuple(map(slice, shape))]
