"""Which waiting items share a pass, and how they are padded. Pure functions: no thread, no clock, no graph."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ptune.engine.onnx_graph import Array
from ptune.formats.bundle import BASE
from ptune.formats.signature import EncoderSignature

TOKENS_A_THREAD = 512  # of a pass, padding included: more, and what lies between the layers no longer fits into a core's cache
MOST_PADDING = 0.25  # share of padding among a pass's tokens


@dataclass(frozen=True, eq=False)
class Item:
    """One text or image for the encoder, under one adapter.

    inputs: of a text `input_ids` [seq] and, where the signature has `type_ids`, `token_type_ids` [seq]; of an image
        `pixel_values` [3, H, W]. Without a batch axis.
    adapter: `base` gives the body's hidden states instead of a head's logits.
    deadline_s: seconds after its submission at which it fails unless its pass has begun; None = never.
    """

    inputs: Mapping[str, Array]
    adapter: str = BASE
    deadline_s: float | None = None

    @property
    def length(self) -> int:
        """Tokens; 1 of an image."""
        ids = self.inputs.get("input_ids")
        return 1 if ids is None else len(ids)


def choose(
    lengths: Sequence[int], most_rows: int, most_tokens: int, most_padding: float = MOST_PADDING
) -> list[int]:
    """Chooses from the waiting items (in order of arrival) for the next pass: the oldest, and those nearest in length.

    No more than `most_rows`; more than one only while all of them, padded to the longest, stay within `most_tokens`
    and no more than a share of `most_padding` of that is padding. Nobody waits for ever: the oldest always goes.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    low = high = bisect_left(order, (lengths[0], 0), key=lambda index: (lengths[index], index))
    real = lengths[0]
    while high - low + 1 < most_rows:
        sides = [index for index in (low - 1, high + 1) if 0 <= index < len(order)]
        if not sides:
            break
        nearest = min(sides, key=lambda index: (abs(lengths[order[index]] - lengths[0]), order[index]))
        longest = max(lengths[order[high]], lengths[order[nearest]])
        padded = longest * (high - low + 2)
        more = real + lengths[order[nearest]]
        if padded > most_tokens or padded - more > most_padding * padded:
            break
        low, high, real = min(low, nearest), max(high, nearest), more
    return order[low : high + 1]


def least_tokens(rank: int, threads: int) -> int:
    """Fewest tokens of a pass: with fewer, its size would change the order in which onnxruntime adds.

    Its float32 products add otherwise where a thread has a single row, and where a factor has more columns than there are rows,
    since then threads share the columns.
    """
    return max(rank, 2 * threads)


def most_rows(signature: EncoderSignature, most: int, threads: int) -> int:
    """Most rows of a pass under an adapter; most: of other passes.

    Threads share the pixels of a single image and the images of several: a convolution whose kernel is an input then adds in
    another order. So images come one at a time.
    """
    return 1 if threads > 1 and any(socket.kernel is not None for socket in signature.sockets) else most


def padded(items: Sequence[Item], signature: EncoderSignature, least: int = 1) -> dict[str, Array]:
    """The body's inputs except `lora_mask` and the factors, one row for each item. least: tokens, padding included."""
    if signature.modality == "image":
        return {"pixel_values": np.stack([item.inputs["pixel_values"] for item in items])}
    lengths = np.array([item.length for item in items], np.int64)
    names = ["input_ids", *(["token_type_ids"] if signature.type_ids else [])]
    width = max(lengths.max(), math.ceil(least / len(items)))
    rows = {name: np.zeros((len(items), width), np.int64) for name in names}
    for name, array in rows.items():
        for row, item in enumerate(items):
            if name in item.inputs:
                array[row, : item.length] = item.inputs[name]
    return {**rows, "lengths": lengths}
