"""Packs answers into rows, and knows whose each target is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ptune.codecs.chat import Example
from ptune.training.rows.packing import Batch, Share, bins, idle, row_of, targets


@dataclass(frozen=True)
class Row:
    """Answers for one forward pass."""

    indices: tuple[int, ...]  # of the answers; none for a process that has nothing to compute
    batch: Batch
    of: Tensor  # [targets] the place in `indices` of each target's answer


def rows(
    examples: Sequence[Example], max_tokens: int, device: torch.device, share: Share, *, packed: bool
) -> Iterator[Row]:
    """This process's rows of whole examples, at most `max_tokens` tokens each; a longer one gets its own row.

    packed: whether the model keeps the examples of a row apart; else each has a row of its own.
    """
    sizes = [len(example) for example in examples]
    divided = bins(sizes, max_tokens if packed else 1, share.processes)
    for indices in divided[share.process :: share.processes]:
        own = [examples[index] for index in indices]
        of = [place for place, example in enumerate(own) for _ in range(targets(example))]
        batch = row_of(own or [idle(examples[0])], device)
        yield Row(tuple(indices), batch, torch.tensor(of, dtype=torch.long, device=device))
