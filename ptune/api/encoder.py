"""An encoder's bundle as an object, with a method for each task of its adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, get_type_hints

import numpy as np

from ptune.api.awaiting import answers_of
from ptune.api.model import EncoderOptions, OpenModel, check_options, listed, only_adapter
from ptune.engine.encoder.batch import Item
from ptune.engine.onnx_graph import Array
from ptune.formats.bundle import AdapterRecord
from ptune.tasks.encoder import infer
from ptune.tasks.encoder.infer import Classification, Entity, Tagged
from ptune.tasks.recommendation import infer as recommendation
from ptune.tasks.recommendation.index import ARRAYS
from ptune.tasks.recommendation.infer import Recommended, RecommendQuery
from ptune.tasks.retrieval import infer as retrieval
from ptune.tasks.retrieval.infer import Vectors

if TYPE_CHECKING:
    from typing import Self

Answer = TypeVar("Answer")


class EncoderModel(OpenModel, infer.EncoderModel):
    """An open encoder's bundle. Default of `adapter`: the only one with the method's task. All inputs are in flight at once.

    The asyncio variants (`aclassify` and so on) cancel inputs that are still queued when their task is cancelled.
    """

    kind = "an encoder"

    @classmethod
    def open(cls, path: str | Path, **options: Unpack[EncoderOptions]) -> Self:
        """Opens an encoder's bundle. Raises: FormatError, AdapterError, UsageError, ParityError."""
        check_options(cls.kind, {**options}, get_type_hints(EncoderOptions))
        opened = infer.load(path, **options)
        return cls(opened.engine, opened._codec)

    def classify(self, inputs: Sequence[Any], adapter: str | None = None) -> list[Classification]:
        """Labels texts, pairs of texts, or images (bytes, paths or PIL images).

        Raises: RequestError if the adapter, or no adapter, classifies, or if an input cannot be encoded; DataError for an
        image that cannot be read.
        """
        return super().classify(listed(inputs), self._that("classifies", adapter, _classifies))

    def tag(self, texts: Sequence[Tagged], adapter: str | None = None) -> list[list[Entity]]:
        """The entities of each text, with their character positions; of a pair of prompt and answer, the answer's steps, judged.

        Raises: RequestError, like `classify`.
        """
        return super().tag(listed(texts), self._that("tags", adapter, _tags))

    def embed(
        self,
        texts: Sequence[str],
        adapter: str | None = None,
        *,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> Vectors:
        """Vectors [texts, width], or their first `dimensions` numbers.

        truncate: cut texts that are longer than the adapter's limit; else they are refused.
        Raises: RequestError, as `classify`, or for a text that is too long.
        """
        name = self._that("makes vectors", adapter, retrieval.makes_vectors)
        return retrieval.embed(self, listed(texts), name, dimensions, truncate=truncate)

    def rerank(
        self, query: str, documents: Sequence[str], adapter: str | None = None, *, truncate: bool = False
    ) -> Vectors:
        """Scores [documents] of how well each answers the query; higher is better.

        A score is a reranker's probability or, if there is no reranker, the cosine of an embedder's vectors.
        truncate: as in `embed`; in a pair the longer text is cut.
        Raises: RequestError, as `classify`, or for a text that is too long.
        """
        return retrieval.rerank(self, query, listed(documents), self._ranker(adapter), truncate=truncate)

    def recommend(
        self, question: RecommendQuery | Sequence[str], adapter: str | None = None
    ) -> list[Recommended]:
        """The items that fit a history, the best first, with reasons.

        question: ids of the user's items, or a RecommendQuery, which also takes titles, new items and a number.
        Raises: RequestError, as `classify`, or for an item that is not in the catalogue.
        """
        query = question if isinstance(question, RecommendQuery) else RecommendQuery(listed(question))
        return recommendation.recommend(self, query, self._that("recommends", adapter, _recommends))

    async def aclassify(self, inputs: Sequence[Any], adapter: str | None = None) -> list[Classification]:
        """`classify` for asyncio."""
        name = self._that("classifies", adapter, _classifies)
        self.require_labels(name)
        return await answers_of([self._submit(one, name) for one in listed(inputs)])

    async def atag(self, texts: Sequence[Tagged], adapter: str | None = None) -> list[list[Entity]]:
        """`tag` for asyncio."""
        name = self._that("tags", adapter, _tags)
        record, texts = self.require_tags(name), listed(texts)
        asked = [(index, text) for index, text in enumerate(texts) if infer.spans(text, record)]
        answers = await answers_of([self._submit(text, name) for _, text in asked])
        found_entities: list[list[Entity]] = [[] for _ in texts]
        for (index, _), entities in zip(asked, answers, strict=True):
            found_entities[index] = entities
        return found_entities

    async def aembed(
        self,
        texts: Sequence[str],
        adapter: str | None = None,
        *,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> Vectors:
        """`embed` for asyncio."""
        record = self.engine.record(self._that("makes vectors", adapter, retrieval.makes_vectors))
        retrieval.check_embeds(record, dimensions)
        return retrieval.stacked(await self._outputs(listed(texts), record, truncate), record, dimensions)

    async def arerank(
        self, query: str, documents: Sequence[str], adapter: str | None = None, *, truncate: bool = False
    ) -> Vectors:
        """`rerank` for asyncio."""
        record = self.engine.record(self._ranker(adapter))
        inputs = retrieval.rerank_inputs(query, listed(documents), record)
        return retrieval.relevance(await self._outputs(inputs, record, truncate), record)

    async def arecommend(
        self, question: RecommendQuery | Sequence[str], adapter: str | None = None
    ) -> list[Recommended]:
        """`recommend` for asyncio."""
        query = question if isinstance(question, RecommendQuery) else RecommendQuery(listed(question))
        record = self.engine.record(self._that("recommends", adapter, _recommends))
        index = await asyncio.to_thread(recommendation.index_of, self.engine.bundle.folder, record)
        vectors = np.zeros((0, index.vectors.shape[1]), np.float32)
        if query.texts:
            vectors = await self.aembed(query.texts, record.name, truncate=True)
        return await asyncio.to_thread(recommendation.answer, index, query, vectors)

    async def _outputs(
        self, inputs: Sequence[str | tuple[str, str]], record: AdapterRecord, truncate: bool
    ) -> list[Array]:
        """The outputs of an adapter's head for each text or pair."""
        cut = retrieval.ALL_IT_READS if truncate else None
        items = [Item(retrieval.read(one, record, self.codec, cut), record.name) for one in inputs]

        def submit(item: Item) -> Callable[[], Future[Array]]:
            return lambda: self.engine.submit(item)

        return await answers_of([submit(item) for item in items])

    def _submit(self, one: Any, adapter: str) -> Callable[[], Future[Any]]:
        return lambda: self.submit(one, adapter)

    def _that(self, does: str, asked: str | None, can: Callable[[AdapterRecord], bool]) -> str:
        """The named adapter, or the only one that `can`. Raises: RequestError."""
        every = list(self.adapters.values()) if asked is None else []
        return only_adapter(self.engine, asked, does, filter(can, every), every)

    def _ranker(self, asked: str | None) -> str:
        """The named adapter, or the only reranker, or the only embedder. Raises: RequestError."""
        rerankers = any(retrieval.reranks(record) for record in self.adapters.values())
        return self._that("ranks", asked, retrieval.reranks if rerankers else retrieval.makes_vectors)


def _classifies(record: AdapterRecord) -> bool:
    return bool(record.labels) and not (_tags(record) or retrieval.reranks(record))


def _tags(record: AdapterRecord) -> bool:
    return record.problem == "tags"


def _recommends(record: AdapterRecord) -> bool:
    return ARRAYS in record.files
