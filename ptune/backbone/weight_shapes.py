"""Layers that make their weights when these are read, as those of a packed model do, need not for their shape alone.

Whoever puts an adapter onto a model asks a layer for its weight's type and place: peft 21 times. Made each time, that takes
minutes for billions of weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class _Asked(threading.local):
    for_shapes = False


_asked = _Asked()


@contextmanager
def shapes_alone(wanted: bool = True) -> Iterator[None]:
    """Within the block, if `wanted`, and in this thread, weights that would be made are zeros of their shape, type and place."""
    before, _asked.for_shapes = _asked.for_shapes, wanted
    try:
        yield
    finally:
        _asked.for_shapes = before


def made(shape: tuple[int, int], like: Tensor, dtype: torch.dtype, make: Callable[[], Tensor]) -> Tensor:
    """A weight of this shape and type where `like` is: what `make` gives, or zeros where its shape alone is asked for."""
    if _asked.for_shapes:
        return torch.zeros((), dtype=dtype, device=like.device).expand(shape)
    return make()
