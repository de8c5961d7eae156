"""Runs an encoder's graphs directly, one input at a time: the exporter's word, without the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptune.engine.onnx_graph import Array
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import EncoderSignature, Socket
from ptune.verify.encoder_torch import Inputs
from ptune.verify.graph import Factors


class PlainEncoder:
    """An onnxruntime session of a body, fed the obvious way."""

    def __init__(self, path: Path, signature: EncoderSignature, threads: int) -> None:
        self.signature = signature
        self.session = _session(path, threads)

    def hidden(self, inputs: Sequence[Inputs], factors: Factors | None = None) -> list[NDArray[np.float32]]:
        """Hidden states of each input alone, without the batch axis; `factors` as `peft_factors` gives them."""
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
        (found,) = self.session.run(["hidden"], feeds)
        return found[0]


def run_head(path: Path, states: Sequence[NDArray[np.float32]], modality: str) -> list[NDArray[np.float32]]:
    """What a head's graph says of each input's hidden states."""
    session = _session(path, 1)
    found = []
    for state in states:
        feeds: dict[str, Array] = {"hidden": state[None]}
        if modality == "text":
            feeds["lengths"] = np.array([len(state)], np.int64)
        found.append(session.run(["logits"], feeds)[0][0])
    return found


def random_factors(
    signature: EncoderSignature | Seq2SeqSignature, rank: int, seed: int, scale: float
) -> Factors:
    """Non-zero factors for every socket: an adapter that no socket may ignore."""
    random = np.random.default_rng(seed)

    def one(socket: Socket) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        a, b = padded(socket, None, rank)
        inner = a.size // rank
        return (
            (random.standard_normal(a.shape) / np.sqrt(inner)).astype(np.float32),
            (random.standard_normal(b.shape) * scale / np.sqrt(rank)).astype(np.float32),
        )

    return {socket.name: one(socket) for socket in signature.sockets}


def padded(
    socket: Socket, pair: tuple[NDArray[np.float32], NDArray[np.float32]] | None, rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A socket's factors with zeros up to `rank`."""
    if socket.kernel is None:
        a = np.zeros((socket.in_features, rank), np.float32)
        b = np.zeros((rank, socket.out_features), np.float32)
    else:
        a = np.zeros((rank, socket.in_features, *socket.kernel), np.float32)
        b = np.zeros((socket.out_features, rank, 1, 1), np.float32)
    if pair is not None:
        for whole, part in zip((a, b), pair, strict=True):
            whole[tuple(slice(size) for size in part.shape)] = part
    return a, b


def _rank(socket: Socket, a: NDArray[np.float32]) -> int:
    return a.shape[1] if socket.kernel is None else a.shape[0]


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
