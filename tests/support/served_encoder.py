"""An encoder's server over the fake model, on a real socket, and what tests send to it."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema
from fastapi import FastAPI
from PIL import Image

from ptune.formats.bundle import AdapterRecord
from ptune.tasks.encoder.infer import EncoderModel
from ptune_serve.app import create_encoder_app
from ptune_serve.service import EncoderService, Settings
from support.fake_chat_model import serving
from support.fake_encoder_model import FakeEncoderEngine, FakeEncoderModel


@dataclass
class Encoder:
    url: str
    model: FakeEncoderModel
    service: EncoderService
    http: httpx.Client

    @property
    def engine(self) -> FakeEncoderEngine:
        return self.model.engine

    def classify(self, value: object, model: str = "sentiment", **fields: object) -> httpx.Response:
        return self.http.post("/v1/classify", json={"model": model, "input": value, **fields})


@contextlib.contextmanager
def encoder(records: Mapping[str, AdapterRecord], **options: Any) -> Iterator[Encoder]:
    model = FakeEncoderModel(records)
    app = create_encoder_app(model, Settings(**options))
    with serving(app) as url, httpx.Client(base_url=url, timeout=20, event_hooks=as_documented(app)) as http:
        yield Encoder(url, model, app.state.service, http)


@contextlib.contextmanager
def client_of(model: EncoderModel) -> Iterator[httpx.Client]:
    """Of a server over a real model."""
    app = create_encoder_app(model, Settings())
    with (
        serving(app) as url,
        httpx.Client(base_url=url, timeout=60, event_hooks=as_documented(app)) as client,
    ):
        yield client


def as_documented(app: FastAPI) -> dict[str, list[Any]]:
    """Hooks that hold every JSON answer to what /openapi.json says of its path."""
    document = app.state.document()

    def check(response: httpx.Response) -> None:
        operations = document["paths"].get(response.request.url.path, {})
        operation = operations.get(response.request.method.lower())
        if operation is None or response.headers["content-type"] != "application/json":
            return
        response.read()
        said = operation["responses"]["200" if response.status_code == 200 else "default"]
        schema = {**said["content"]["application/json"]["schema"], "components": document["components"]}
        jsonschema.validate(response.json(), schema)

    return {"response": [check]}


def as_new(served: Encoder) -> Encoder:
    served.engine.__init__(served.engine.records)  # type: ignore[misc]
    served.service.draining = False
    return served


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return error


def png(
    colour: tuple[int, int, int] = (250, 10, 10), size: tuple[int, int] = (8, 8), kind: str = "PNG"
) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def part(content: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{kind};base64,{base64.b64encode(content).decode()}"},
    }
