"""Runs a bundle's exported graph directly, one whole sequence at a time, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptune.formats.signature import Signature
from ptune.parity import Array, log_softmax
from ptune.verify.plain_ends import PlainEnds
from ptune.verify.reference import Factors, padded


class PlainGraph:
    """An onnxruntime session, run in the plainest way."""

    def __init__(self, path: Path, signature: Signature, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.signature = signature
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def logprobs(
        self,
        ids: Sequence[int],
        wanted: Sequence[int],
        factors: Factors | None = None,
        of_ends: PlainEnds = PlainEnds(),
    ) -> Array:
        """Log-probabilities [len(wanted), vocab of the adapter] after the wanted positions of one sequence."""
        tokens = len(ids)
        rank = max((a.shape[1] for a, _ in (factors or {}).values()), default=0)
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
            a, b = padded(socket, (factors or {}).get(socket.name), rank)
            feeds |= {f"{socket.name}.A": a[None], f"{socket.name}.B": b[None]}
        vocab = self.signature.vocab_size
        if (ends := self.signature.ends) is not None:
            feeds |= of_ends.inputs(ids, ends, vocab, rank)
        names = {entry.name for entry in self.session.get_inputs()}
        (logits,) = self.session.run(
            ["logits"], {name: value for name, value in feeds.items() if name in names}
        )
        return log_softmax(of_ends.logits(logits[0], vocab))
