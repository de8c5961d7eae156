"""A chat bundle as an object: `with ptune.load("bundles/mine") as model: print(model.chat("Hello"))`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast, get_type_hints, overload

from ptune.api.model import OpenModel, adapter_or_base, check_options
from ptune.codecs.chat import ChatCodec
from ptune.codecs.reading import Reading
from ptune.engine.decoder.request import Token
from ptune.engine.options import EngineKeywords
from ptune.tasks.chat import infer
from ptune.tasks.chat.infer import Answer, Messages, Options, Tools, asked, said, whole
from ptune.tasks.chat.text_stream import Delta

if TYPE_CHECKING:
    from typing import Self


class ChatOptions(EngineKeywords, total=False):
    """Options of opening a chat bundle: those of `ptune.engine.options.EngineOptions`, and `replay_golden`."""

    replay_golden: bool  # whether to compare this machine's numbers with the exporting one's; default: yes


class ChatModel(OpenModel, infer.ChatModel):
    """An open chat bundle. Default of `adapter`: the bundle's only adapter, else the base, named "base"."""

    kind = "a decoder"

    @classmethod
    def open(cls, path: str | Path, **options: Unpack[ChatOptions]) -> Self:
        """Opens a chat bundle. Raises: FormatError, AdapterError, UsageError, ParityError, as `Engine.open`."""
        check_options(cls.kind, {**options}, get_type_hints(ChatOptions))
        opened = infer.load(path, **options)
        return cls(opened.engine, opened.codec)

    @overload
    def chat(
        self, messages: str | Messages, *, adapter: str | None = ..., stream: Literal[False] = ...,
        tools: Tools | None = ..., **options: Unpack[Options],
    ) -> Answer: ...  # fmt: skip
    @overload
    def chat(
        self, messages: str | Messages, *, adapter: str | None = ..., stream: Literal[True],
        tools: Tools | None = ..., **options: Unpack[Options],
    ) -> Iterator[Delta]: ...  # fmt: skip
    def chat(
        self,
        messages: str | Messages,
        *,
        adapter: str | None = None,
        stream: bool = False,
        tools: Tools | None = None,
        **options: Unpack[Options],
    ) -> Answer | Iterator[Delta]:
        """Answers a conversation, as a whole or as a stream of deltas; `str` of either is its text.

        messages: the user's text, or a list of {"role": …, "content": …}. options: `temperature`, `max_tokens`, …

        Raises: RequestError, TemplateError; PtuneError where the engine fails.
        """
        codec, prompt, name, reading = self._asked(messages, adapter, tools, options)
        return self._answer(codec, prompt, name, stream, options, reading)

    @overload
    def complete(
        self,
        prompt: str,
        *,
        adapter: str | None = ...,
        stream: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Answer: ...
    @overload
    def complete(
        self, prompt: str, *, adapter: str | None = ..., stream: Literal[True], **options: Unpack[Options]
    ) -> Iterator[Delta]: ...
    def complete(
        self, prompt: str, *, adapter: str | None = None, stream: bool = False, **options: Unpack[Options]
    ) -> Answer | Iterator[Delta]:
        """Continues a text. Raises: RequestError; PtuneError where the engine fails."""
        name = adapter_or_base(self.engine, adapter)
        codec = self.codec_for(name)
        return self._answer(codec, codec.encode_text(prompt), name, stream, options)

    @overload
    def achat(
        self, messages: str | Messages, *, adapter: str | None = ..., stream: Literal[False] = ...,
        tools: Tools | None = ..., **options: Unpack[Options],
    ) -> Coroutine[Any, Any, Answer]: ...  # fmt: skip
    @overload
    def achat(
        self, messages: str | Messages, *, adapter: str | None = ..., stream: Literal[True],
        tools: Tools | None = ..., **options: Unpack[Options],
    ) -> AsyncIterator[Delta]: ...  # fmt: skip
    def achat(
        self,
        messages: str | Messages,
        *,
        adapter: str | None = None,
        stream: bool = False,
        tools: Tools | None = None,
        **options: Unpack[Options],
    ) -> Coroutine[Any, Any, Answer] | AsyncIterator[Delta]:
        """`chat` for asyncio: `await model.achat(…)`, or `async for delta in model.achat(…, stream=True)`.

        Cancelling the task, or closing the stream, cancels the request.
        """
        codec, prompt, name, reading = self._asked(messages, adapter, tools, options)
        deltas = self._stream(codec, prompt, name, options, reading)
        return deltas if stream else _collected(len(prompt), deltas)

    @overload
    def acomplete(
        self,
        prompt: str,
        *,
        adapter: str | None = ...,
        stream: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Coroutine[Any, Any, Answer]: ...
    @overload
    def acomplete(
        self, prompt: str, *, adapter: str | None = ..., stream: Literal[True], **options: Unpack[Options]
    ) -> AsyncIterator[Delta]: ...
    def acomplete(
        self, prompt: str, *, adapter: str | None = None, stream: bool = False, **options: Unpack[Options]
    ) -> Coroutine[Any, Any, Answer] | AsyncIterator[Delta]:
        """`complete` for asyncio; see `achat`."""
        name = adapter_or_base(self.engine, adapter)
        codec = self.codec_for(name)
        ids = codec.encode_text(prompt)
        deltas = self._stream(codec, ids, name, options)
        return deltas if stream else _collected(len(ids), deltas)

    def _asked(
        self, messages: str | Messages, adapter: str | None, tools: Tools | None, options: Options
    ) -> tuple[ChatCodec, list[int], str, Reading | None]:
        """The codec, the prompt's tokens and the adapter of a conversation, and how its answers are read."""
        name = adapter_or_base(self.engine, adapter)
        conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        codec = self.codec_for(name)
        prompt, reading = asked(codec, conversation, tools, options, self.engine.tower)
        return codec, prompt, name, reading

    async def _stream(
        self,
        codec: ChatCodec,
        prompt: list[int],
        adapter: str,
        options: Options,
        reading: Reading | None = None,
    ) -> AsyncIterator[Delta]:
        """The deltas as they arrive. The request is submitted when the first is awaited."""
        made = (codec, prompt, adapter, options, reading)
        compiling = (
            options.get("response_format") is not None
        )  # takes a moment: not in the event loop's thread
        request, text = await asyncio.to_thread(self.request, *made) if compiling else self.request(*made)
        loop, tokens = asyncio.get_running_loop(), asyncio.Queue[Token]()
        ticket = self.engine.submit(request, lambda token: _put(loop, tokens, token))
        try:
            while True:
                for delta in said(await tokens.get(), text):
                    yield delta
                    if delta.finish is not None:
                        return
        finally:
            ticket.cancel()


def _put(loop: asyncio.AbstractEventLoop, tokens: asyncio.Queue[Token], token: Token) -> None:
    """Passes a token from the engine's thread to the event loop, if that is still running."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(tokens.put_nowait, token)


async def _collected(prompt_tokens: int, deltas: AsyncIterator[Delta]) -> Answer:
    async with contextlib.aclosing(cast(Any, deltas)) as every:
        return whole(prompt_tokens, [delta async for delta in every])
