"""Gains of an adapter (`ptune.engine.adapters.gains`) on a plain torch model, by hooks, independently of peft and sockets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ptune.parity import Array


@contextmanager
def gains_plugged(model: nn.Module, gains: Mapping[str, Array], turn_group: int) -> Iterator[None]:
    """Scales layers within the block, before anything that hooks add to them later. gains: "LAYER.KIND" -> numbers."""
    of_layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, values in gains.items():
        layer, _, kind = name.rpartition(".")
        of_layers[layer][kind] = torch.from_numpy(values)
    with ExitStack() as stack:
        for name, own in of_layers.items():
            layer = model.get_submodule(name)
            if "inner" in own:
                stack.callback(layer.register_forward_pre_hook(partial(_inner, own["inner"])).remove)
            stack.callback(layer.register_forward_hook(partial(_outer, own, turn_group)).remove)
        yield


def _inner(gain: Tensor, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0] * (1 + gain),)


def _outer(
    own: Mapping[str, Tensor], group: int, layer: nn.Module, inputs: tuple[Tensor], y: Tensor
) -> Tensor:
    moved = y * (1 + own["gain"]) if "gain" in own else y
    if "turn" in own:
        first, second = y.unflatten(-1, (-1, 2, group // 2)).unbind(-2)
        moved = moved + torch.stack([second, first], -2).flatten(-3) * own["turn"]
    return moved + own["shift"] if "shift" in own else moved
