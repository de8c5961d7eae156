"""A base's weights for adapters that depend on them (`ptune.engine.adapters.fold`), layer by layer from its float32 reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ptune.backbone.prompt_cache import prompt_cache
from ptune.engine.adapters.fold.layer import Base, Factor
from ptune.formats.bundle import Bundle


def base_weights(bundle: Bundle, model: Callable[[], nn.Module]) -> Base:
    """model: gives the plain reference; called when a weight is read."""

    def weight(name: str) -> Factor:
        layer = model().get_submodule(name)
        assert isinstance(layer, nn.Linear | Conv1D)
        found = layer.weight.detach().float().cpu()
        return np.ascontiguousarray((found.T if isinstance(layer, Conv1D) else found).numpy())

    def bias(name: str) -> Factor | None:
        found: Tensor | None = model().get_submodule(name).bias
        return None if found is None else found.detach().float().cpu().numpy()

    def prompt(embeddings: Factor) -> list[tuple[Factor, Factor]]:
        return prompt_cache(model(), embeddings)

    quantized = bundle.manifest.base.quantize != "none"
    return Base(weight, quantized=quantized, bias=bias, prompt_cache=prompt)
