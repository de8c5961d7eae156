"""From a bundle to a server that answers, and back: bind, load, listen, serve, drain, exit 0."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import socket
from types import FrameType
from typing import TYPE_CHECKING

from ptune.engine.options import GIB, EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import read_json, write_text
from ptune.kinds import DECODER, Kind, imported, of_task

from . import json_log
from .auth import ApiKeys, warn_of_open_door
from .follow import Follow, following
from .listen import Server, bind, let_in, local_names, url_of
from .page import chat_page
from .service import Service, Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ptune.tasks.chat.infer import ChatModel
    from ptune.tasks.encoder.infer import EncoderModel
    from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel

    AnyModel = ChatModel | EncoderModel | Seq2SeqModel

CLOSE_LIMIT_S = 10
"""How long the engine's last step may take once everything else has ended."""

_log = logging.getLogger("ptune.serve")


def serve(
    bundle: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_file: Path | None = None,
    ui: bool = True,
    ui_port: int = 7860,
    options: EngineOptions = EngineOptions(),
    settings: Settings = Settings(),
    ready_file: Path | None = None,
    log_json: bool = False,
    follow: Follow | None = None,
) -> int:
    """Serves a bundle, of a model of any kind, until SIGTERM or Ctrl-C, and returns the exit code.

    Port 0 takes any free one. `ready_file` holds the server's URL as long as it answers. Of `settings`, keys and hosts
    follow from the other arguments.
    Raises: PtuneError where the port is taken, the keys cannot be read, the cache is larger than the memory, the
    bundle does not open, or this machine does not compute what the bundle's golden vectors say.
    """
    if log_json:
        json_log.log_json()
    api_keys = ApiKeys() if api_key_file is None else ApiKeys.read(api_key_file)
    _check_memory(options)
    _check_settings(settings)
    _check_follow(follow, bundle)
    with _stoppable(), contextlib.ExitStack() as stack:
        # Before the model: who has taken the wrong port should not wait for gigabytes to learn it.
        listener = stack.enter_context(bind(host, port))
        model, create = _opened(bundle, options)
        stack.callback(_close, model)
        let_in(listener)  # not before: a client should be turned away, not left waiting
        if ui:
            # It asks for a key, but unencrypted: no password should travel so without being told to.
            page_host = "127.0.0.1" if api_keys else host
            stack.enter_context(chat_page(url_of(listener), page_host, ui_port, ask=bool(api_keys)))
        hosts = frozenset() if api_keys else local_names(host, listener)
        if not api_keys and not hosts:
            warn_of_open_door(host)
        app = create(replace(settings, api_keys=api_keys, hosts=hosts))
        if follow is not None:
            stack.enter_context(following(follow, app.state.service.store, bundle, quiet=log_json))
        run(app, listener, ready_file=ready_file)
    return 0


def _opened(bundle: Path, options: EngineOptions) -> tuple[AnyModel, Callable[[Settings], FastAPI]]:
    """A bundle's model, and what makes its app."""
    kind = _kind_of(bundle)
    create = imported(kind.app)
    if kind is DECODER:
        chat = _load(bundle, options)
        return chat, partial(create, chat)
    _refuse_of_decoders(bundle, kind, options)
    model: EncoderModel | Seq2SeqModel = imported(kind.model)(bundle, options.shared())
    return model, partial(create, model)


def _refuse_of_decoders(bundle: Path, kind: Kind, options: EngineOptions) -> None:
    """Raises: UsageError for an option that only a chat model has."""
    never_cut = "never cuts its texts"
    why = {
        "kv_bytes": kind.no_kv_cache,
        "step_ms": never_cut,
        "prefill_chunk": never_cut,
        "num_speculative_tokens": "drafts no tokens",
    }
    for name in options.chosen_for_decoder():
        flag = "--kv-gb" if name == "kv_bytes" else f"--{name.replace('_', '-')}"
        raise UsageError(f"{bundle} is of {kind.noun}, which {why[name]}: leave out {flag}")


