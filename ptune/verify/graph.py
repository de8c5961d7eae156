"""Runs a bundle's graph directly, one whole sequence at a time: the exporter's word, without the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptune.formats.signature import Signature
from ptune.parity import Array, log_softmax

Factors = Mapping[
    str, tuple[NDArray[np.float32], NDArray[np.float32]]
]  # socket -> A [in, r], B [r, out], B scaled


class PlainGraph:
    """An onnxruntime session that is fed the obvious way."""

    def __init__(self, path: Path, signature: Signature, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.signature = signature
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def logprobs(self, ids: Sequence[int], wanted: Sequence[int], factors: Factors | None = None) -> Array:
        """Log-probabilities [len(wanted), vocab] after the wanted positions of one sequence."""
        tokens = len(ids)
        rank = next(iter(factors.values()))[0].shape[1] if factors else 0
        order = np.arange(tokens, dtype=np.int64)
        feeds: dict[str, NDArray[np.generic]] = {
            "input_ids": np.array([ids], np.int64),
            "position_ids": order[None],
            "pad_indices": order[None],
            "unpad_indices": order,
            "seqlens_k": np.array([tokens - 1], np.int32),
            "query_seqlens": np.array([tokens], np.int32),
            "capacity": np.array(tokens, np.int32),
            "logits_indices": np.array(wanted, np.int64),
            "lora_mask": np.ones((1, tokens, rank), np.float32),
        }
        for layer, cache in enumerate(self.signature.cache):
            for kind, dim in (("key", cache.key_dim), ("value", cache.value_dim)):
                feeds[f"past_{kind}.{layer}"] = np.zeros((1, cache.kv_heads, tokens, dim), np.float32)
        for socket in self.signature.sockets:
            a, b = (
                factors[socket.name]
                if factors and socket.name in factors
                else (
                    np.zeros((socket.in_features, rank), np.float32),
                    np.zeros((rank, socket.out_features), np.float32),
                )
            )
            feeds |= {f"{socket.name}.A": a[None], f"{socket.name}.B": b[None]}
        names = {entry.name for entry in self.session.get_inputs()}
        (logits,) = self.session.run(
            ["logits"], {name: value for name, value in feeds.items() if name in names}
        )
        return log_softmax(logits[0])


def random_factors(signature: Signature, rank: int, seed: int, scale: float) -> Factors:
    """Non-zero factors for every socket: an adapter that no socket may ignore.

    A has columns of about unit length, so an update moves a layer's output by about `scale` of its input.
    """
    random = np.random.default_rng(seed)
    return {
        socket.name: (
            (random.standard_normal((socket.in_features, rank)) / np.sqrt(socket.in_features)).astype(
                np.float32
            ),
            (random.standard_normal((rank, socket.out_features)) * scale / np.sqrt(rank)).astype(np.float32),
        )
        for socket in signature.sockets
    }
