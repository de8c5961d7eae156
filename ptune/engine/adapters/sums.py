"""Sums of LoRA adapters with factors, as one adapter: its factors are those of the parts, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ptune.engine.adapters.ends import EndChanges
from ptune.engine.adapters.lora import Adapter, Factor
from ptune.errors import AdapterError, RequestError
from ptune.formats.adapter_sum import AdapterSum
from ptune.formats.bundle import AdapterRecord

MOST_SUMS = 16  # of one engine in memory
WIDER, LEAST_WIDE = (
    2,
    64,
)  # rank of a sum: so many times that of the bundle's widest adapter, or this; all in a step become as wide

Part = tuple[Adapter, float]
Pair = tuple[Factor, Factor]


def record_of(found: AdapterSum, records: Sequence[AdapterRecord], widest: int) -> AdapterRecord:
    """The record of a sum: prompt, template and defaults are those of its first part.

    records: of its parts. widest: the largest rank of all adapters. Raises: RequestError where it cannot be served.
    """
    for record in records:
        if not record.in_sums:
            raise _refused(f"adapter {record.name!r} {_more(record)}, and is no part of a sum")
    rank, most = sum(record.rank for record in records), max(LEAST_WIDE, WIDER * widest)
    if rank > most:
        raise _refused(f"the sum {found.name!r} has rank {rank}, and here sums have up to {most}")
    measured = all(record.parity == "measured" for record in records)
    return records[0].model_copy(
        update={
            "name": found.name,
            "files": {},
            "rank": rank,
            "folded": None,
            "parity": "measured" if measured else "unmeasured",
            "hops": (),
        }
    )


def combined(name: str, parts: Sequence[Part]) -> Adapter:
    """The sum of the parts' updates. Raises: AdapterError for parts that are more than updates."""
    for part, _ in parts:
        if not part.is_update:
            raise AdapterError(f"adapter {part.name!r} is more than an update, and is no part of a sum")
    biased = any(part.biased for part, _ in parts)
    sockets = dict.fromkeys(socket for part, _ in parts for socket in part.factors)
    factors = {
        socket: _joined([(part, factor) for part, factor in parts if socket in part.factors], socket, biased)
        for socket in sockets
    }
    ends = _ends(parts)
    ranks = [a.shape[1] for a, _ in factors.values()]
    return Adapter(
        name=name,
        rank=max([*ranks, 0 if ends is None else ends.rank]),
        factors=factors,
        bytes=sum(a.nbytes + b.nbytes for a, b in factors.values()) + (0 if ends is None else ends.bytes),
        ends=ends,
        biased=biased,
    )


def _joined(parts: Sequence[Part], socket: str, biased: bool) -> Pair:
    """A [in, R] and B [R, out] of one socket. biased: whether their first rank is a bias, as it then is of each such part's."""
    pairs: list[Pair] = []
    row = np.zeros((1, parts[0][0].factors[socket][1].shape[1]), np.float32)
    for part, factor in parts:
        a, b = part.factors[socket]
        b = b * np.float32(factor)
        if part.biased:
            row, a, b = row + b[:1], a[:, 1:], b[1:]
        pairs.append((a, b))
    if biased:
        pairs.insert(0, (np.zeros((len(pairs[0][0]), 1), np.float32), row))
    return _side_by_side(pairs)


def _ends(parts: Sequence[Part]) -> EndChanges | None:
    """The sum of the parts' LoRA of the embedding."""
    with_ends = [(part.ends, factor) for part, factor in parts if part.ends is not None]
    pairs = [
        (ends.low_rank[0], ends.low_rank[1] * np.float32(factor))
        for ends, factor in with_ends
        if ends.low_rank is not None
    ]
    if not pairs:
        return None
    first = with_ends[0][0]
    return EndChanges(
        first.base_vocab,
        first.vocab,
        first.row_ids,
        first.rows,
        first.column_ids,
        first.columns,
        _side_by_side(pairs),
    )


def _side_by_side(pairs: Iterable[Pair]) -> Pair:
    a, b = zip(*pairs, strict=True)
    return np.ascontiguousarray(np.concatenate(a, 1)), np.ascontiguousarray(np.concatenate(b))


def _more(record: AdapterRecord) -> str:
    """How an adapter is more than an update."""
    if record.virtual_tokens:
        return "brings virtual tokens"
    return "acts from its invocation on" if record.invocation else "is more than an update of layers"


def _refused(message: str) -> RequestError:
    return RequestError(message, param="model", code="invalid_sum")
