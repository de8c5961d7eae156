"""Packs pairs of answers into flat rows, each prompt once.

The tokens that both answers of a pair begin with, the prompt and perhaps more, stand in a row once, followed by the rest of
either answer: [shared][rest of chosen][rest of rejected]. Positions after the shared tokens restart for the second answer,
and attention lays the two sides out as examples of their own (`ptune.training.segments.Shared`). Every other layer computes
the shared tokens once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ptune.codecs.chat import Example
from ptune.data.preferences import Pair
from ptune.training.packing import Batch, Share, bins, one_each
from ptune.training.segments import Shared


@dataclass(frozen=True)
class PairRows:
    """Pairs, and the forward passes that compute their targets."""

    pairs: tuple[Pair, ...]  # none for a process that has nothing to compute
    passes: tuple[Batch, ...]
    of: Tensor  # [targets] the example of each target of all passes: 2 i is the i-th pair's better answer, 2 i + 1 the other


def size(pair: Pair) -> int:
    """Tokens of a pair in a row."""
    return len(pair) - alike(pair)


def alike(pair: Pair) -> int:
    """How many tokens both sides begin with; each keeps at least one of its own."""
    most = min(len(pair.chosen), len(pair.rejected)) - 1
    both = zip(pair.chosen.ids[:most], pair.rejected.ids, strict=False)
    return next((at for at, (one, other) in enumerate(both) if one != other), most)


def pair_rows(
    pairs: Sequence[Pair], max_tokens: int, device: torch.device, share: Share, *, packed: bool
) -> Iterator[PairRows]:
    """This process's rows of whole pairs, at most `max_tokens` tokens each; a longer pair gets its own row.

    packed: whether the model keeps the examples of a row apart; else each side is a pass of its own.
    """
    sizes = [size(pair) for pair in pairs]
    rows = bins(sizes, max_tokens if packed else 1, share.processes)
    for row in rows[share.process :: share.processes]:
        own = tuple(pairs[index] for index in row)
        if not own:
            idle = Example(pairs[0].chosen.ids[:1], (False,))
            passes = tuple(one_each([idle] * (1 if packed else 2), device))
            yield PairRows((), passes, torch.zeros(0, dtype=torch.long, device=device))
        elif packed:
            yield _packed(own, device)
        else:
            yield _apart(own, device)


def _apart(pairs: tuple[Pair, ...], device: torch.device) -> PairRows:
    sides = [side for pair in pairs for side in pair.sides]
    of = [number for number, side in enumerate(sides) for _ in range(_targets(side))]
    return PairRows(pairs, tuple(one_each(sides, device)), torch.tensor(of, dtype=torch.long, device=device))


def _packed(pairs: tuple[Pair, ...], device: torch.device) -> PairRows:
    ids: list[int] = []  # of the row's columns
    positions: list[int] = []
    columns: list[int] = []  # of each token of all sides
    lengths: list[int] = []
    predict_at: list[int] = []
    labels: list[int] = []
    of: list[int] = []  # the example of each target
    for pair in pairs:
        common, first = alike(pair), len(ids)
        ids += pair.chosen.ids[:common]
        positions += range(common)
        for side in pair.sides:
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
    return PairRows(pairs, (batch,), _tensor(of, device))


def _targets(example: Example) -> int:
    return sum(example.targets[1:])


def _tensor(numbers: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long, device=device)
