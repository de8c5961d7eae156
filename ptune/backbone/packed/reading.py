"""Has `from_pretrained` keep a ready-made checkpoint's weights packed.

Linear layers, and experts in MXFP4, keep them as they are in the file, whose pages the system takes back when it needs them.
Every other packed weight (a head, an embedding, experts that a file has one by one, layers that transformers puts together
otherwise) is unpacked in float32 when it is asked for, one at a time, and cast as any weight.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.pytorch_utils import Conv1D

from ptune.backbone.packed.formats import Format, Layouts
from ptune.backbone.packed.layout import Layout, Parts, Shape, check
from ptune.backbone.packed.linear import PackedLinear
from ptune.backbone.packed.mxfp4 import Mxfp4
from ptune.backbone.packed_experts import (
    SCALES,
    PackedExperts,
    experts_of,
    prepare_packed,
    weights_of,
)
from ptune.backbone.quantize import read_in_turn
from ptune.errors import BackboneError
from ptune.progress import say

# Scales of activations and of the KV cache: ptune reads weights alone.
_OF_ACTIVATIONS = tuple(
    f"{of}_{what}"
    for of in ("activation", "input", "output", "k", "v", "q", "kv_cache")
    for what in ("scale", "zero_point", "global_scale")
)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Unpacked:
    """A weight that is unpacked by indexing it, as transformers reads a tensor of a file."""

    layout: Layout
    parts: Parts
    shape: Shape

    def __getitem__(self, _: Any) -> Tensor:
        return self.layout.unpack(self.parts, self.shape)


@contextlib.contextmanager
def kept_packed(form: Format, settings: Mapping[str, Any], named: str) -> Iterator[None]:
    """Within the block `from_pretrained` reads weights in this format. The config must not say that they are quantised.

    settings: the checkpoint's `quantization_config`; named: the model, as the user named it.
    Raises: BackboneError where they cannot be read.
    """
    own = PreTrainedModel._load_pretrained_model
    layouts = form.layouts(settings)

    def read(model: PreTrainedModel, _state: Any, files: Any, loading: Any, *rest: Any, **more: Any) -> Any:
        try:
            state = _state_of(model, _tensors(files), form, layouts, loading.weight_mapping or [])
        except BackboneError as error:
            raise BackboneError(f"backbone.model {named!r}, stored in {form.name}: {error}") from None
        return own(model, state, files, loading, *rest, **more)

    PreTrainedModel._load_pretrained_model = staticmethod(read)
    try:
        with read_in_turn():
            yield
    finally:
        PreTrainedModel._load_pretrained_model = staticmethod(own)


def _tensors(files: list[str] | None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, mapped from its files."""
    found: dict[str, Tensor] = {}
    for path in files or ():
        if Path(path).suffix != ".safetensors":
            raise BackboneError(
                f"{Path(path).name} is no safetensors file, from which alone packed weights are read"
            )
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return found


def _state_of(
    model: PreTrainedModel, tensors: dict[str, Tensor], form: Format, layouts: Layouts, mapping: list[Any]
) -> dict[str, Any]:
    """What transformers is to load, after the model's layers became packed ones; in place."""
    places = _Places(model, mapping)
    kept, unpacked = 0, dict[str, Any]()
    layers = list(form.layers(tensors))
    experts = places.experts([form.target.format(layer) for layer in layers])
    for layer in layers:
        names = {part: name.format(layer) for part, name in form.tensors.items()}
        found = {part: tensors.pop(name) for part, name in names.items() if name in tensors}
        layout, target = layouts(layer), form.target.format(layer)
        parts, shape = check(layout, found, layer)
        if isinstance(layout, Mxfp4) and target in experts:
            unpacked |= _kept_experts(experts[target], parts, shape, target)
            kept += 1
            continue
        place = places.linear(target)
        if place is None:
            unpacked[target] = Unpacked(layout, parts, shape)
            continue
        linear = model.get_submodule(place)
        _check_linear(linear, shape, layer)
        _leave_out_bias(linear, tensors, layer)
        empty = {name: torch.empty_like(part, device="meta") for name, part in parts.items()}
        model.set_submodule(place, PackedLinear(linear, layout, empty))
        unpacked |= {f"{place}.{name}": part for name, part in parts.items()}
        kept += 1
    if not unpacked:
        raise BackboneError(f"no weight in it is packed (there is no *{form.marker})")
    others = {
        name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in _OF_ACTIVATIONS
    }
    _check_others(others, form)
    say(
        f"{kept} {'layers' if form.of_linears else 'weights of experts'} stay as they are stored: {form.name}"
    )
    return others | unpacked


