"""Texts -> the encoder's engine -> vectors, and scores of pairs. Torch-free; the server uses the same functions.

`embed` and `rerank` are also methods of the model that `ptune.load` returns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ptune.codecs.sequence import SequenceCodec
from ptune.engine.encoder.batch import Item
from ptune.engine.onnx_graph import Array
from ptune.errors import RequestError
from ptune.formats.bundle import AdapterRecord
from ptune.formats.task_names import FEATURE_EXTRACTION, TEXT_RANKING
from ptune.tasks.encoder.infer import EncoderModel, encode

Vectors = npt.NDArray[np.float32]
ALL_IT_READS = -1  # cut texts to the adapter's limit, as in vLLM's truncate_prompt_tokens


def embed(
    model: EncoderModel,
    texts: Sequence[str],
    adapter: str,
    dimensions: int | None = None,
    *,
    truncate: bool = False,
) -> Vectors:
    """Vectors [texts, width], or their first `dimensions` numbers. All texts are in flight at once.

    truncate: cut texts that are longer than the adapter's limit; else they are refused.
    Raises: RequestError for an unknown adapter, one that makes no vectors, a size that it cannot have, or too long a text.
    """
    record = model.engine.record(adapter)
    check_embeds(record, dimensions)
    cut = ALL_IT_READS if truncate else None
    items = [Item(read(text, record, model.codec, cut), adapter) for text in texts]
    return stacked(model.engine.logits(items), record, dimensions)


def check_embeds(record: AdapterRecord, dimensions: int | None) -> None:
    """Raises: RequestError for an adapter that makes no vectors, or a size that they cannot have."""
    if not makes_vectors(record):
        raise RequestError(f"{record.name!r} makes no vectors: its task is {record.task}", param="model")
    check_dimensions(record, dimensions)


def makes_vectors(record: AdapterRecord) -> bool:
    """Whether an adapter's outputs are vectors."""
    return record.task == FEATURE_EXTRACTION


def reranks(record: AdapterRecord) -> bool:
    """Whether an adapter judges pairs of a query and a document."""
    return record.task == TEXT_RANKING


def stacked(outputs: Sequence[Array], record: AdapterRecord, dimensions: int | None) -> Vectors:
    """Stacks the encoder's outputs into [texts, width]."""
    vectors = [shortened(vector, record, dimensions) for vector in outputs]
    return np.stack(vectors) if vectors else np.zeros((0, dimensions or width_of(record)), np.float32)


def rerank(
    model: EncoderModel, query: str, documents: Sequence[str], adapter: str, *, truncate: bool = False
) -> Vectors:
    """Scores [documents] of how well each answers the query: a reranker's probability, or the cosine of vectors.

    truncate: as in `embed`; in a pair the longer text is cut.
    Raises: RequestError for an unknown adapter, one that does neither, or too long a text.
    """
    record = model.engine.record(adapter)
    inputs = rerank_inputs(query, documents, record)
    cut = ALL_IT_READS if truncate else None
    items = [Item(read(one, record, model.codec, cut), adapter) for one in inputs]
    return relevance(model.engine.logits(items), record)


def read(
    one: str | tuple[str, str],
    record: AdapterRecord,
    codec: SequenceCodec,
    cut: int | None = None,
    *,
    option: str = "truncate=True",
) -> dict[str, Array]:
    """Encodes a text or a pair for the encoder: all of it, or at most `cut` tokens.

    cut: tokens; ALL_IT_READS = as many as the adapter reads; None = nothing is cut.
    option: what the caller may say to have it cut. Raises: RequestError where it is longer than the adapter reads.
    """
    if cut is not None and cut != ALL_IT_READS:
        record = record.model_copy(update={"max_length": cut})
    encoded = encode(one, record, codec)
    kept = len(encoded.inputs["input_ids"])
    if cut is None and encoded.length > kept:
        what = "the text has" if isinstance(one, str) else "query and document have"
        raise RequestError(
            f"{what} {encoded.length} tokens, and {record.name} reads at most {codec.limit(record.max_length)}:"
            f" send less, or have it cut with {option}",
            param="input",
            code="context_length_exceeded",
        )
    return encoded.inputs


def check_cut(record: AdapterRecord, codec: SequenceCodec, cut: int | None) -> None:
    """Raises: RequestError if texts cannot be cut to `cut` tokens."""
    if cut is None or cut == ALL_IT_READS:
        return
    own = codec.tokenizer.num_special_tokens_to_add(record.task == TEXT_RANKING)
    limit = codec.limit(record.max_length)
    if cut <= own or (limit is not None and cut > limit):
        most = "" if limit is None else f" to {limit}"
        raise RequestError(
            f"truncate_prompt_tokens: {record.name} can cut to {own + 1}{most} tokens (is {cut}), or"
            f" {ALL_IT_READS} for as many as it reads",
            param="truncate_prompt_tokens",
            code="invalid_value",
        )


def rerank_inputs(query: str, documents: Sequence[str], record: AdapterRecord) -> list[str | tuple[str, str]]:
    """The encoder's inputs: each pair, or the query and then each document.

    Raises: RequestError if the adapter can do neither.
    """
    if record.task == TEXT_RANKING:
        return [(query, document) for document in documents]
    if record.task == FEATURE_EXTRACTION:
        return [query, *documents]
    raise RequestError(f"{record.name!r} does not rank: its task is {record.task}", param="model")


def relevance(outputs: Sequence[Array], record: AdapterRecord) -> Vectors:
    """The scores of the documents, from the encoder's outputs for `rerank_inputs`."""
    if record.task == TEXT_RANKING:
        logits = np.array([float(one[0]) for one in outputs], np.float64)
        return (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
    query, *documents = (one.astype(np.float64) / max(float(np.linalg.norm(one)), 1e-12) for one in outputs)
    return np.array([float(query @ one) for one in documents], np.float32)


def width_of(record: AdapterRecord) -> int:
    """Full length of an adapter's vectors."""
    return int((record.embedding or {}).get("width", 0))


def check_dimensions(record: AdapterRecord, dimensions: int | None) -> None:
    """Raises: RequestError for a size that an adapter's vectors cannot have; it lists the trained sizes."""
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
    """The first `dimensions` numbers of a vector, scaled to length 1 if the adapter's vectors are."""
    if dimensions is None or dimensions >= len(vector):
        return vector.astype(np.float32)
    short = vector[:dimensions].astype(np.float64)
    if (record.embedding or {}).get("normalize"):
        short = short / max(float(np.linalg.norm(short)), 1e-12)
    return short.astype(np.float32)
