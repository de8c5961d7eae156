"""Runs an encoder's exported graphs directly, one input at a time, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptune.engine.onnx_graph import Array
from ptune.formats.signature import EncoderSignature, Socket
from ptune.verify.encoder.torch_side import Inputs
from ptune.verify.reference import Factors, padded


class PlainEncoder:
    """An onnxruntime session of a body, run in the plainest way."""

    def __init__(self, path: Path, signature: EncoderSignature, threads: int) -> None:
        self.signature = signature
        self.session = _session(path, threads)

    def hidden(self, inputs: Sequence[Inputs], factors: Factors | None = None) -> list[NDArray[np.float32]]:
        """Hidden states of each input alone, without the batch axis. factors: as from `peft_factors`."""
        return [self._one(one, factors or {}) for one in inputs]

    def _one(self, inputs: Inputs, factors: Factors) -> NDArray[np.float32]:
        ranks = [
            _rank(socket, factors[socket.name][0])
            for socket in self.signature.sockets
            if socket.name in factors
        ]
        rank = max(ranks, default=0)
        feeds: dict[str, Array] = {name: array[None] for name, array in inputs.items()}
        if self.signature.modality == "text":
            feeds["lengths"] = np.array([len(inputs["input_ids"])], np.int64)
        feeds["lora_mask"] = np.ones((1, rank), np.float32)
        for socket in self.signature.sockets:
            a, b = padded(socket, factors.get(socket.name), rank)
            feeds |= {f"{socket.name}.A": a, f"{socket.name}.B": b}
        (states,) = self.session.run(["hidden"], feeds)
        return states[0]


def run_head(path: Path, states: Sequence[NDArray[np.float32]], modality: str) -> list[NDArray[np.float32]]:
    """Runs a head's graph on each input's hidden states."""
    session = _session(path, 1)
    logits = []
    for state in states:
        feeds: dict[str, Array] = {"hidden": state[None]}
        if modality == "text":
            feeds["lengths"] = np.array([len(state)], np.int64)
        logits.append(session.run(["logits"], feeds)[0][0])
    return logits


def _rank(socket: Socket, a: NDArray[np.float32]) -> int:
    return a.shape[1] if socket.kernel is None else a.shape[0]


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
