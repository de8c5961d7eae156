"""Packs whole examples into flat rows without padding; positions restart with each example.

A row is one forward pass. A step has as few rows as possible, of nearly equal length, so that no pass needs much more
memory than another. Every process gets the same number of rows, so that none waits forever for another.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ptune.codecs.chat import Example
from ptune.training.rows.segments import Shared


class Share(NamedTuple):
    """The share of the rows that one process computes."""

    process: int
    processes: int


ALONE = Share(0, 1)


@dataclass(frozen=True)
class Batch:
    """One row of whole examples, for one forward pass."""

    input_ids: torch.Tensor  # [1, tokens]
    position_ids: torch.Tensor  # [1, tokens], restarting with each example
    lengths: tuple[int, ...]  # of the examples, in tokens
    predict_at: torch.Tensor  # [targets] columns whose next token is a target
    labels: torch.Tensor  # [targets] those next tokens
    shared: Shared | None = None  # where examples share their first tokens
    weights: torch.Tensor | None = None  # [targets] how often each counts while it trains; None: once


def targets(example: Example) -> int:
    """Number of tokens to predict; the first token of an example cannot be predicted."""
    return sum(example.targets[1:])


def pack(
    examples: Sequence[Example], max_tokens: int, device: torch.device | str, share: Share = ALONE
) -> Iterator[Batch]:
    """The rows of one process: whole examples, at most `max_tokens` tokens per row. A longer example gets its own row."""
    rows = bins([len(example) for example in examples], max_tokens, share.processes)
    yield from _own(rows, examples, device, share)


def one_each(
    examples: Sequence[Example], device: torch.device | str, share: Share = ALONE
) -> Iterator[Batch]:
    """One row per example, for models that cannot keep packed examples apart."""
    rows = [[index] for index in range(len(examples))]
    rows += [[] for _ in range(-len(rows) % share.processes)]
    yield from _own(rows, examples, device, share)


def bins(lengths: Sequence[int], max_tokens: int, processes: int = 1) -> list[list[int]]:
    """Indices of the examples in each row; the number of rows is a multiple of `processes`.

    First-fit decreasing gives the number of rows. The examples are then spread evenly over that many rows, the longest
    first, each into the shortest row (LPT: Graham 1969, https://doi.org/10.1137/0117039). If that overfills a row, the
    first-fit rows are used. Within a row examples keep the given order.
    """
    longest_first = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    fitted = _first_fit(longest_first, lengths, max_tokens)
    count = -(-len(fitted) // processes) * processes
    spread = _spread(longest_first, lengths, count)
    overfull = any(len(row) > 1 and sum(lengths[index] for index in row) > max_tokens for row in spread)
    rows = fitted + [[] for _ in range(count - len(fitted))] if overfull else spread
    return [sorted(row) for row in rows]


def _first_fit(order: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Puts each example into the first row with room, found in a tree of maxima: O(n log n)."""
    leaves = 1 << max(1, len(order) - 1).bit_length()
    room = [max_tokens] * (2 * leaves)  # room[i] = the largest room of any row below node i
    rows: list[list[int]] = []
    for index in order:
        node, size = 1, min(lengths[index], max_tokens)
        while node < leaves:
            node = 2 * node if room[2 * node] >= size else 2 * node + 1
        if node - leaves == len(rows):
            rows.append([])
        rows[node - leaves].append(index)
        room[node] -= size
        while node > 1:
            node //= 2
            room[node] = max(room[2 * node], room[2 * node + 1])
    return rows


def _spread(order: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, row) for row in range(count)]
    for index in order:
        load, row = loads[0]
        rows[row].append(index)
        heapq.heapreplace(loads, (load + lengths[index], row))
    return rows


def _own(
    rows: Sequence[Sequence[int]], examples: Sequence[Example], device: torch.device | str, share: Share
) -> Iterator[Batch]:
    """Every `processes`-th row, built on demand."""
    for indices in rows[share.process :: share.processes]:
        yield row_of([examples[index] for index in indices] or [idle(examples[0])], device)


def idle(example: Example) -> Example:
    """An example without a target, for a process that has no example of its own."""
    return Example(example.ids[:1], (False,))


def row_of(examples: Sequence[Example], device: torch.device | str) -> Batch:
    """One row of these examples, in their order."""
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
        weights=_weights(examples, device),
    )


def _weights(examples: Sequence[Example], device: torch.device | str) -> torch.Tensor | None:
    """[targets] in float64; None where all examples count once, so that their loss is summed as ever, to the bit."""
    if all(example.weight == 1 for example in examples):
        return None
    each = [example.weight for example in examples for _ in range(targets(example))]
    return torch.tensor(each, dtype=torch.float64, device=device)
