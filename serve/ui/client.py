"""The page's HTTP client: lists what is served, and reads answers as they stream. It does not import gradio."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from ptune.formats.task_names import TRANSLATION

from .answer import SamplingControls, ServerError, StreamedAnswer, grown
from .process import trusted_servers

Message = dict[str, Any]
"""A message as the server takes it."""

_TIMEOUT = httpx.Timeout(
    5, read=120
)  # seconds; on a busy CPU the first token after a long prompt can take a while
_FRAME_S = 0.04  # between two updates of the page; tokens that arrive faster are shown together


@dataclass(frozen=True)
class EncoderAdapter:
    """An adapter of an encoder."""

    name: str
    task: str  # text-classification, token-classification, image-classification, feature-extraction, text-ranking
    labels: tuple[str, ...]
    problem: str  # single, multi, regression, tags, vector
    items: int = 0  # number of items it can recommend


@dataclass(frozen=True)
class Translator:
    """An adapter that translates, or an encoder-decoder's base."""

    name: str
    source: str | None  # languages' codes
    target: str | None

    @property
    def label(self) -> str:
        """The label in the picker."""
        return f"{self.name}: {self.source or '?'} → {self.target or '?'}" if self.target else self.name


@dataclass(frozen=True)
class ServedModels:
    """What is served: a chat model with adapters, the adapters of an encoder, the translators of an encoder-decoder, or all."""

    bundle: str
    source: str  # the base model
    adapters: tuple[str, ...]
    context: int  # tokens; 0 for images
    classifiers: tuple[EncoderAdapter, ...] = ()
    translators: tuple[Translator, ...] = ()
    chats: bool = True  # whether a model can chat
    base: bool = True  # whether the base answers; not if the key may use only some adapters
    bundles: tuple[str, ...] = ()  # where the server has several; then `adapters` are all models that chat
    see: frozenset[str] = frozenset()  # the models that take images

    def of(self, *tasks: str) -> tuple[EncoderAdapter, ...]:
        """The encoder's adapters for these tasks."""
        return tuple(adapter for adapter in self.classifiers if adapter.task in tasks)

    @property
    def models(self) -> tuple[str, ...]:
        return ("base", *self.adapters) if self.base else self.adapters


@dataclass(frozen=True)
class Labelled:
    """The output of a classifier: labels and their scores, likeliest first."""

    scores: tuple[tuple[str, float], ...]
    seconds: float
    truncated: bool = False


@dataclass(frozen=True)
class Tagged:
    """A text and the entities in it: label, begin, end, score."""

    text: str
    entities: tuple[tuple[str, int, int, float], ...]
    seconds: float
    truncated: bool = False


@dataclass(frozen=True)
class RecommendedItem:
    """An item, and what is nearest to it in the history: titles and scores."""

    title: str
    score: float
    reasons: tuple[tuple[str, float], ...]


