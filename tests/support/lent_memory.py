"""The CPU in a card's place: tensors of a device lie apart, and what is bound from elsewhere is carried over as it is bound.

So code that writes to an array after it was bound, which works on the CPU, computes with stale numbers here, as it would on a card.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ptune.engine.decoder.cache import device_cache
from ptune.engine.decoder.session import Session
from ptune.engine.device import Device, DeviceArray

DEVICE = Device("cpu", "CPUExecutionProvider", (), "the card of a test")


def carry(binding: Any, there: list[range]) -> None:
    """Makes an IOBinding copy the inputs that are not on the device."""
    bind, carried = binding.bind_input, dict[str, np.ndarray]()

    def bind_input(name: str, memory: str, index: int, dtype: Any, shape: Any, pointer: int) -> None:
        if not any(pointer in part for part in there):
            size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            carried[name] = np.frombuffer(ctypes.string_at(pointer, size_bytes) + bytes(8), np.uint8).copy()
            pointer = carried[name].ctypes.data
        bind(name, memory, index, dtype, shape, pointer)

    binding.bind_input = bind_input


def lend(monkeypatch: pytest.MonkeyPatch, device: Device = DEVICE) -> None:
    """Opens engines on the device from now on."""
    there: list[range] = []
    zeros, load = Device.zeros, Session._load

    def noted(self: Device, *args: Any) -> DeviceArray:
        made = zeros(self, *args)
        there.append(range(made.pointer, made.pointer + max(1, made.size_bytes)))
        return made

    def carrying(self: Session) -> None:
        load(self)
        if self._device is not None:
            carry(self._binding, there)

    monkeypatch.setattr(Device, "zeros", noted)
    monkeypatch.setattr(Session, "_load", carrying)
    monkeypatch.setattr(device_cache, "device_for", lambda *_: device)
