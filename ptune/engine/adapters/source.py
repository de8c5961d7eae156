"""An adapter as PEFT saves it, a configuration and tensors: out of a folder, or out of memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ptune.engine.adapters.safetensors import read_arrays
from ptune.errors import AdapterError, FormatError
from ptune.formats.whole_write import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OWN = "ptune.json"  # beside PEFT's files, written by ptune's training: the base's hash, template and system message
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """What readers of adapters need, wherever it lies.

    config: content of adapter_config.json. read: gives the tensors by their names in adapter_model.safetensors, float32, and
    whole numbers as int64. Raises: AdapterError. head: modules that were trained whole, as ptune's training recorded them.
    """

    name: str
    place: str  # the folder, or the adapter's name; for errors
    config_place: str
    config: Mapping[str, Any]
    read: Callable[[], dict[str, Array]]
    head: Callable[[], list[str]] = list

    @classmethod
    def folder(cls, folder: Path) -> Self:
        """Raises: AdapterError where it has no readable adapter_config.json."""
        return cls(
            folder.name,
            str(folder),
            f"{folder}/{CONFIG}",
            config_of(folder),
            lambda: _read(folder),
            lambda: head_of(folder),
        )

    @classmethod
    def memory(cls, name: str, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> Self:
        """The tensors are copied. Raises: AdapterError where one is no array of numbers that PEFT saves."""
        copies = {tensor: _copied(name, tensor, array) for tensor, array in tensors.items()}
        return cls(name, repr(name), f"the config of {name!r}", {**config}, lambda: copies)

    def factors(self) -> dict[str, npt.NDArray[np.float32]]:
        """The tensors of an adapter that has no whole numbers among them. Raises: AdapterError."""
        tensors = self.read()
        if whole := [name for name, tensor in tensors.items() if tensor.dtype != np.float32]:
            raise AdapterError(f"{self.place}: {whole[0]!r} holds whole numbers; known: F32, F16, BF16")
        return tensors


def config_of(folder: Path) -> dict[str, Any]:
    """Raises: AdapterError where there is no readable adapter_config.json."""
    try:
        return read_json(folder / CONFIG)
    except FormatError as error:
        raise AdapterError(str(error)) from None


def head_of(folder: Path) -> list[str]:
    """Names of the modules that an adapter trained whole, as ptune's training recorded them. Raises: FormatError."""
    facts = read_json(folder / OWN) if (folder / OWN).is_file() else {}
    return [str(name) for name in facts.get("head", ())]


def weights_file(folder: Path) -> Path:
    """Raises: AdapterError where there is only a pickle."""
    path = folder / WEIGHTS
    if not path.is_file() and (folder / "adapter_model.bin").is_file():
        raise AdapterError(
            f"{folder} has its weights in adapter_model.bin, a pickle, which may run code when it is opened; "
            "save it again with peft's save_pretrained(..., safe_serialization=True)"
        )
    return path


def _read(folder: Path) -> dict[str, Array]:
    try:
        return read_arrays(weights_file(folder))
    except FormatError as error:
        raise AdapterError(str(error)) from None


def _copied(adapter: str, name: str, array: Array) -> Array:
    if not isinstance(array, np.ndarray):
        raise AdapterError(f"{adapter!r}: {name!r} is a {type(array).__name__}, and has to be a numpy array")
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype not in (np.float32, np.float16):
        raise AdapterError(f"{adapter!r}: {name!r} has numbers of {array.dtype}, and they have to be float32")
    return np.array(array, np.float32, order="C")
