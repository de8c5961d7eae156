"""The states of one layer while it is traced, in the order in which it calls its kernels."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import embedding

from ptune.export.decoder.states import StateInputs


@dataclass
class LayerStates:
    """What a kernel reads of a step, and the states that it leaves."""

    step: StateInputs
    past: list[Tensor]
    present: list[Tensor] = field(default_factory=list)

    def take(self) -> Tensor:
        """The state of the kernel that is called, [batch, *shape]."""
        return self.past[len(self.present)]

    def rows(self, flat: Tensor) -> Tensor:
        """[groups, tokens, ...] -> [batch, rows, width]; cells behind a row's new tokens repeat its first one."""
        return self.step.rows(flat.flatten(2))

    def rows_with_zeros(self, flat: Tensor) -> Tensor:
        """The same with zeros in cells behind a row's new tokens."""
        cells = flat.reshape(flat.shape[0] * flat.shape[1], -1)
        return embedding(self._cells(cells.shape[0]), torch.cat([cells, cells.new_zeros(1, cells.shape[1])]))

    def _cells(self, zeros: int) -> Tensor:
        """[batch, rows]: the flat index of each new token, and `zeros` behind them. The same in all layers of a step."""
        step = self.step
        if step.new_cells is None:
            new = torch.arange(step.pad_indices.shape[1]) < step.new_tokens[:, None]
            step.new_cells = torch.where(new, step.pad_indices, zeros)
        return step.new_cells

    def flat(self, rows: Tensor, like: Tensor) -> Tensor:
        """[batch, rows, width] -> the shape of `like` [groups, tokens, ...]."""
        return self.step.flat(rows, like).reshape(like.shape)
