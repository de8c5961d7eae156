"""Conversations and prompts -> the engine -> text. Torch-free; the server uses the same pieces."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

from ptune.codecs.adapter_tokens import codec_of_record
from ptune.codecs.chat import ChatCodec
from ptune.codecs.reading import Reading
from ptune.codecs.structured_output import StructuredOutput
from ptune.codecs.template_request import NO_VARIABLES, Variables
from ptune.engine.decoder.answers.grammar import Grammar, Grammars
from ptune.engine.decoder.engine import Engine
from ptune.engine.decoder.inputs.images import Tower
from ptune.engine.decoder.request import NO_TOKEN, Beams, Request, Token
from ptune.engine.job import Finish
from ptune.engine.options import EngineKeywords, EngineOptions
from ptune.engine.sampling import Sampling
from ptune.errors import FormatError, PtuneError, TemplateError
from ptune.formats.adapter_sum import parts_of
from ptune.formats.bundle import BASE, AdapterRecord, Bundle, NewToken
from ptune.kinds import DECODER
from ptune.tasks.chat.seen import Prompt, encoded, pictures_of
from ptune.tasks.chat.text_stream import Delta, TextStream
from ptune.tasks.chat.thinking import thinking_budget
from ptune.tasks.chat.token_options import TokenOptions

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


class Options(TypedDict, total=False):
    """Options of an answer: the fields of Sampling or of Beams, and where it ends."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    seed: int | None
    logit_bias: dict[int, float]
    num_beams: int  # from 2: beam search
    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_tokens: int | None  # None = as long as the context allows
    min_tokens: int  # neither a stop token nor a stop text before so many others
    ignore_eos: bool  # goes on after the tokens that end an answer
    stop_token_ids: Sequence[int]  # further tokens that end the answer
    bad_words: Sequence[str]  # texts whose tokens are never generated in this order
    allowed_token_ids: Sequence[int] | None  # the only tokens to choose from; None = all
    stop: str | Sequence[str]  # texts that end the answer and are no part of it
    logprobs: int | None
    response_format: StructuredOutput | None  # what the answer must match, after what is thought
    chat_template_kwargs: Variables  # of chats: each in place of the adapter's default
    thinking_token_budget: int | None  # of chats: None = the adapter's default, -1 = any number


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of prompt and answer tokens."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0  # of the answer's, with the marks around what is thought


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    text: str
    finish: Finish
    usage: Usage
    tokens: tuple[Token, ...]
    reasoning: str = ""  # what was thought before; `text` is without it

    def __str__(self) -> str:
        return self.text


