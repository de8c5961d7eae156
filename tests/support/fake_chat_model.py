"""A chat model without a model: bytes are tokens, and the answer tells who heard what. For tests of the server.

`command` serves it in a process of its own, as `ptune serve` would serve a bundle, and prints what that prints.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from fastapi import FastAPI

from ptune.engine.adapters.registry import AdapterStats
from ptune.engine.decoder.cache.block_folder import DiskStats
from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.metrics import EngineMetrics
from ptune.errors import PtuneError, RequestError
from ptune.formats.bundle import AdapterRecord
from ptune.tasks.chat import infer
from ptune_serve import lifecycle
from ptune_serve.files.store import FilesOptions
from ptune_serve.http.listen import configured, listen, url_of
from ptune_serve.http.tls import Certificate
from ptune_serve.service import Settings
from support.byte_codec import CONTEXT, EOS, ByteCodec, FakeTower
from support.quick_server import QuickServer

ADAPTERS = {"pirate": "sha256:" + "ab" * 32, "devil": "cd" * 32}


@dataclass
class FakeEngine:
    """Answers `ADAPTER heard: LAST MESSAGE`, a thread a request. Its fields are knobs for tests."""

    context: int = CONTEXT
    delay_s: float = 0.0  # before each token
    max_waiting: int = 1000
    script: str | None = None  # the answer to everything
    scripts: dict[str, str] = field(default_factory=dict)  # answers by what was heard
    failure: str | None = None  # "submit": raises on submission; "step": fails at the third token
    go_on: threading.Event = field(
        default_factory=threading.Event
    )  # cleared: requests wait before their first token
    held_at: int | None = None  # answers wait before the token of this number while that is so
    may_end: float = math.inf  # so many answers come to their end; others wait before their last token
    cancelled: list[Request] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    tower: FakeTower | None = None  # None: it sees no images
    reused: int = 0  # tokens of each prompt that are found in the cache
    running: int = 0
    ended: int = 0
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    counting: Any = field(default_factory=threading.Lock)  # `running` and `ended` are changed by many threads

    def __post_init__(self) -> None:
        self.go_on.set()
        self.adapters = list(ADAPTERS)
        self.signature = SimpleNamespace(vocab_size=ByteCodec.vocab_size)
        self.vocab_size = lambda adapter: ByteCodec.vocab_size
        base = SimpleNamespace(hash="sha256:" + "0123456789ab" * 5, source="llm_tiny", licence="apache-2.0")
        manifest = SimpleNamespace(
            created="2025-06-01T12:00:00+00:00", base=base, adapters=dict(ADAPTERS), aliases={}, task="chat",
            vision={},
        )  # fmt: skip
        self.bundle = SimpleNamespace(folder=Path("/bundles/dictionary"), manifest=manifest)

    def submit(self, request: Request, deliver: Callable[[Token], None]) -> FakeTicket:
        if self.failure == "submit":
            raise ZeroDivisionError(f"a defect that quotes {bytes(request.prompt[:40])!r}")
        if max(request.prompt) >= ByteCodec.vocab_size:
            raise RequestError("no such token", param="prompt")
        if len(request.prompt) + request.max_tokens > self.context:
            message = f"{len(request.prompt)} prompt tokens and max_tokens {request.max_tokens}; at most {self.context}"
            raise RequestError(message, param="max_tokens", code="context_length_exceeded")
        if self.running >= self.max_waiting:
            raise RequestError("the queue is full", code="queue_full", status=429)
        self.requests.append(request)
        with self.counting:
            self.running += 1
        ticket = FakeTicket(self.reused)
        threading.Thread(target=self._run, args=(request, deliver, ticket.given_up), daemon=True).start()
        return ticket

    def record(self, name: str) -> AdapterRecord | None:
        facts: dict[str, Any] = (
            {"translation": {"source_language": "en", "target_language": "es"}} if name == "devil" else {}
        )
        return None if name == "base" else AdapterRecord(name=name, **facts)

    def adapter_stats(self) -> AdapterStats:
        return AdapterStats(70, None, 2, 5, 3, 0.5, 4, ("devil", "pirate"), ("late",), 2)

    def longest(self, beams: int = 1, adapter: str = "base") -> int:
        return self.context

    def capacity(self) -> str:
        return "2 sequences at once"

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(
            running=self.running,
            waiting=0,
            kv_used_tokens=7,
            kv_capacity_tokens=70,
            kv_resident_bytes=8192,
            reused=3,
            drafted=8,
            accepted=5,
            preempted=0,
            slid_bytes=12288,
            disk=DiskStats(4096, 512, 1024, 256, 1),
        )

    def close(self) -> None:
        self.held_at, self.may_end = None, math.inf
        self.go_on.set()

    def _run(self, request: Request, deliver: Callable[[Token], None], given_up: threading.Event) -> None:
        while not self.go_on.wait(0.01) and not given_up.is_set():
            pass
        for number, token in enumerate(_answer(request, self.script, self.scripts)):
            while self._is_held(number, token) and not given_up.wait(0.01):
                pass
            if given_up.wait(self.delay_s) if self.delay_s else given_up.is_set():
                self.cancelled.append(request)
                token = Token(NO_TOKEN, finish="cancelled")
            elif self.failure == "step" and number == 2:
                token = Token(NO_TOKEN, finish="error", error="Traceback: secret detail")
            if token.finish is not None:
                with self.counting:
                    self.running -= 1
            deliver(token)
            if token.finish is not None:
                return

    def _is_held(self, number: int, token: Token) -> bool:
        if number == self.held_at:
            return True
        if token.finish is None:
            return False
        with self.counting:
            ends = self.ended < self.may_end
            self.ended += ends
            return not ends


class FakeTicket:
    def __init__(self, reused: int = 0) -> None:
        self.given_up = threading.Event()
        self.reused = reused

    def cancel(self) -> None:
        self.given_up.set()


class FakeChatModel:
    """What the server needs of `ptune.tasks.chat.infer.ChatModel`."""

    grammar = infer.ChatModel.grammar

    def __init__(self, engine: FakeEngine | None = None, codecs: Mapping[str, Any] | None = None) -> None:
        self.engine = engine or FakeEngine()
        self._codecs = codecs or {}  # of adapters that do not share the one
        self._grammars: dict[Any, Any] = {}
        self._making = threading.Lock()

    codec = ByteCodec()

    def codec_for(self, adapter: str) -> Any:
        return self._codecs.get(adapter, ByteCodec())

    def close(self) -> None:
        self.engine.close()


@contextlib.contextmanager
def serving(app: FastAPI, **options: Any) -> Iterator[str]:
    """An app on a real socket, in a thread. Yields its URL. options: of `configured`."""
    server = QuickServer(configured(app, flush_limit_s=1, **options))
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.end()
        thread.join()


def wait_until(condition: Callable[[], object], limit_s: float = 120.0) -> None:
    """limit_s: when to give up, on a machine however busy."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def _answer(request: Request, script: str | None, scripts: Mapping[str, str]) -> Iterator[Token]:
    scored = request.logprobs is not None
    top = tuple((token, -1.0 - token) for token in range(97, 97 + (request.logprobs or 0)))

    def token(token_id: int, **fields: Any) -> Token:
        return Token(token_id, -0.5 if scored else None, top, **fields)

    prompt: list[Token] = []
    if request.prompt_logprobs is not None:
        likely = tuple((token, -1.0 - token) for token in range(97, 97 + request.prompt_logprobs))
        prompt = [Token(token_id, -0.5, likely, prompt=True, rank=7) for token_id in request.prompt]
    prompt[:1] = [Token(request.prompt[0], prompt=True)] if prompt else []
    yield from prompt
    if request.max_tokens == 0:
        yield Token(NO_TOKEN, finish="length")
        return
    heard = bytes(request.prompt).decode(errors="replace").rpartition("<user>")[2]
    said = scripts.get(heard, f"{request.adapter} heard: {heard}" if script is None else script)
    ids = [*said.encode(), EOS] if request.grammar is None else _drawn(request)
    for number, token_id in enumerate(ids, 1):
        if isinstance(token_id, RequestError):
            yield Token(NO_TOKEN, finish="error", error=str(token_id), refused=True)
            return
        if token_id == EOS or number == request.max_tokens:
            yield token(token_id, finish="stop" if token_id == EOS else "length")
            return
        yield token(token_id)


