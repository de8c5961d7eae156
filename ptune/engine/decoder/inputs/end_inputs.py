"""Inputs of a step for sockets at a decoder's ends: each token's embedding as its adapter has it, and rows of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ptune.engine.decoder.inputs.flat_tokens import Indices
from ptune.engine.decoder.inputs.images import put_rows
from ptune.engine.decoder.sequence import Chunk
from ptune.engine.onnx_graph import Array
from ptune.formats.signature import Ends


class EndInputs:
    """Makes `input_ids` and `Ends.step_inputs` of one bundle."""

    def __init__(self, ends: Ends, vocab: int) -> None:
        self._kept, self._shift = ends.step_inputs
        self._width, self._vocab = ends.width, vocab
        self._neutral: tuple[tuple[int, ...], dict[str, Array]] | None = None

    def of(self, chunks: Sequence[Chunk], cells: Indices, ids: Array) -> dict[str, Array]:
        """The inputs for chunks whose tokens lie in `cells` of ids [groups, tokens], chunk after chunk.

        Tokens of an adapter's own, and rows of images, reach the graph as token 0, whose embedding is then replaced.
        """
        if all(
            not chunk.sees and (chunk.sequence.adapter is None or chunk.sequence.adapter.ends is None)
            for chunk in chunks
        ):
            return self._nothing(ids.shape)
        kept, shift = np.ones(ids.size, np.bool_), np.zeros((ids.size, self._width), np.float32)
        flat, start = ids.reshape(-1), 0
        for chunk in chunks:
            mine, start = cells[start : start + len(chunk)], start + len(chunk)
            adapter = chunk.sequence.adapter
            if adapter is not None and adapter.ends is not None:
                kept[mine], shift[mine] = adapter.ends.embedded(flat[mine])
            if chunk.sees:
                kept[mine], shift[mine] = put_rows(
                    chunk.sequence.pictures, flat[mine], kept[mine], shift[mine]
                )
        return {
            "input_ids": np.where(ids < self._vocab, ids, 0),
            self._kept: kept.reshape(*ids.shape, 1),
            self._shift: shift.reshape(*ids.shape, self._width),
        }

    def _nothing(self, shape: tuple[int, ...]) -> dict[str, Array]:
        """The inputs of a step that changes no embedding; the same arrays as long as its shape is the same."""
        if self._neutral is None or self._neutral[0] != shape:
            kept, shift = np.ones((*shape, 1), np.bool_), np.zeros((*shape, self._width), np.float32)
            self._neutral = shape, {self._kept: kept, self._shift: shift}
        return self._neutral[1]
