"""Groups examples of similar length into padded batches."""

from __future__ import annotations

from collections.abc import Sequence


def padded_rows(lengths: Sequence[int], max_tokens: int, processes: int = 1) -> list[list[int]]:
    """Indices of the examples in each batch, the longest first; similar lengths share a batch to avoid padding.

    A batch has at most `max_tokens` tokens, padding included; a longer example gets its own batch. The number of batches
    is a multiple of `processes`: large batches are halved until it is, or some stay empty.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
        batches[-1].append(index)
    while len(batches) % processes:
        large = max(range(len(batches)), key=lambda at: lengths[batches[at][0]] * len(batches[at]))
        batch, middle = batches[large], len(batches[large]) // 2
        if not middle:
            batches += [[] for _ in range(-len(batches) % processes)]
        else:
            batches[large : large + 1] = [batch[:middle], batch[middle:]]
    return batches