class ChatModel:
    """A bundle as a library: `ptune.load("bundles/x").chat([{"role": "user", "content": "Hello"}], adapter="x")`."""

    def __init__(self, engine: Engine, codec: ChatCodec) -> None:
        """Raises: FormatError where an adapter's chat template is not valid."""
        self.engine = engine
        self.codec = codec
        self._codecs: dict[str, ChatCodec] = {}  # by the hash of the adapter's record
        self._grammars: dict[tuple[NewToken, ...], Grammars] = {}  # by the tokens that adapters add
        self._making = threading.Lock()
        for adapter in engine.adapters:
            self.codec_for(adapter)  # finds an invalid template now, not at the first request

    @overload
    def chat(
        self, messages: Messages, *, adapter: str = ..., stream: Literal[False] = ..., tools: Tools | None = ...,
        **options: Unpack[Options],
    ) -> Answer: ...  # fmt: skip
    @overload
    def chat(
        self, messages: Messages, *, adapter: str = ..., stream: Literal[True], tools: Tools | None = ...,
        **options: Unpack[Options],
    ) -> Iterator[Delta]: ...  # fmt: skip
    def chat(
        self,
        messages: Messages,
        *,
        adapter: str = BASE,
        stream: bool = False,
        tools: Tools | None = None,
        **options: Unpack[Options],
    ) -> Answer | Iterator[Delta]:
        """Answers a conversation, as a whole or as a stream of deltas.

        Raises: RequestError, TemplateError; PtuneError where the engine fails.
        """
        codec = self.codec_for(adapter)
        prompt, reading = asked(codec, messages, tools, options, self.engine.tower)
        return self._answer(codec, prompt, adapter, stream, options, reading)

    @overload
    def complete(
        self, prompt: str, *, adapter: str = ..., stream: Literal[False] = ..., **options: Unpack[Options]
    ) -> Answer: ...
    @overload
    def complete(
        self, prompt: str, *, adapter: str = ..., stream: Literal[True], **options: Unpack[Options]
    ) -> Iterator[Delta]: ...
    def complete(
        self, prompt: str, *, adapter: str = BASE, stream: bool = False, **options: Unpack[Options]
    ) -> Answer | Iterator[Delta]:
        """Continues a text. Raises: RequestError; PtuneError where the engine fails."""
        codec = self.codec_for(adapter)
        return self._answer(codec, codec.encode_text(prompt), adapter, stream, options)

    def encode_chat(
        self, messages: Messages, adapter: str = BASE, *, tools: Tools | None = None
    ) -> list[int]:
        """Encodes a conversation up to where the answer begins, in the adapter's own template."""
        return encoded(self.codec_for(adapter), self.engine.tower, messages, tools=tools)

    def codec_for(self, adapter: str) -> ChatCodec:
        """The codec with the adapter's own chat template and system message, if it has them; of a sum, those of its first part.

        Created once per adapter: at the start for those in the bundle, later for added ones.
        Raises: FormatError where the template is not valid.
        """
        bundle = self.engine.bundle
        adapters = bundle.manifest.adapters
        parts = parts_of(adapter, {*adapters, *self.engine.adapters})
        if not parts or parts[0][0] not in adapters:  # the engine refuses a name that does not exist
            return self.codec
        (adapter, _), *_ = parts
        digest = adapters[adapter]
        codec = self._codecs.get(digest)
        if codec is None:
            codec = self._codec_of(bundle.adapter(adapter))
            served = {*adapters.values()}  # drops the codecs of removed adapters
            kept = {other: one for other, one in self._codecs.items() if other in served}
            self._codecs = {**kept, digest: codec}
        return codec

    def grammar(self, output: StructuredOutput, adapter: str = BASE) -> Grammar:
        """Compiles a structured output into a grammar over the adapter's tokens; recent grammars are cached.

        Raises: RequestError if it is not valid, or too large.
        """
        codec, record = self.codec_for(adapter), self.engine.record(adapter)
        added = () if record is None else record.new_tokens
        with self._making:
            if added not in self._grammars:
                table = codec.token_table(self.engine.vocab_size(adapter))
                self._grammars[added] = Grammars(
                    table, codec.special_ids, partial(codec.encode_text, special=False)
                )
                self._stripped = codec.takes_first_space
        return self._grammars[added].compile(output.source(stripped=self._stripped), codec.eos_ids)

    def _codec_of(self, record: AdapterRecord) -> ChatCodec:
        try:
            return codec_of_record(self.codec, record)
        except TemplateError as error:
            raise FormatError(
                f"the chat template of adapter {record.name!r} cannot be used: {error}"
            ) from None

    def close(self) -> None:
        """Closes the engine; unfinished answers are cancelled."""
        self.engine.close()

    def _answer(
        self,
        codec: ChatCodec,
        prompt: Sequence[int],
        adapter: str,
        stream: bool,
        options: Options,
        reading: Reading | None = None,
    ) -> Answer | Iterator[Delta]:
        request, text = self.request(codec, prompt, adapter, options, reading)
        deltas = _deltas(self.engine.generate(request), text)
        return deltas if stream else whole(len(prompt), list(deltas))

    def request(
        self,
        codec: ChatCodec,
        prompt: Sequence[int],
        adapter: str,
        options: Options,
        reading: Reading | None = None,
    ) -> tuple[Request, TextStream]:
        """The engine's request, and the stream that turns its tokens into text.

        reading: of a chat's answers; None where they hold no reasoning. Raises: RequestError.
        """
        sampling: dict[str, Any] = {**options}
        names = ("stop", "logprobs", "max_tokens", "response_format", "thinking_token_budget")
        stop, logprobs, limit, output, budget = (sampling.pop(name, None) for name in names)
        sampling.pop("chat_template_kwargs", None)
        if output is not None and reading is not None:
            output = reading.formed(output)
        tokens = TokenOptions(
            **{one.name: sampling.pop(one.name) for one in fields(TokenOptions) if one.name in sampling}
        )
        beams = _beams(sampling)
        longest = self.engine.longest(1 if beams is None else beams.num_beams, adapter)
        room = max(1, longest - len(prompt))  # the engine refuses a prompt that leaves no room
        request = Request(
            prompt=tuple(prompt),
            adapter=adapter,
            sampling=Sampling(**sampling),
            max_tokens=room if limit is None else limit,
            logprobs=logprobs,
            grammar=None if output is None else self.grammar(output, adapter),
            beams=beams,
            pictures=pictures_of(prompt),
            thinking=None if beams and budget is None else thinking_budget(codec, reading, budget),
            **tokens.for_engine(codec, self.engine.vocab_size(adapter), formed=output is not None),
        )
        stops = [stop] if isinstance(stop, str) else stop or ()
        return request, TextStream(codec, stops, min_tokens=request.min_tokens, reading=reading)


