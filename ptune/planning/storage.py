"""Records the lifetime of every storage that operators create, from its first tensor to its last.

It works on real and on fake tensors. Fake tensors compute and allocate nothing, so a step of any model can be simulated
on any machine.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIVEN_BACK = -(2**62)  # event in a timeline: free pages are returned to the system


@dataclass
class Timeline:
    """Creations and releases of storages, in order."""

    sizes: list[int] = field(default_factory=list)  # bytes of each storage, by its number
    phases: list[str] = field(default_factory=list)  # the phase in which each was created
    events: list[int] = field(default_factory=list)  # created: its number; freed: -1 - number; or GIVEN_BACK

    def live(self) -> list[int]:
        """Bytes in use after each event."""
        now, after = 0, []
        for event in self.events:
            if event != GIVEN_BACK:
                now += self.sizes[event] if event >= 0 else -self.sizes[-1 - event]
            after.append(now)
        return after

    def held_at(self, index: int) -> set[int]:
        """Numbers of the live storages after the event at `index`."""
        held: set[int] = set()
        for event in self.events[: index + 1]:
            if event >= 0:
                held.add(event)
            elif event != GIVEN_BACK:
                held.remove(-1 - event)
        return held


class StorageTracker(TorchDispatchMode):
    """Tracks the storages of all operator outputs within a `with` block.

    phase: a label recorded with each storage; set it as the work proceeds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = "setup"
        self.timeline = Timeline()
        self._live: dict[int, tuple[weakref.ref[Any], int]] = {}  # address of the storage -> number

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        body = _body(str(func))
        if body is None:
            result = func(*args, **(kwargs or {}))
        else:
            with self:
                result = body(*args, **(kwargs or {}))
        self.see(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def see(self, tensors: Iterable[Tensor]) -> list[int]:
        """Starts tracking the storages of `tensors`; returns their numbers."""
        return [self._number(tensor.untyped_storage()) for tensor in tensors]

    def give_back(self) -> None:
        """Records that free pages are returned to the system."""
        self.timeline.events.append(GIVEN_BACK)

    def _number(self, storage: torch.UntypedStorage) -> int:
        key = storage._cdata
        if key in self._live:
            return self._live[key][1]
        number = len(self.timeline.sizes)
        self.timeline.sizes.append(storage.nbytes())
        self.timeline.phases.append(self.phase)
        self.timeline.events.append(number)
        self._live[key] = (weakref.ref(storage, functools.partial(self._freed, key)), number)
        return number

    def _freed(self, key: int, _reference: Any) -> None:
        _, number = self._live.pop(key)
        self.timeline.events.append(-1 - number)


@functools.cache
def _body(name: str) -> Callable[..., Any] | None:
    """The Python function behind a composite operator; None for any other operator.

    It is run in the operator's place, so that its temporaries are tracked: the weight unpacked for a 4-bit product.
    """
    from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

    return _gemm_4bit_default_impl if name == "bitsandbytes.gemm_4bit.default" else None