class _Stopped(BaseException):
    """A signal came before the server had its own handlers. No Exception: nothing on the way may swallow it."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end the block with a line; what it opened is closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Stopped:
        print("Stopped before it was ready.", flush=True)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _check_memory(options: EngineOptions) -> None:
    """Raises: UsageError for a KV cache that this machine's memory could not hold."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if not 0 < options.kv_bytes <= memory_bytes:
        raise UsageError(
            f"--kv-gb must be over 0 and within this machine's memory of {memory_bytes / GIB:.1f} GB "
            f"(is {options.kv_bytes / GIB:g})"
        )


def _check_settings(settings: Settings) -> None:
    """Raises: UsageError for options that mean nothing."""
    for option, value in (("--step-limit-s", settings.step_limit_s), ("--drain-s", settings.drain_s)):
        if not 0 < value < 1e9:  # false for nan, too
            raise UsageError(f"{option} must be over 0 seconds (is {value})")
    root = settings.adapter_root
    if root is not None and not settings.adapters_api:
        raise UsageError("--adapter-root is for adapters that are added over HTTP: it needs --adapters-api")
    if root is not None and not root.is_dir():
        raise UsageError(f"--adapter-root {root}: there is no such folder")
    if settings.max_adapters < 1:
        raise UsageError(f"--max-adapters must be 1 or more (is {settings.max_adapters})")


def _check_follow(follow: Follow | None, bundle: Path) -> None:
    if follow is not None:
        follow.check(Bundle.open(bundle))


def _load(bundle: Path, options: EngineOptions) -> ChatModel:
    from ptune.tasks.chat import infer

    try:
        return infer.load(bundle, options=options)
    except MemoryError:
        raise UsageError(
            f"{bundle} and a KV cache of {options.kv_bytes / GIB:g} GB do not fit into memory; choose a smaller --kv-gb"
        ) from None


def _kind_of(bundle: Path) -> Kind:
    """What kind of model a bundle is of; a folder that is not a bundle is left to the loader, which says so."""
    manifest = bundle / "manifest.json"
    return of_task(str(read_json(manifest).get("task"))) if manifest.is_file() else DECODER


def run(app: FastAPI, listener: socket, *, ready_file: Path | None = None) -> None:
    """Serves an app whose model is loaded; returns when a signal has come and what ran has ended."""
    service: Service = app.state.service
    started = partial(_announce, service, url_of(listener), ready_file)
    try:
        with service.health.watched():
            keys = service.settings.api_keys
            reload = keys.reload if keys else None
            drain = partial(_drain, service)
            Server(app, started=started, drain=drain, reload=reload).run(sockets=[listener])
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


def _announce(service: Service, url: str, ready_file: Path | None) -> None:
    names = service.catalogue.names()
    key = " -H 'Authorization: Bearer KEY'" if service.settings.api_keys else ""
    path, body = service.hint
    print(f"Serving {', '.join(names) or 'no adapter yet'} at {url}/v1")
    sent = (
        f" -H 'Content-Type: application/json'{key} -d '{json.dumps(body, ensure_ascii=False)}'"
        if body
        else key
    )
    print(f"Try: curl {url}{path}{sent}", flush=True)
    if ready_file is not None:
        write_text(ready_file, url + "\n")


def _close(model: AnyModel) -> None:
    """Ends the engine. A step that hangs cannot be ended: then the process goes without it, with exit code 1."""

    def leave() -> None:
        _log.error("a step of the engine has not ended within %s s: leaving without it", CLOSE_LIMIT_S)
        sys.stdout.flush()
        os._exit(1)

    impatience = threading.Timer(CLOSE_LIMIT_S, leave)
    impatience.daemon = True
    impatience.start()
    try:
        model.close()
    finally:
        impatience.cancel()


async def _drain(service: Service) -> None:
    """Refuses new requests and waits for those that run; those that take too long end with an error of their own."""
    service.draining = True
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(service.settings.drain_s):
                while service.running:
                    await asyncio.sleep(0.05)
    finally:
        for running in list(service.running):
            running.close()
