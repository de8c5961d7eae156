"""A device with memory of its own, such as a graphics card: tensors there, and copies to them and within them.

What lies in the machine's memory is carried over as it is bound, and changes that are made to it afterwards are not seen. What lies
on the device is read where it is. So keys and values, states and adapters' factors are tensors on the device, and a step binds its
small inputs and takes its logits back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ptune.engine.half_attention import with_half_attention, written
from ptune.engine.kernels import WEIGHTS_FOLDER
from ptune.engine.onnx_graph import Array
from ptune.errors import PtuneError

CACHE = np.dtype(np.float16)
"""Keys and values on a device: CUDA's attention has no other type that every card computes."""


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A tensor on a device, row-major; a part of `memory`."""

    memory: Any  # onnxruntime's OrtValue, which frees it
    device: str
    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def rows(self, low: int, high: int) -> DeviceArray:
        """Rows [low, high) of the first axis, without a copy."""
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        shape = (high - low, *self.shape[1:])
        return DeviceArray(self.memory, self.device, self.pointer + low * row_bytes, shape, self.dtype)

    @property
    def size_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


Tensor = Array | DeviceArray
"""A tensor in the machine's memory or on a device."""


def rows(tensor: Tensor, low: int, high: int) -> Tensor:
    """Rows [low, high) of the first axis, without a copy."""
    return tensor.rows(low, high) if isinstance(tensor, DeviceArray) else tensor[low:high]


def place(tensor: Tensor) -> tuple[str, int]:
    """Where a tensor lies: the memory's name as onnxruntime has it, and the address there."""
    if isinstance(tensor, DeviceArray):
        return tensor.device, tensor.pointer
    return "cpu", tensor.ctypes.data


@dataclass(frozen=True)
class Device:
    """Where a graph is computed, if not by the engine's own ways on the CPU."""

    name: str  # of its memory, as onnxruntime has it
    provider: str
    options: tuple[tuple[str, str], ...] = ()  # of the provider
    title: str = ""  # for people

    @property
    def providers(self) -> list[Any]:
        """What onnxruntime is asked for: the device, and the CPU for what it has no kernel for."""
        cpu = "CPUExecutionProvider"
        return [(self.provider, dict(self.options)), *([cpu] if self.provider != cpu else [])]

    def prepare(self, path: Path, options: Any) -> bytes:
        """What onnxruntime loads in place of the graph at `path`; session options are extended accordingly."""
        options.add_session_config_entry(WEIGHTS_FOLDER, str(path.parent))
        return with_half_attention(path)

    def check(self, session: onnxruntime.InferenceSession) -> None:
        """Raises: PtuneError where onnxruntime went on without the device, which it does where a library is missing."""
        if self.provider not in session.get_providers():
            raise PtuneError(
                f"onnxruntime cannot load its {self.provider}: a library that it needs is missing or of another version, such as"
                " cuBLAS or cuDNN; `ldd` of the provider's library in onnxruntime/capi names it. --device cpu computes without it"
            )

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any] = np.dtype(np.float32)) -> DeviceArray:
        """A tensor of zeros. Raises: MemoryError."""
        numbers = max(1, math.prod(shape))
        try:
            memory = onnxruntime.OrtValue.ortvalue_from_shape_and_type([numbers], dtype.type, self.name, 0)
            memory.update_inplace(np.zeros(numbers, dtype))
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise MemoryError(f"{numbers * dtype.itemsize} bytes on {self.title or self.name}") from error
        return DeviceArray(memory, self.name, memory.data_ptr(), shape, dtype)

    def copy(self, source: Tensor, target: DeviceArray) -> None:
        """Copies a tensor, from either memory, to one of the same shape and type."""
        assert (source.shape, source.dtype) == (target.shape, target.dtype)
        session = _copying(self, target.dtype)
        binding = session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, "source", source),
            (binding.bind_output, "target", target),
        ):
            memory, pointer = place(tensor)
            bind(name, memory, 0, tensor.dtype.type, tensor.shape, pointer)
        session.run_with_iobinding(binding)


@cache
def _copying(device: Device, dtype: np.dtype[Any]) -> onnxruntime.InferenceSession:
    """A graph that gives its input. onnxruntime has no other way to write a part of a tensor on a device from Python."""
    import onnx_ir  # here alone: a server on the CPU needs none of it

    kind = onnx_ir.TensorType(onnx_ir.DataType.from_numpy(dtype))
    source = onnx_ir.Value(name="source", type=kind)
    node = onnx_ir.Node("", "Identity", [source])
    (target,) = node.outputs
    target.name, target.type = "target", kind
    graph = onnx_ir.Graph([source], [target], nodes=[node], opset_imports={"": 20}, name="copy")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        written(onnx_ir.Model(graph, ir_version=10)), options, providers=device.providers
    )
