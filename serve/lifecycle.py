"""The life of a server: bind, load the bundle, listen, serve, drain, exit 0."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
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

from ptune.engine.memory import most_bytes
from ptune.engine.options import CUDA, GIB, EngineOptions
from ptune.errors import UsageError
from ptune.formats.bundle import Bundle
from ptune.formats.whole_write import read_json, write_text
from ptune.kinds import DECODER, Kind, imported, of_task

from .access.auth import ApiKeys, warn_of_open_door
from .bundles.folder import SeveralBundles
from .files.store import FilesOptions
from .follow import Follow, following
from .http import json_log
from .http.listen import Server, bind, local_names, start_listening, url_of
from .http.telemetry import telemetry
from .http.tls import Certificate, scheme_of
from .service import Service, Settings
from .ui.process import chat_page

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ptune.tasks.chat.infer import ChatModel
    from ptune.tasks.encoder.infer import EncoderModel
    from ptune.tasks.translation.seq2seq_infer import Seq2SeqModel

    from .bundles.app import Host

    AnyModel = ChatModel | EncoderModel | Seq2SeqModel

CLOSE_LIMIT_S = 10
"""How long the engine's last step may take after everything else has ended."""

_log = logging.getLogger("ptune.serve")


def serve(
    bundle: Path | SeveralBundles,
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
    files: FilesOptions | None = None,
    certificate: Certificate | None = None,
) -> int:
    """Serves a bundle of any kind, or several, until SIGTERM or Ctrl-C, and returns the exit code.

    Port 0 takes any free port. ready_file: holds the server's URL while it answers. settings: its `api_keys` and `hosts`
    are replaced according to the other arguments, and so is `files`. certificate: the server speaks TLS.
    Raises: PtuneError if the port is in use, the keys cannot be read, the cache is larger than the memory, the bundle
    does not open, or this machine does not reproduce the bundle's golden vectors.
    """
    if log_json:
        json_log.log_json()
    api_keys = ApiKeys() if api_key_file is None else ApiKeys.read(api_key_file)
    check_memory(options)
    check_settings(settings)
    _check_follow(follow, bundle)
    with _stoppable(), contextlib.ExitStack() as stack:
        # Before the model: an error about the port or a folder should not have to wait until gigabytes are loaded.
        store = None if files is None else stack.enter_context(files.opened())
        listener = stack.enter_context(bind(host, port))
        if (told := telemetry()) is not None:
            stack.callback(told.close)
        model, create = _opened_any(bundle, options)
        stack.callback(_close, model)
        start_listening(listener)  # not earlier: a client should be refused instead of left waiting
        if ui:
            # The page prompts for a key without encryption, so with keys it listens on this machine only.
            page_host = "127.0.0.1" if api_keys else host
            trusted = None if certificate is None else certificate.path
            url = url_of(listener, scheme_of(certificate))
            stack.enter_context(chat_page(url, page_host, ui_port, ask=bool(api_keys), trusted=trusted))
        hosts = frozenset() if api_keys else local_names(host, listener)
        if not api_keys and not hosts:
            warn_of_open_door(host)
        app = create(replace(settings, api_keys=api_keys, hosts=hosts, files=store, telemetry=told))
        if follow is not None and isinstance(bundle, Path):
            stack.enter_context(following(follow, app.state.service.store, bundle, quiet=log_json))
        run(app, listener, ready_file=ready_file, certificate=certificate)
    return 0


def _opened_any(
    bundle: Path | SeveralBundles, options: EngineOptions
) -> tuple[AnyModel | Host, Callable[[Settings], FastAPI]]:
    """The model of a bundle, or the host of several, and the function that creates the app. A host loads nothing yet."""
    if isinstance(bundle, Path):
        return opened(bundle, options)
    if options.draft_model is not None:
        raise UsageError("--draft-model belongs to one bundle: serve that bundle alone")
    from .bundles.app import open_host

    host = open_host(bundle, options, opened)
    print(host.told, flush=True)
    return host, host.create


def opened(bundle: Path, options: EngineOptions) -> tuple[AnyModel, Callable[[Settings], FastAPI]]:
    """The model of a bundle, and the function that creates its app."""
    kind = _kind_of(bundle)
    create = imported(kind.app)
    if kind is DECODER:
        chat = _load(bundle, options)
        print(f"Room for {chat.engine.capacity()}", flush=True)
        return chat, partial(create, chat)
    _refuse_decoder_options(bundle, kind, options)
    model: EncoderModel | Seq2SeqModel = imported(kind.model)(bundle, options.shared())
    return model, partial(create, model)


