"""Bundles of all kinds on disk, without graphs, and a server over them whose models are fakes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from ptune.engine.options import EngineOptions
from ptune.formats.bundle import AdapterRecord, Alias, AnySignature, BaseIdentity, Bundle, Graph, Manifest
from ptune.formats.seq2seq import Seq2SeqSignature
from ptune.formats.signature import CacheLayer, EncoderSignature, Signature
from ptune.formats.whole_write import sha256_of, write_json
from ptune_serve.app import create_app, create_encoder_app, create_seq2seq_app
from ptune_serve.bundles.app import Host
from ptune_serve.bundles.folder import find_bundles
from ptune_serve.bundles.service import HostService
from ptune_serve.service import Settings
from support.byte_codec import CONTEXT
from support.fake_chat_model import FakeChatModel, FakeEngine, serving
from support.fake_encoder_model import TEXTS, FakeEncoderModel

MB = 2**20
_LAYER = CacheLayer(kv_heads=1, key_dim=4, value_dim=4)
_SIGNATURES: dict[str, AnySignature] = {
    "chat": Signature(vocab_size=257, context=CONTEXT, cache=(_LAYER,), sockets=()),
    "encoder": EncoderSignature(modality="text", context=CONTEXT, sockets=()),
    "seq2seq": Seq2SeqSignature(
        vocab_size=257, context=CONTEXT, cache=(_LAYER,), reader_sockets=(), writer_sockets=()
    ),
}


def write_bundle(
    folder: Path,
    task: str = "chat",
    adapters: Sequence[AdapterRecord] = (),
    *,
    size_bytes: int = MB,
    aliases: Mapping[str, str] = {},
) -> Path:
    """A bundle whose graph is a file of so many zeros."""
    graph = folder / "graphs" / "fp32" / "model.onnx"
    graph.parent.mkdir(parents=True)
    with graph.open("wb") as file:
        file.truncate(size_bytes)
    digests = {}
    for record in adapters:
        path = folder / "adapters" / record.name / "adapter.json"
        path.parent.mkdir(parents=True)
        write_json(path, record.model_dump(mode="json"))
        digests[record.name] = sha256_of(path)
    manifest = Manifest(
        created="2025-06-01T12:00:00+00:00",
        versions={},
        task=task,
        base=BaseIdentity(hash="sha256:" + "0123456789ab" * 5, source=f"tiny_{task}"),
        signature=_SIGNATURES[task],
        graphs={"fp32": Graph(profile="fp32", files={"graphs/fp32/model.onnx": ""})},
        codec={},
        golden={},
        adapters=digests,
        aliases={alias: Alias(name=name) for alias, name in aliases.items()},
    )
    Bundle(folder, manifest).write_manifest(manifest)
    return folder


def write_all(folder: Path) -> Path:
    """A chat model with adapters, another without, an encoder, a translator."""
    sql, pirate = AdapterRecord(name="sql"), AdapterRecord(name="pirate")
    write_bundle(folder / "chat", adapters=(pirate, sql), aliases={"prod": "sql"})
    write_bundle(folder / "small", adapters=(sql,))
    write_bundle(folder / "texts", "encoder", tuple(TEXTS.values()))
    write_bundle(folder / "german", "seq2seq")
    return folder


@dataclass
class FakeOpening:
    """Opens bundles as fake models. Its fields are knobs for tests."""

    engines: dict[str, Any] = field(default_factory=dict)  # of the models that were opened last
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    options: dict[str, EngineOptions] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    go_on: threading.Event = field(default_factory=threading.Event)  # cleared: opening waits
    prepare: dict[str, Callable[[Any], None]] = field(default_factory=dict)  # of an engine before it is used

    def __post_init__(self) -> None:
        self.go_on.set()

    def __call__(self, folder: Path, options: EngineOptions) -> tuple[Any, Callable[[Settings], FastAPI]]:
        name = folder.name
        self.opened.append(name)
        self.options[name] = options
        self.go_on.wait()
        if name in self.failures:
            raise self.failures[name]
        model, create = self._model(Bundle.open(folder))
        self.engines[name] = model.engine
        self.prepare.get(name, lambda engine: None)(model.engine)
        closing = model.close

        def close() -> None:
            self.closed.append(name)
            closing()

        model.close = close
        return model, partial(create, model)

    def _model(self, bundle: Bundle) -> tuple[Any, Any]:
        names = list(bundle.manifest.adapters)
        if bundle.manifest.task == "encoder":
            encoder = FakeEncoderModel({name: bundle.adapter(name) for name in names})
            encoder.engine.bundle = bundle  # type: ignore[assignment]
            return encoder, create_encoder_app
        engine = FakeEngine()
        engine.bundle, engine.adapters = bundle, names  # type: ignore[assignment]
        engine.in_memory = names  # type: ignore[attr-defined]
        engine.refresh = lambda: setattr(engine, "bundle", Bundle.open(bundle.folder))  # type: ignore[attr-defined]
        create = create_seq2seq_app if bundle.manifest.task == "seq2seq" else create_app
        return FakeChatModel(engine), create


@dataclass
class Several:
    """A server of several bundles."""

    url: str
    host: Host
    app: FastAPI
    opening: FakeOpening
    http: httpx.Client

    @property
    def service(self) -> HostService:
        service: HostService = self.app.state.service
        return service

    @property
    def loaded(self) -> list[str]:
        return [entry.name for entry in self.host.bundles.table if entry.state == "loaded"]

    def chat(self, model: str, content: str = "ahoy", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def said(self, model: str, content: str = "ahoy", **fields: Any) -> str:
        answer = self.chat(model, content, **fields)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def classify(self, model: str, text: str = "good") -> httpx.Response:
        return self.http.post("/v1/classify", json={"model": model, "input": text})


@contextlib.contextmanager
def several(
    folder: Path,
    *,
    budget_bytes: int = 2**40,
    idle_s: float = 0.0,
    measured: Callable[[], int | None] = lambda: None,
    opening: FakeOpening | None = None,
    headers: Mapping[str, str] = {},
    **settings: Any,
) -> Iterator[Several]:
    """A server over the bundles of a folder. Their caches are not counted."""
    opening = opening or FakeOpening()
    places = {place.name: place for place in find_bundles([folder])}
    host = Host(places, EngineOptions(kv_bytes=1), opening, budget_bytes, idle_s, measured)
    app = host.create(Settings(**settings))
    with serving(app) as url, httpx.Client(base_url=url, timeout=60, headers=headers) as http:
        try:
            yield Several(url, host, app, opening, http)
        finally:
            opening.go_on.set()
            for engine in opening.engines.values():
                engine.go_on.set()
    host.close()
