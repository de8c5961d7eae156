"""Layers that keep a state for each sequence instead of keys and values: convolutions over time and recurrences.

While a model is traced, such a layer's own `forward` is replaced by one that works on the flat tokens of a step. In it, a layer

- takes its states of before the step, [batch, *shape], with `StateInputs.take`;
- gathers its inputs into rows, one a sequence, with `StateInputs.rows`, computes each row's new tokens, and returns them to the flat
  order with `StateInputs.flat`;
- gives the states after `new_tokens` tokens of each row to `StateInputs.give`.

The engine holds each answer to the same bits whoever shares the step and however a prompt is cut (`ptune.verify.decoder.company`). So a
row is computed from its own state and tokens alone, token by token in one order, by operators whose sums do not depend on how many
rows or tokens there are. Cells behind a row's new tokens change nothing: the state of a row without new tokens comes out bit for
bit as it went in. And as the engine binds a state's output to the memory of its input, nothing may read the old state after the
new one is written: every operator that reads it comes before the one that writes, as one of its inputs or theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ptune.formats.signature import StateLayer

STATES = "_ptune_states"  # attribute of a layer's module: which of the signature's states are its own
READ = "_ptune_read"  # attribute of a linear layer whose weight is read and that is never called


@dataclass
class StateInputs:
    """What layers with states read of a step, and the states that they leave."""

    pad_indices: Tensor  # [batch, rows]
    unpad_indices: Tensor  # [groups * tokens]
    new_tokens: Tensor  # [batch]
    past: list[Tensor]
    new_cells: Tensor | None = None  # pad_indices, but for cells behind new tokens; made by the first layer
    present: dict[int, Tensor] = field(default_factory=dict)

    def rows(self, flat: Tensor) -> Tensor:
        """[groups, tokens, width] -> [batch, rows, width]. Cells behind a row's new tokens repeat its first one."""
        return nn.functional.embedding(self.pad_indices, flat.reshape(-1, flat.shape[-1]))

    def flat(self, rows: Tensor, like: Tensor) -> Tensor:
        """[batch, rows, width] -> [groups, tokens, width], in the order of `like`, which has the same groups and tokens."""
        found = nn.functional.embedding(self.unpad_indices, rows.reshape(-1, rows.shape[-1]))
        return found.reshape(*like.shape[:2], rows.shape[-1])

    def take(self, module: nn.Module) -> list[Tensor]:
        """A layer's states before the step, [batch, *shape]."""
        return [self.past[number] for number in getattr(module, STATES)]

    def give(self, module: nn.Module, *states: Tensor) -> None:
        """Hands over a layer's states after the step, in the order of `take`."""
        self.present.update(zip(getattr(module, STATES), states, strict=True))


class StateKind(NamedTuple):
    """What the layers of one of transformers' classes keep and compute."""

    shapes: Callable[[Any], tuple[tuple[int, ...], ...]]  # of the states of a module, for one sequence
    forward: Callable[..., Any]  # in place of the module's own; its first argument is the module
    reads: tuple[
        str, ...
    ] = ()  # linear layers in it whose weights it reads: they are never called, so no adapter reaches them


def short_convolution(
    rows: Tensor, past: Tensor, new_tokens: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A causal convolution of each channel with K weights, and the inputs that the next step needs.

    rows: [batch, rows, channels]. past: [batch, K - 1, channels], the inputs before. new_tokens: [batch]. weight: [channels, K],
    whose last column meets a token itself. bias: [channels]. Returns [batch, rows, channels] and [batch, K - 1, channels].

    Its K products are added one after another, so a token has the same bits wherever its row was cut.
    """
    batch, length, channels = rows.shape
    size = weight.shape[1]
    seen = torch.cat([past, rows], 1)  # [batch, K - 1 + rows, channels]
    total = seen[:, :length] * weight[:, 0]
    for place in range(1, size):
        total = total + seen[:, place : place + length] * weight[:, place]
    last = new_tokens[:, None] + torch.arange(size - 1)  # those before the first token that is still to come
    present = torch.onnx.ops.symbolic(
        "GatherND",
        [seen, last[:, :, None]],
        {"batch_dims": 1},
        dtype=rows.dtype,
        shape=[batch, size - 1, channels],
    )
    return total if bias is None else total + bias, present


def install_states(
    model: nn.Module, kind_of: Callable[[nn.Module], StateKind | None]
) -> tuple[StateLayer, ...]:
    """Replaces the `forward` of each layer with states, and says which states there are, in the order of layers.

    kind_of: tells whether a layer has some.
    """
    layers: list[StateLayer] = []
    for name, module in model.named_modules():
        kind = kind_of(module)
        if kind is not None:
            shapes = kind.shapes(module)
            setattr(module, STATES, range(len(layers), len(layers) + len(shapes)))
            layers += [StateLayer(name=name, shape=shape) for shape in shapes]
            module.forward = kind.forward.__get__(module)
            for linear in kind.reads:
                setattr(getattr(module, linear), READ, True)
    return tuple(layers)