def _refuse_decoder_options(bundle: Path, kind: Kind, options: EngineOptions) -> None:
    """Raises: UsageError for an option that only a chat model has."""
    never_cut = "never splits texts"
    why = {
        "kv_bytes": kind.no_kv_cache,
        "kv_cache_dtype": kind.no_kv_cache,
        "step_ms": never_cut,
        "prefill_chunk": never_cut,
        "num_speculative_tokens": "has no speculation",
        "draft_model": "has no speculation",
        "kv_disk": "keeps nothing of its texts",
        "kv_disk_bytes": "keeps nothing of its texts",
        "kernels": "has no operators of its own",
        "device": "computes on the CPU",
    }
    for name in options.chosen_for_decoder():
        flag = f"--{name.replace('_bytes', '_gb').replace('_', '-')}"
        raise UsageError(f"{bundle} holds {kind.noun}, which {why[name]}: leave out {flag}")


class _Stopped(BaseException):
    """A signal arrived before the server had its handlers. A BaseException, so that no `except Exception` swallows it."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Lets SIGTERM and Ctrl-C end the block with a message, after it has closed what it opened."""

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


def check_memory(options: EngineOptions) -> None:
    """Raises: UsageError for a KV cache that the memory of this machine, or of this container, could not hold."""
    memory_bytes = math.inf if options.device == CUDA else most_bytes()  # a card is asked when it is opened
    if not 0 < options.kv_bytes <= memory_bytes:
        raise UsageError(
            f"--kv-gb must be over 0 and within the memory of {memory_bytes / GIB:.1f} GB that there is "
            f"(is {options.kv_bytes / GIB:g})"
        )


def check_settings(settings: Settings) -> None:
    """Raises: UsageError for options out of range, or without effect."""
    for option, value in (("--step-limit-s", settings.step_limit_s), ("--drain-s", settings.drain_s)):
        if not 0 < value < 1e9:  # false for nan, too
            raise UsageError(f"{option} must be over 0 seconds (is {value})")
    root = settings.adapter_root
    if root is not None and not settings.adapters_api:
        raise UsageError("--adapter-root is for adapters that are added over HTTP: it needs --adapters-api")
    if root is not None and not root.is_dir():
        raise UsageError(f"--adapter-root {root}: there is no such folder")
    if settings.batch_lines < 1:
        raise UsageError(f"--batch-lines must be 1 or more (is {settings.batch_lines})")
    if settings.connections_per_address is not None and settings.connections_per_address < 1:
        raise UsageError(
            f"--connections-per-address must be 1 or more (is {settings.connections_per_address})"
        )
    if settings.max_adapters < 1:
        raise UsageError(f"--max-adapters must be 1 or more (is {settings.max_adapters})")
    if (settings.thinking_token_budget or 0) < 0:
        raise UsageError(f"--thinking-token-budget must be 0 or more (is {settings.thinking_token_budget})")


def _check_follow(follow: Follow | None, bundle: Path | SeveralBundles) -> None:
    if follow is None:
        return
    if isinstance(bundle, SeveralBundles):
        raise UsageError(
            "--follow serves the checkpoints of a run on one bundle: leave it out, or serve that bundle alone"
        )
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
    """The kind of a bundle's model; a folder that is no bundle is left to the loader, which reports it."""
    manifest = bundle / "manifest.json"
    return of_task(str(read_json(manifest).get("task"))) if manifest.is_file() else DECODER


def run(
    app: FastAPI,
    listener: socket,
    *,
    ready_file: Path | None = None,
    certificate: Certificate | None = None,
) -> None:
    """Serves an app with a loaded model; returns after a signal, when the requests in progress have ended."""
    service: Service = app.state.service
    url = url_of(listener, scheme_of(certificate))
    started = partial(_announce, service, url, ready_file)
    try:
        with service.health.watched():
            drain, reload = partial(_drain, service), partial(_reload, service, certificate)
            tls = None if certificate is None else certificate.context
            most = service.settings.connections_per_address
            server = Server(app, started=started, drain=drain, reload=reload, tls=tls, per_address=most)
            server.run(sockets=[listener])
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


def _reload(service: Service, certificate: Certificate | None) -> None:
    """What SIGHUP asks for."""
    service.settings.api_keys.reload()
    if certificate is not None:
        certificate.reload()


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


def _close(model: AnyModel | Host) -> None:
    """Closes the engine. A step that hangs cannot be stopped; then the process exits without it, with exit code 1."""

    def leave() -> None:
        _log.error("a step of the engine has not ended within %s s: exiting without it", CLOSE_LIMIT_S)
        sys.stdout.flush()
        os._exit(1)

    timer = threading.Timer(CLOSE_LIMIT_S, leave)
    timer.daemon = True
    timer.start()
    try:
        model.close()
    finally:
        timer.cancel()


async def _drain(service: Service) -> None:
    """Refuses new requests and waits for those in progress; those that take too long end with an error."""
    service.draining = True
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(service.settings.drain_s):
                while service.running:
                    await asyncio.sleep(0.05)
    finally:
        for running in list(service.running):
            running.close()