class Client:
    """A client of one server."""

    def __init__(self, url: str, api_key: str | None = None, auth: httpx.Auth | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            auth=auth,
            timeout=_TIMEOUT,
            verify=trusted_servers(),
            trust_env=False,
        )

    async def served(self) -> ServedModels:
        """Lists what is served. Raises: ServerError."""
        try:
            response = await self._http.get("/v1/models")
            _check(response)
            return _served(response.json()["data"])
        except httpx.HTTPError:
            raise self._away() from None
        except (ValueError, KeyError, TypeError, StopIteration):
            raise ServerError(f"{self.url} answers, but it is not a ptune server") from None

    async def answer(
        self, model: str, messages: Sequence[Message], sampling: SamplingControls
    ) -> AsyncGenerator[StreamedAnswer, None]:
        """Yields the answer as it grows; the last one has `finish` or `error`. Closing the iterator cancels the request."""
        body = {
            "model": model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "logprobs": sampling.alternatives is not None,
            "top_logprobs": sampling.alternatives,
            **({"tools": json.loads(sampling.tools), "parallel_tool_calls": False} if sampling.tools else {}),
        }
        answer, begin_s = StreamedAnswer(), time.perf_counter()
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    await response.aread()
                _check(response)
                async for event in _events(response):
                    answer = grown(answer, event, time.perf_counter() - begin_s)
                    yield answer
        except ServerError as error:
            yield replace(answer, error=str(error))
        except httpx.HTTPError:
            yield replace(answer, error=str(self._away()))
        else:
            if answer.finish is None:
                yield replace(answer, error="The server went away in the middle of the answer.")

    async def answers(
        self, models: Sequence[str], conversations: Sequence[Sequence[Message]], sampling: SamplingControls
    ) -> AsyncGenerator[list[StreamedAnswer], None]:
        """Runs a conversation with each model, all at the same time; yields all answers whenever any has grown."""
        arrived: asyncio.Queue[tuple[int, StreamedAnswer | None]] = asyncio.Queue()

        async def run(index: int) -> None:
            try:
                async for answer in self.answer(models[index], conversations[index], sampling):
                    arrived.put_nowait((index, answer))
            finally:
                arrived.put_nowait((index, None))

        tasks = [asyncio.create_task(run(index)) for index in range(len(models))]
        answers, running = [StreamedAnswer() for _ in models], len(models)
        try:
            while running:
                arrivals = [await arrived.get(), *_waiting(arrived)]
                for index, answer in arrivals:
                    running -= answer is None
                    answers[index] = answer or answers[index]
                yield list(answers)
                await asyncio.sleep(_FRAME_S)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def classify(self, adapter: str, value: str | bytes) -> Labelled:
        """Labels of a text, or of an image file. Raises: ServerError."""
        asked: Any = value
        if isinstance(value, bytes):
            url = f"data:{_image_type(value)};base64,{base64.b64encode(value).decode()}"
            asked = [{"type": "image_url", "image_url": {"url": url}}]
        item, seconds = await self._item("/v1/classify", adapter, asked)
        return Labelled(tuple(item["scores"].items()), seconds, bool(item.get("truncated")))

    async def tag(self, adapter: str, text: str) -> Tagged:
        """Entities of a text. Raises: ServerError."""
        item, seconds = await self._item("/v1/tag", adapter, text)
        found = ((one["label"], one["begin"], one["end"], one["score"]) for one in item["entities"])
        return Tagged(text, tuple(found), seconds, bool(item.get("truncated")))

    async def items(self, adapter: str, words: str) -> list[tuple[str, str]]:
        """Titles and names of items whose titles have the words. Raises: ServerError."""
        found, _ = await self._post("/v1/recommend/items", {"model": adapter, "query": words})
        return [(one["title"], one["item"]) for one in found]

    async def recommend(
        self, adapter: str, history: Sequence[str | dict[str, str]]
    ) -> tuple[list[RecommendedItem], float]:
        """Recommended items, and the seconds it took. history: items, and titles of other things. Raises: ServerError."""
        body = {"model": adapter, "history": list(history)}
        answer, seconds = await self._post("/v1/recommend", body)
        found = [
            RecommendedItem(
                one["title"], one["score"], tuple((why["title"], why["score"]) for why in one["reasons"])
            )
            for one in answer
        ]
        return found, seconds

    async def rank(self, adapter: str, query: str, texts: Sequence[str]) -> Labelled:
        """The texts and their scores for a query, the best first. Raises: ServerError."""
        body = {"model": adapter, "query": query, "documents": list(texts)}
        answer, seconds = await self._post("/v1/rerank", body, "results")
        return Labelled(tuple((texts[one["index"]], one["relevance_score"]) for one in answer), seconds)

    async def translate(self, adapter: str, texts: Sequence[str]) -> tuple[list[str], int, float]:
        """The translations, how many were cut off, and the seconds it took. Raises: ServerError."""
        found, seconds = await self._post("/v1/translate", {"model": adapter, "text": list(texts)})
        return [one["text"] for one in found], sum(one["finish_reason"] == "length" for one in found), seconds

    async def _item(self, path: str, adapter: str, value: Any) -> tuple[dict[str, Any], float]:
        """The output for a single input, and the seconds it took. Raises: ServerError."""
        [item], seconds = await self._post(path, {"model": adapter, "input": value})
        return item, seconds

    async def _post(
        self, path: str, body: dict[str, Any], key: str = "data"
    ) -> tuple[list[dict[str, Any]], float]:
        """The list in a response, and the seconds it took. Raises: ServerError."""
        begin_s = time.perf_counter()
        try:
            response = await self._http.post(path, json=body)
            _check(response)
            return list(response.json()[key]), time.perf_counter() - begin_s
        except httpx.HTTPError:
            raise self._away() from None
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"{self.url} sent an answer that cannot be read") from None

    def _away(self) -> ServerError:
        return ServerError(f"The server at {self.url} does not answer. Start it with `ptune serve BUNDLE`.")


def _served(cards: list[dict[str, Any]]) -> ServedModels:
    """Reads the cards of /v1/models. Raises: KeyError, TypeError, StopIteration if they are not a ptune server's."""
    base = any(card["parent"] is None for card in cards)
    first = next(iter(sorted(cards, key=lambda card: card["parent"] is not None)))
    classifiers = tuple(
        EncoderAdapter(
            card["id"],
            card["task"],
            tuple(card["labels"]),
            card["problem"],
            (card.get("embedding") or {}).get("items", 0),
        )
        for card in cards
        if "labels" in card  # not on the cards of a chat model
    )
    several = any("loaded" in card for card in cards)  # only a server with several bundles says so
    roots = tuple(dict.fromkeys(card["root"] for card in cards)) if several else ()
    chatting = [card for card in cards if "endpoint" not in card]  # only cards of other models have one
    names = tuple(card["id"] for card in cards if card["parent"] is not None or "labels" in card)
    if several:
        base, names, first = False, tuple(card["id"] for card in chatting), next(iter(chatting), first)
    translators = tuple(
        Translator(card["id"], card.get("source_language"), card.get("target_language"))
        for card in sorted(cards, key=lambda card: card["parent"] is None)  # the base last
        if card.get("task") == TRANSLATION
    )
    context = first["max_model_len"] or 0
    bundle, chats = ", ".join(roots) or first["root"], bool(chatting)
    see = frozenset(card["id"] for card in chatting if "image" in card.get("input_modalities", ()))
    return ServedModels(
        bundle, first["source"], names, context, classifiers, translators, chats, base, roots, see
    )


def _waiting(
    queue: asyncio.Queue[tuple[int, StreamedAnswer | None]],
) -> list[tuple[int, StreamedAnswer | None]]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


def _image_type(content: bytes) -> str:
    """The type of an image by its first bytes; the server checks it itself."""
    known = {b"\xff\xd8": "jpeg", b"GIF8": "gif", b"BM": "bmp", b"RIFF": "webp"}
    return f"image/{next((name for head, name in known.items() if content.startswith(head)), 'png')}"


def _check(response: httpx.Response) -> None:
    """Raises: ServerError with the server's message."""
    if not response.is_error:
        return
    if response.status_code == 401:
        raise ServerError("The server requires an API key, and does not accept this one, if there is one.")
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"it answered with HTTP status {response.status_code}"
    raise ServerError(f"The server refused: {message}")


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yields the objects of a stream of server-sent events."""
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
