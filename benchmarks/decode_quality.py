"""How far 8-bit weights move a model's answers: KL(fp32 || 8-bit) and top-1 agreement over held-out text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.sides import Measured
from benchmarks.workers import Work

LONGEST = 1024


def conversations(files: Sequence[Path], bundle: Path, least: int, tokens: int) -> list[list[int]]:
    """Whole conversations of JSONL files (`messages`), from each file in turn, until there are `tokens` in all.

    Those that have fewer than `least` are passed over, longer ones than LONGEST cut.
    """
    from ptune.codecs.chat import ChatCodec
    from ptune.formats.bundle import Bundle

    codec = ChatCodec.open(Bundle.open(bundle).codec_path)
    found: list[list[int]] = []
    streams = [_lines(file) for file in files]
    while streams and sum(map(len, found)) < tokens:
        for stream in list(streams):
            messages = next(stream, None)
            if messages is None:
                streams.remove(stream)
            elif len(ids := list(codec.encode_example(messages).ids)) >= least:
                found.append(ids[:LONGEST])
    return found


def _lines(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["messages"]


@dataclass
class Compared:
    """One conversation: sums over its positions."""

    positions: int
    kl: float
    same: int


def quality(
    bundle: Path,
    profiles: Sequence[str],
    library: Path | None,
    files: Mapping[str, Path],
    genai: Path | None,
    threads: int,
) -> Work:
    """Compares profiles, and peers on some of it, with fp32, one conversation after the other.

    files: of llama.cpp. genai: onnxruntime-genai's folder.
    """
    from benchmarks.decode_sides import genai_logits, open_engine
    from ptune.formats.bundle import BASE
    from ptune.llama_cpp.library import Llama

    engines = {profile: open_engine(bundle, profile, threads) for profile in ("fp32", *profiles)}
    peers: dict[str, Callable[[Sequence[int]], Any]] = {
        name: Llama(library, file, threads, 1, LONGEST).logits for name, file in files.items() if library
    }
    if genai is not None:
        peers["genai"] = genai_logits(genai)

    def work(ids: Sequence[Sequence[int]], peer_tokens: int) -> Measured:
        found: dict[str, list[Any]] = {profile: [] for profile in profiles}
        seen = 0
        for sequence in ids:
            (reference,) = engines["fp32"].logits([sequence], [BASE])
            for profile in profiles:
                (logits,) = engines[profile].logits([sequence], [BASE])
                found[profile].append(vars(compared(reference, logits)))
            if seen < peer_tokens:
                for name, peer in peers.items():
                    there = compared(reference, peer(sequence))
                    found.setdefault(name, []).append(vars(there))
                seen += len(sequence)
        return {"compared": found}

    return work


def compared(reference: Any, logits: Any) -> Compared:
    """Logits [tokens, vocab] of both; KL(reference || logits) in float32, summed in float64."""
    import numpy as np

    here, there = _log_softmax(reference), _log_softmax(logits)
    kl = (np.exp(here) * (here - there)).sum(axis=-1, dtype=np.float64)
    same = reference.argmax(axis=-1) == logits.argmax(axis=-1)
    return Compared(len(reference), float(kl.sum()), int(same.sum()))


def _log_softmax(logits: Any) -> Any:
    import numpy as np

    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def weights_bytes(graph: Path) -> int:
    """Bytes of a graph's constants that a step reads: all but a table of which only rows are gathered."""
    import math

    import onnx

    model = onnx.load(graph, load_external_data=False)
    gathered: dict[str, bool] = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            only_rows = node.op_type in ("Gather", "GatherBlockQuantized") and index != 1
            gathered[name] = gathered.get(name, True) and only_rows
    total = 0.0
    for tensor in model.graph.initializer:
        if not gathered.get(tensor.name, True):
            total += math.prod(tensor.dims) * _item_bytes(tensor.data_type)
    return int(total)


def _item_bytes(kind: int) -> float:
    import onnx

    if kind in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        return 0.5
    return float(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
