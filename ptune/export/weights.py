"""Streams weights into a traced graph one tensor at a time, so that memory holds only one."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from ptune.backbone.float32 import computed_weights
from ptune.backbone.packed_experts import packed_experts
from ptune.errors import BackboneError
from ptune.export.decoder.experts import Part
from ptune.export.decoder.trace import Traced
from ptune.formats.signature import Ends, Socket
from ptune.progress import Progress


class Weights(Protocol):
    """A source of weights, named as in the transformers model's state dict."""

    def __contains__(self, name: str) -> bool: ...

    def read(self, name: str) -> Tensor: ...

    def part(self, name: str, number: int) -> Tensor:
        """One expert's part of a weight [experts, …]."""


class ModelWeights:
    """The weights of a model in memory, those that are computed when they are read among them."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = model.state_dict()
        self.computed = computed_weights(model)
        self.experts = packed_experts(model)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors or name in self.computed

    def read(self, name: str) -> Tensor:
        return self.computed[name].weight if name in self.computed else self.tensors[name]

    def part(self, name: str, number: int) -> Tensor:
        if name in self.experts:
            module, weight = self.experts[name]
            unpacked: Tensor = module.as_published(weight, number)
            return unpacked
        return self.tensors[name][number]


class FolderWeights:
    """The weights of a folder of safetensors files, read one at a time.

    prefix: the model's `base_model_prefix`, which checkpoints of bare base models omit.
    """

    def __init__(self, folder: Path, prefix: str = "") -> None:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            names: dict[str, str] = json.loads(index.read_text())["weight_map"]
        elif (folder / "model.safetensors").is_file():
            with safe_open(folder / "model.safetensors", "pt") as file:
                names = dict.fromkeys(file.keys(), "model.safetensors")
        else:
            raise BackboneError(f"{folder} holds no safetensors weights")
        self.files = {name: folder / file for name, file in names.items()}
        self.prefix = f"{prefix}." if prefix else ""

    def _stored(self, name: str) -> str:
        return name if name in self.files else name.removeprefix(self.prefix)

    def __contains__(self, name: str) -> bool:
        return self._stored(name) in self.files

    def read(self, name: str) -> Tensor:
        stored = self._stored(name)
        with safe_open(self.files[stored], "pt") as file:
            return file.get_tensor(stored)

    def part(self, name: str, number: int) -> Tensor:
        stored = self._stored(name)
        with safe_open(self.files[stored], "pt") as file:
            part: Tensor = file.get_slice(stored)[number]
        return part


def attach(traced: Traced, weights: Weights) -> None:
    """Gives every initializer of the graph that has no value yet a lazy one, read when the graph is saved.

    Raises: BackboneError that names all weights that the graph needs and `weights` lacks.
    """
    missing = set[str]()
    for value in traced.graph.graph.initializers.values():
        raw = getattr(value.const_value, "raw", None)
        if not isinstance(raw, torch._subclasses.FakeTensor):
            continue
        part = traced.parts.get(str(value.name))
        own = (part.whole if part else str(value.name)).removeprefix("model.")
        name = next((alias for alias in traced.names.get(own, (own,)) if alias in weights), None)
        if name is None:
            missing.add(own)
            continue
        value.const_value = onnx_ir.LazyTensor(
            _reader(weights, name, part, transpose=own in traced.transposed, shape=tuple(raw.shape)),
            dtype=onnx_ir.DataType.FLOAT,
            shape=onnx_ir.Shape(raw.shape),
            name=value.name,
            cache=False,
        )
    if missing:
        raise BackboneError(
            f"{len(missing)} weights are missing, among them {', '.join(sorted(missing)[:5])}"
        )


def _reader(
    weights: Weights, name: str, part: Part | None, *, transpose: bool, shape: tuple[int, ...]
) -> Callable[[], onnx_ir.Tensor]:
    def read() -> onnx_ir.Tensor:
        read = weights.read(name) if part is None else weights.part(name, part.number)
        tensor = read.detach().to(device="cpu", dtype=torch.float32)
        turned = transpose if part is None else part.turned
        array: NDArray[np.float32] = np.ascontiguousarray((tensor.T if turned else tensor).numpy())
        if array.shape != shape:
            raise BackboneError(f"weight {name} has shape {array.shape}, the model's config says {shape}")
        return onnx_ir.tensor(array)

    return read


def save(traced: Traced, path: Path) -> None:
    """Writes the graph to `path`, and its weights tensor by tensor to `path`.data."""
    path.parent.mkdir(parents=True, exist_ok=True)

    data, least_bytes = f"{path.name}.data", 1024
    with Progress("  writing the weights", 0, unit="tensors") as progress:

        def count(_: onnx_ir.TensorProtocol, info: Any) -> None:
            progress.total = info.total
            progress.advance()

        onnx_ir.save(traced.graph, path, external_data=data, size_threshold_bytes=least_bytes, callback=count)


def with_weights(ends: Ends, sockets: Sequence[Socket], weights: Weights) -> Ends:
    """`ends` with what is needed of the base to read adapters: hashes of their weights, and biases of sockets."""
    return _with_biases(_with_copies(ends, weights), sockets, weights)


def _with_biases(ends: Ends, sockets: Sequence[Socket], weights: Weights) -> Ends:
    """`ends` with the base's own biases, if adapters may bring others."""
    names = [socket.name for socket in sockets if f"{socket.name}.bias" in weights] if ends.has_biases else []
    biases = {name: b64encode(_values_of(weights, f"{name}.bias")).decode() for name in names}
    return ends.model_copy(update={"biases": biases})


def _with_copies(ends: Ends, weights: Weights) -> Ends:
    """`ends` with the hashes of their weights, by which an adapter's copies of them are told from trained weights."""
    names = [f"{ends.embedding}.weight", f"{ends.head}.weight", f"{ends.head}.bias"]
    copies = {
        name: hashlib.sha256(_values_of(weights, name)).hexdigest() for name in names if name in weights
    }
    if ends.tied:  # one of the two may be stored under the other's name alone
        copies |= dict.fromkeys(names[:2], next(copies[name] for name in names[:2] if name in copies))
    return ends.model_copy(update={"copies": copies})


def _values_of(weights: Weights, name: str) -> memoryview:
    """A weight's float32 values, as bytes."""
    tensor = weights.read(name).detach().to(device="cpu", dtype=torch.float32)
    return memoryview(tensor.contiguous().numpy()).cast("B")