class _Places:
    """Where the tensors of a checkpoint go in a model whose layers are not replaced yet."""

    def __init__(self, model: PreTrainedModel, mapping: list[Any]) -> None:
        self._renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
        self._converters = [one for one in mapping if isinstance(one, WeightConverter)]
        self._prefix, self._state = model.base_model_prefix, model.state_dict()
        self._experts = {
            f"{name}.{weight}": (module, weight)
            for name, module in experts_of(model)
            for weight in weights_of(module)
        }
        self._linears = {
            f"{name}.weight": name
            for name, layer in model.named_modules()
            if type(layer) is nn.Linear and layer is not model.get_output_embeddings()
        }
        self._turned = {
            f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, Conv1D)
        }

    def linear(self, name: str) -> str | None:
        """The linear layer whose weight this name of a file means; None for any other weight."""
        found, converted = self._found(name)
        if found in self._turned:
            raise BackboneError(f"{name} is the weight of a Conv1D, whose packed form ptune does not read")
        return None if converted else self._linears.get(found)

    def experts(self, names: Iterable[str]) -> dict[str, tuple[Any, str]]:
        """Of these names of a file those that mean experts' weights, with their modules, where they are all of a module's weights."""
        found = {name: self._found(name) for name in names}
        held = {
            name: self._experts[one]
            for name, (one, converted) in found.items()
            if one in self._experts and not converted
        }
        there = Counter(id(module) for module, _ in held.values())
        return {
            name: (module, weight)
            for name, (module, weight) in held.items()
            if there[id(module)] == len(weights_of(module))
        }

    def _found(self, name: str) -> tuple[str, bool]:
        """The model's name for a weight of a file, and whether transformers converts it."""
        found, converter = rename_source_key(
            name, self._renamings, self._converters, self._prefix, self._state
        )
        if found not in self._state and name in self._state:
            return name, False
        return found, converter is not None


def _kept_experts(held: tuple[Any, str], parts: Parts, shape: Shape, name: str) -> dict[str, Tensor]:
    """What transformers is to load of experts that stay in MXFP4, after their module became one of packed experts; in place."""
    module, weight = held
    if not isinstance(module, PackedExperts):
        prepare_packed(module, "mxfp4")
    experts, out, inner = module.shapes[weight]
    if shape != (experts, inner, out):
        raise BackboneError(
            f"{name} stands for a weight of {list(shape)}, where the model's config asks for {[experts, inner, out]}"
        )
    return {name: parts["blocks"], f"{name}{SCALES}": parts["scales"]}


def _check_linear(linear: Any, shape: Shape, layer: str) -> None:
    wanted = (linear.out_features, linear.in_features)
    if shape != wanted:
        raise BackboneError(
            f"{layer} stands for a weight of {list(shape)}, where the model's config asks for {list(wanted)}"
        )


def _leave_out_bias(linear: Any, tensors: dict[str, Tensor], layer: str) -> None:
    """Old writers of GPTQ save a bias of zeros for layers without one. Raises: BackboneError of any other such bias."""
    name = f"{layer}.bias"
    if linear.bias is None and name in tensors and bool(tensors.pop(name).any()):
        raise BackboneError(f"{layer} has a bias, which the model has no place for")


def _check_others(tensors: Mapping[str, Tensor], form: Format) -> None:
    """Raises: BackboneError if there is a part of a packed weight without the rest, or scales of something else, as AWQ has for
    activations of some families.
    """
    ends = [part.removeprefix("{}") for part in form.tensors.values()]
    for name, tensor in tensors.items():
        packed = tensor.ndim > 1 and tensor.dtype not in _FLOATS
        for end in filter(None, ends):
            if name.endswith(end) and (packed or end != ".weight"):
                raise BackboneError(f"{name.removesuffix(end)} lacks its {form.marker.lstrip('._')}")
        if packed:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BackboneError(f"{name} is in {kind}, and nothing says what its values stand for")