def asked(
    codec: ChatCodec, messages: Messages, tools: Tools | None, options: Options, tower: Tower | None
) -> tuple[Prompt, Reading | None]:
    """The prompt of a conversation, and how its answers are read. tower: of the engine, to see images with.

    Raises: TemplateError, RequestError.
    """
    variables = options.get("chat_template_kwargs", NO_VARIABLES)
    prompt = encoded(codec, tower, messages, tools=tools, variables=variables)
    return prompt, codec.reading(prompt)


def _beams(options: dict[str, Any]) -> Beams | None:
    """Removes the fields of beam search from the options; the others then default to greedy.

    Raises: RequestError, also for a length penalty or early stopping without beams.
    """
    plain: dict[str, Any] = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False}
    given = {name: options.pop(name, default) for name, default in plain.items()}
    if given == plain:
        return None
    options.setdefault("temperature", 0.0)
    return Beams(**given)


def load(
    path: str | Path,
    options: EngineOptions = EngineOptions(),
    *,
    replay_golden: bool = True,
    **keywords: Unpack[EngineKeywords],
) -> ChatModel:
    """Opens a chat bundle for use. keywords: options that replace those of `options`.

    Raises: FormatError, AdapterError, UsageError, ParityError, as `Engine.open`.
    """
    bundle = Bundle.open(path)
    if bundle.manifest.task != DECODER.task:
        raise FormatError(f"{path} is a bundle for {bundle.manifest.task!r}, not for chat")
    bundle.check_files(bundle.manifest.codec)
    codec = ChatCodec.open(bundle.codec_path)
    engine = Engine.open(bundle, options, replay_golden=replay_golden, **keywords)
    try:
        return ChatModel(engine, codec)
    except BaseException:
        engine.close()
        raise


def _deltas(tokens: Generator[Token, None, None], text: TextStream) -> Iterator[Delta]:
    """Yields deltas up to the first with a `finish`; then, or when it is closed, cancels the rest of the request."""

    def begun() -> Iterator[Delta]:
        with contextlib.closing(tokens):
            yield Delta("", None, None)
            for token in tokens:
                for delta in said(token, text):
                    yield delta
                    if delta.finish is not None:
                        return

    deltas = begun()
    next(deltas)  # as in `drawn`
    return deltas


def said(token: Token, text: TextStream) -> list[Delta]:
    """The deltas that a token adds. Raises: RequestError, PtuneError if the engine could not answer."""
    if token.finish == "error":
        raise token.refusal or PtuneError(token.error or "the engine failed")
    return text.push(token)


def whole(prompt_tokens: int, received: Sequence[Delta]) -> Answer:
    """Joins all deltas into an answer."""
    tokens = tuple(
        delta.token for delta in received if delta.token is not None and delta.token.id != NO_TOKEN
    )
    return Answer(
        text="".join(delta.text for delta in received),
        finish=received[-1].finish or "error",
        usage=Usage(prompt_tokens, len(tokens), sum(delta.reasoning_tokens for delta in received)),
        tokens=tokens,
        reasoning="".join(delta.reasoning for delta in received),
    )
