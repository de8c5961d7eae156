"""Texts -> the encoder's engine -> vectors, and scores of pairs. Torch-free; the server uses the same pieces.

model = ptune.load("bundles/embed_lora")
embed(model, ["to walk slowly"], "embed_lora")              # [texts, width]
rerank(model, "to walk slowly", ["stroll", "sprint"], "embed_lora")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.config.retrieval import EMBEDDING, RERANKING
from ptune.engine.encoder.batch import Item
from ptune.engine.onnx_graph import Array
from ptune.errors import RequestError
from ptune.formats.bundle import AdapterRecord
from ptune.tasks.encoder.infer import EncoderModel, encode

Vectors = npt.NDArray[np.float32]


def embed(model: EncoderModel, texts: Sequence[str], adapter: str, dimensions: int | None = None) -> Vectors:
    """[texts, width] vectors, or their first `dimensions` numbers. All texts are in flight at once.

    Raises: RequestError for an unknown adapter, one that makes no vectors, or a size that it cannot have.
    """
    record = model.engine.record(adapter)
    if record.task != EMBEDDING:
        raise RequestError(f"{adapter!r} makes no vectors: its task is {record.task}", param="model")
    check_dimensions(record, dimensions)
    items = [Item(encode(text, record, model.codec).inputs, adapter) for text in texts]
    found = [shortened(vector, record, dimensions) for vector in model.engine.logits(items)]
    return np.stack(found) if found else np.zeros((0, dimensions or width_of(record)), np.float32)


def rerank(model: EncoderModel, query: str, documents: Sequence[str], adapter: str) -> Vectors:
    """[documents] how well each answers the query: a reranker's probability, or the cosine of an adapter's vectors.

    Raises: RequestError for an unknown adapter, or one that does neither.
    """
    record = model.engine.record(adapter)
    inputs = rerank_inputs(query, documents, record)
    items = [Item(encode(one, record, model.codec).inputs, adapter) for one in inputs]
    return relevance(model.engine.logits(items), record)


def rerank_inputs(query: str, documents: Sequence[str], record: AdapterRecord) -> list[str | tuple[str, str]]:
    """What the encoder is asked: each pair; or the query and then each document.

    Raises: RequestError where an adapter can do neither.
    """
    if record.task == RERANKING:
        return [(query, document) for document in documents]
    if record.task == EMBEDDING:
        return [query, *documents]
    raise RequestError(f"{record.name!r} does not rank: its task is {record.task}", param="model")


def relevance(outputs: Sequence[Array], record: AdapterRecord) -> Vectors:
    """The scores of the documents, from what the encoder says of `rerank_inputs`."""
    if record.task == RERANKING:
        logits = np.array([float(one[0]) for one in outputs], np.float64)
        return (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
    query, *documents = (one.astype(np.float64) / max(float(np.linalg.norm(one)), 1e-12) for one in outputs)
    return np.array([float(query @ one) for one in documents], np.float32)


def width_of(record: AdapterRecord) -> int:
    """Numbers of an adapter's whole vector."""
    return int((record.embedding or {}).get("width", 0))


def check_dimensions(record: AdapterRecord, dimensions: int | None) -> None:
    """Raises: RequestError for a size that an adapter's vectors cannot have: it lists those that they were trained for."""
    width = width_of(record)
    if dimensions is None or dimensions == width:
        return
    sizes = [width, *(record.embedding or {}).get("dimensions", ())]
    if not 1 <= dimensions <= width:
        raise RequestError(
            f"dimensions: {record.name} gives 1 to {width} numbers (is {dimensions}); it was trained for "
            f"{', '.join(map(str, sizes))}",
            param="dimensions",
            code="invalid_value",
        )


def shortened(vector: Array, record: AdapterRecord, dimensions: int | None) -> Vectors:
    """The first so many numbers, of length 1 where the adapter's vectors are."""
    if dimensions is None or dimensions >= len(vector):
        return vector.astype(np.float32)
    short = vector[:dimensions].astype(np.float64)
    if (record.embedding or {}).get("normalize"):
        short = short / max(float(np.linalg.norm(short)), 1e-12)
    return short.astype(np.float32)
