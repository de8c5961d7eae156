"""Packs answers to the same prompt into flat rows, each prompt once.

The tokens that all answers of a group begin with, the prompt and perhaps more, stand in a row once, followed by the rest of
each answer: [shared][rest of the first][rest of the second]… Positions after the shared tokens restart for each answer, and
attention lays the answers out as examples of their own (`ptune.training.rows.segments.Shared`). Every other layer computes the
shared tokens once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ptune.codecs.chat import Example
from ptune.training.rows.packing import Batch, Share, bins, idle, one_each, targets
from ptune.training.rows.segments import Shared


class Answered(Protocol):
    """A prompt and its answers."""

    @property
    def sides(self) -> Sequence[Example]:
        """Prompt and answer, for each answer."""


G = TypeVar("G", bound=Answered)


@dataclass(frozen=True)
class AnswerRows(Generic[G]):
    """Groups of answers, and the forward passes that compute their targets."""

    groups: tuple[G, ...]  # none for a process that has nothing to compute
    passes: tuple[Batch, ...]
    of: Tensor  # [targets] the answer of each target of all passes, counted through all groups


def size(group: Answered) -> int:
    """Tokens of a group in a row."""
    return sum(map(len, group.sides)) - (len(group.sides) - 1) * alike(group)


def alike(group: Answered) -> int:
    """How many tokens all answers begin with; each keeps at least one of its own."""
    most = min(map(len, group.sides)) - 1
    columns = zip(*(side.ids[:most] for side in group.sides), strict=True)
    return next((at for at, column in enumerate(columns) if len(set(column)) > 1), most)


def answer_rows(
    groups: Sequence[G], max_tokens: int, device: torch.device, share: Share, *, packed: bool
) -> Iterator[AnswerRows[G]]:
    """This process's rows of whole groups, at most `max_tokens` tokens each; a longer group gets its own row.

    packed: whether the model keeps the examples of a row apart; else each answer is a pass of its own.
    """
    sizes = [size(group) for group in groups]
    rows = bins(sizes, max_tokens if packed else 1, share.processes)
    most = 1 if packed else max(len(group.sides) for group in groups)
    for row in rows[share.process :: share.processes]:
        own = tuple(groups[index] for index in row)
        if packed and own:
            yield _packed(own, device)
        else:  # every process makes the same number of passes
            yield _apart(own, groups[0], most, device)


def _apart(own: tuple[G, ...], any_group: G, passes: int, device: torch.device) -> AnswerRows[G]:
    sides = [side for group in own for side in group.sides]
    of = [number for number, side in enumerate(sides) for _ in range(targets(side))]
    made = one_each([*sides, *[idle(any_group.sides[0])] * (passes - len(sides))], device)
    return AnswerRows(own, tuple(made), _tensor(of, device))


def _packed(groups: tuple[G, ...], device: torch.device) -> AnswerRows[G]:
    ids: list[int] = []  # of the row's columns
    positions: list[int] = []
    columns: list[int] = []  # of each token of all answers
    lengths: list[int] = []
    predict_at: list[int] = []
    labels: list[int] = []
    of: list[int] = []  # the answer of each target
    for group in groups:
        common, first = alike(group), len(ids)
        ids += group.sides[0].ids[:common]
        positions += range(common)
        for side in group.sides:
            own = [*range(first, first + common), *range(len(ids), len(ids) + len(side) - common)]
            ids += side.ids[common:]
            positions += range(common, len(side))
            wanted = [at for at, target in enumerate(side.targets) if target and at > 0]
            predict_at += [own[at - 1] for at in wanted]
            labels += [side.ids[at] for at in wanted]
            of += [len(lengths)] * len(wanted)
            lengths.append(len(side))
            columns += own
    places = [0] * len(ids)
    for place in reversed(range(len(columns))):
        places[columns[place]] = place
    batch = Batch(
        input_ids=_tensor([ids], device),
        position_ids=_tensor([positions], device),
        lengths=tuple(lengths),
        predict_at=_tensor(predict_at, device),
        labels=_tensor(labels, device),
        shared=Shared(_tensor(columns, device), _tensor(places, device)),
    )
    return AnswerRows(groups, (batch,), _tensor(of, device))


def _tensor(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long, device=device)
