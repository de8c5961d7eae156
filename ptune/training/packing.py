"""Examples become flat rows: whole examples one after another, with positions that restart. No padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ptune.codecs.chat import Example


@dataclass(frozen=True)
class Batch:
    """One row of whole examples, for one forward pass."""

    input_ids: torch.Tensor  # [1, tokens]
    position_ids: torch.Tensor  # [1, tokens], restarting with each example
    lengths: tuple[int, ...]  # of the examples, in tokens
    predict_at: torch.Tensor  # [targets] columns whose next token is a target
    labels: torch.Tensor  # [targets] those next tokens


def targets(example: Example) -> int:
    """Number of tokens to be predicted; the first token of an example cannot be one."""
    return sum(example.targets[1:])


def pack(examples: Iterable[Example], max_tokens: int, device: torch.device | str) -> list[Batch]:
    """Fills rows of at most `max_tokens` tokens in the order given; a longer example is a row of its own."""
    rows: list[list[Example]] = []
    room = 0
    for example in examples:
        if len(example.ids) > room:
            rows.append([])
            room = max_tokens
        rows[-1].append(example)
        room -= len(example.ids)
    return [_row(row, device) for row in rows]


def one_each(examples: Iterable[Example], device: torch.device | str) -> list[Batch]:
    """A row an example, for models that cannot keep neighbours apart."""
    return [_row([example], device) for example in examples]


def _row(examples: Sequence[Example], device: torch.device | str) -> Batch:
    ids = [token for example in examples for token in example.ids]
    wanted = [place > 0 and flag for example in examples for place, flag in enumerate(example.targets)]
    columns = [column for column, flag in enumerate(wanted) if flag]
    return Batch(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor(
            [[place for example in examples for place in range(len(example.ids))]], device=device
        ),
        lengths=tuple(len(example.ids) for example in examples),
        predict_at=torch.tensor([column - 1 for column in columns], dtype=torch.long, device=device),
        labels=torch.tensor([ids[column] for column in columns], dtype=torch.long, device=device),
    )
