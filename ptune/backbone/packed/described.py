"""Which layers of a checkpoint are packed, and in what, told from its config and the headers of its files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from ptune.backbone.load import in_one_sentence, published_config
from ptune.backbone.locate import Source, locate
from ptune.backbone.packed.formats import BY_METHOD, Format, Layouts
from ptune.backbone.packed.linear import PackedLinear
from ptune.backbone.packed_folder import settings_in
from ptune.config.recipe import Backbone


@dataclass(frozen=True)
class Packing:
    """What a checkpoint's config says of its packed weights."""

    form: Format
    layouts: Layouts
    names: Collection[str]  # of the packed weights; empty where the files are not on this machine

    def keeps(self, layer: str) -> bool:
        """Whether a linear layer, by its name, stays packed."""
        return self.form.of_linears and (not self.names or f"{layer}.weight" in self.names)

    def without_values(self, layer: str, plain: nn.Linear) -> PackedLinear:
        """The layer that stands for a plain one, in shapes."""
        layout, shape = self.layouts(layer), (plain.out_features, plain.in_features)
        empty = {
            name: torch.empty(part.shape, dtype=part.types[0], device="meta")
            for name, part in layout.parts(shape).items()
            if part.needed
        }
        return PackedLinear(plain, layout, layout.checked(empty, shape))


def packing_of(spec: Backbone) -> Packing:
    """Of a model that is stored in `spec.quantize`. Raises: BackboneError."""
    source, form = locate(spec.model), BY_METHOD[spec.quantize]
    with in_one_sentence(spec.model, source):
        settings = settings_in(published_config(spec, source))
        assert settings is not None
        names = {form.target.format(layer) for layer in form.layers(_names(source))}
        return Packing(form, form.layouts(settings), names)


def _names(source: Source) -> set[str]:
    """The names of the tensors in a local folder's files."""
    found: set[str] = set()
    if not source.on_hub:
        for path in sorted(Path(source.path).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                found |= set(file.keys())
    return found
