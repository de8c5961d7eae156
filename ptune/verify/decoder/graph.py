"""Runs a bundle's exported graph directly, one whole sequence at a time, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptune.codecs.positions import TokenPositions
from ptune.engine.decoder.cache.kv_cache import read_scales, stored
from ptune.engine.onnx_graph import open_graph
from ptune.formats.bundle import FLOAT_CACHE, INT8_CACHE
from ptune.formats.signature import Signature
from ptune.parity import Array, log_softmax
from ptune.verify.decoder.plain_ends import PlainEnds
from ptune.verify.reference import Factors, padded


class PlainGraph:
    """An onnxruntime session, run in the plainest way."""

    def __init__(self, path: Path, signature: Signature, threads: int) -> None:
        self.signature = signature
        self.session = open_graph(
            path, threads
        )  # as servers do: other settings have attention add in another order
        self._scales = read_scales(path, "int8" if path.name == INT8_CACHE else FLOAT_CACHE)

    def logprobs(
        self,
        ids: Sequence[int],
        wanted: Sequence[int],
        factors: Factors | None = None,
        of_ends: PlainEnds = PlainEnds(),
        start: int = 0,
    ) -> Array:
        """Log-probabilities [len(wanted), vocab of the adapter] after the wanted tokens of one sequence.

        start: position of the first token, virtual ones included, if the text begins later in the model's context.
        """
        feeds = self._feeds(ids, wanted, factors, of_ends, start)
        (logits,) = self.session.run(["logits"], feeds)
        return log_softmax(of_ends.logits(logits[0], self.signature.vocab_size))

    def caches(
        self, ids: Sequence[int], start: int, factors: Factors | None, of_ends: PlainEnds
    ) -> dict[str, Array]:
        """Keys and values of one sequence that begins at position `start`, with virtual tokens first: cache input ->
        [kv_heads, tokens, dim]."""
        found = self.session.run(
            self.signature.present_names(), self._feeds(ids, [0], factors, of_ends, start)
        )
        return {name: cache[0] for name, cache in zip(self.signature.past_names(), found, strict=True)}

    def _positions(self, ids: Sequence[int], start: int, of_ends: PlainEnds) -> NDArray[np.int64]:
        """[1, tokens], or [3, 1, tokens]."""
        if self.signature.axes == 1:
            return start + np.arange(len(ids), dtype=np.int64)[None]
        return start + TokenPositions.of(ids, of_ends.grids).table[:, None]

    def _feeds(
        self,
        ids: Sequence[int],
        wanted: Sequence[int],
        factors: Factors | None,
        of_ends: PlainEnds,
        start: int,
    ) -> dict[str, NDArray[np.generic]]:
        tokens, before = len(ids), of_ends.before
        rank = max((a.shape[1] for a, _ in (factors or {}).values()), default=0)
        order = np.arange(tokens, dtype=np.int64)
        feeds: dict[str, NDArray[np.generic]] = {
            "input_ids": np.array([ids], np.int64),
            "position_ids": self._positions(ids, start + before, of_ends),
            "pad_indices": order[None],
            "unpad_indices": order,
            "seqlens_k": np.array([before + tokens - 1], np.int32),
            "query_seqlens": np.array([tokens], np.int32),
            "capacity": np.array(before + tokens, np.int32),
            "logits_indices": np.array(wanted, np.int64),
            "lora_mask": np.repeat(of_ends.acts(ids), rank).reshape(1, tokens, rank).astype(np.float32),
        }
        if self.signature.states:
            feeds |= {
                "state_pad_indices": order[None],
                "state_unpad_indices": order,
                "new_tokens": np.array([tokens], np.int64),
            }
        for name, state in zip(self.signature.past_state_names(), self.signature.states, strict=True):
            feeds[name] = np.zeros((1, *state.shape), np.float32)
        entries = {entry.name: entry.type for entry in self.session.get_inputs()}
        for layer, cache in enumerate(self.signature.cache):
            for kind, dim in (("key", cache.key_dim), ("value", cache.value_dim)):
                name = f"past_{kind}.{layer}"
                dtype = np.int8 if entries[name] == "tensor(int8)" else np.float32
                feeds[name] = np.zeros((1, cache.kv_heads, before + tokens, dim), dtype)
                if name in of_ends.prefix:
                    feeds[name][0, :, :before] = stored(of_ends.prefix[name], self._scales.get(name))
        for socket in self.signature.sockets:
            a, b = padded(socket, (factors or {}).get(socket.name), rank)
            feeds |= {f"{socket.name}.A": a[None], f"{socket.name}.B": b[None]}
        if (ends := self.signature.ends) is not None:
            feeds |= of_ends.inputs(ids, ends, self.signature.vocab_size, rank)
        for name, size in self.signature.gain_sizes().items():
            feeds[name] = of_ends.gains.get(name, np.zeros(size, np.float32))[None, None]
        return {name: value for name, value in feeds.items() if name in entries}