def _drawn(request: Request) -> Iterator[int | RequestError]:
    """Any token that the grammar allows, with the same chance for all; an error where it can go no further."""
    assert request.grammar is not None
    walk, random = request.grammar.walk(), Random(request.sampling.seed)
    while True:
        try:
            token = random.choice(np.flatnonzero(walk.allowed()).tolist())
        except RequestError as error:
            yield error
            return
        yield token
        walk.advance(token)


def command(*options: str) -> list[str]:
    """The command line of a server with the fake model; options as `main` has them."""
    tests = str(Path(__file__).parents[1])
    begin = f"import sys; sys.path.insert(0, {tests!r}); from support.fake_chat_model import main; sys.exit(main())"
    return [sys.executable, "-c", begin, *options]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--may-end", type=float, default=math.inf)
    parser.add_argument("--held", type=Path, help="while there is such a file, no answer comes to its end")
    parser.add_argument("--drain-limit-s", type=float, default=30.0)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ui", action="store_true")
    parser.add_argument("--stuck", action="store_true", help="a step never comes to its end")
    parser.add_argument("--step-limit-s", type=float, default=300.0)
    parser.add_argument("--close-limit-s", type=float, default=10.0)
    parser.add_argument("--log-json", action="store_true")
    parser.add_argument("--files", type=Path)
    parser.add_argument("--ssl-certfile", type=Path)
    options = parser.parse_args()

    lifecycle.CLOSE_LIMIT_S = options.close_limit_s

    def load(bundle: Path, **_: object) -> FakeChatModel:
        if options.load_s:
            print("loading", flush=True)
            time.sleep(options.load_s)
        engine = FakeEngine(delay_s=options.delay_s, may_end=options.may_end)
        if options.held is not None:
            engine._is_held = lambda number, token: bool(token.finish and options.held.exists())  # type: ignore[method-assign]
        if options.stuck:
            engine.close = threading.Event().wait  # type: ignore[assignment, method-assign] # waits for ever
            engine.hanging = engine.metrics.step(1)  # type: ignore[attr-defined] # kept, or it would end
            engine.hanging.__enter__()  # type: ignore[attr-defined]
        return FakeChatModel(engine)

    infer.load = cast("Any", load)
    try:
        return lifecycle.serve(
            Path("bundles/dictionary"),
            host=options.host,
            port=options.port,
            api_key_file=options.api_key_file,
            ui=options.ui,
            ui_port=0,
            ready_file=options.ready_file,
            log_json=options.log_json,
            files=None if options.files is None else FilesOptions(options.files),
            certificate=None if options.ssl_certfile is None else Certificate(options.ssl_certfile),
            settings=Settings(drain_s=options.drain_limit_s, step_limit_s=options.step_limit_s),
        )
    except PtuneError as error:
        print(error)
        return error.exit_code
