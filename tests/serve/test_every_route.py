"""Every route of every app, from the app's own list: keys, limits of bodies, and schemas. A new one is found here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from support.app_routes import routes_of
from support.error_forms import said
from support.fake_chat_model import FakeChatModel
from support.fake_encoder_model import IMAGES, TEXTS, FakeEncoderModel
from support.several_bundles import FakeOpening, write_all

from ptune.config.tasks import TASKS, endpoints_of
from ptune.engine.options import EngineOptions
from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app, create_encoder_app, create_seq2seq_app
from ptune_serve.bundles.app import open_host
from ptune_serve.bundles.folder import SeveralBundles
from ptune_serve.files.store import FilesOptions, FileStore
from ptune_serve.service import Settings

KEY = "key-of-all-scopes"
OPEN_TO_ALL = {"/health", "/ready", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
MOST_BYTES = 4096
CHUNK = b"x" * 16384
FORMS_MAY_HAVE = 48 * 2**20  # bytes: a tokenizer and small files beside the weights


_FOLDER = TemporaryDirectory()
BUNDLES = write_all(Path(_FOLDER.name) / "bundles")
LOADING = ("/v2/repository/models/{bundle}/load", "/v2/repository/models/{bundle}/unload")  # read no body


def apps(settings: Settings) -> dict[str, FastAPI]:
    translator = FakeChatModel()
    translator.engine.bundle.manifest.task = "seq2seq"
    several = open_host(SeveralBundles((BUNDLES,)), EngineOptions(), FakeOpening())
    return {
        "several": several.create(settings),
        "chat": create_app(FakeChatModel(), settings),
        "seq2seq": create_seq2seq_app(translator, settings),
        "encoder": create_encoder_app(FakeEncoderModel(), settings),
    }


FILES = FilesOptions(Path(_FOLDER.name) / "files", max_file_bytes=MOST_BYTES)
GUARDED = apps(
    Settings(
        files=FileStore(FILES),
        api_keys=ApiKeys((KEY,)),
        adapters_api=True,
        max_body_bytes=MOST_BYTES,
        max_images_bytes=MOST_BYTES,
        max_adapter_bytes=MOST_BYTES,
    )
)
ROUTES = [
    (kind, method, route.path)
    for kind, app in GUARDED.items()
    for route in routes_of(app)
    for method in sorted(route.methods or ())
]


def placed(path: str) -> str:
    """The path with names in its places."""
    for place, name in (
        ("model", "pirate"),
        ("bundle", "chat"),
        ("name", "pirate"),
        ("alias", "prod"),
        ("response_id", "resp_1"),
        ("version", "aaaaaaaaaaaa"),
        ("file_id", "file-1"),
        ("batch_id", "batch_1"),
    ):
        path = path.replace(f"{{{place}}}", name)
    return path


def test_each_app_has_routes_of_its_own() -> None:
    paths = {kind: {path for of, _, path in ROUTES if of == kind} for kind in GUARDED}
    assert "/v1/chat/completions" in paths["chat"] - paths["encoder"] - paths["seq2seq"]
    assert "/v1/translate" in paths["chat"] & paths["seq2seq"]
    assert "/v1/classify" in paths["encoder"] - paths["chat"]
    assert not any("{" in placed(path) for _, _, path in ROUTES)


@pytest.mark.parametrize(("kind", "method", "path"), ROUTES)
def test_nobody_enters_without_a_key(kind: str, method: str, path: str) -> None:
    client = TestClient(GUARDED[kind], raise_server_exceptions=False)
    answer = client.request(method, placed(path))
    if path in OPEN_TO_ALL:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 401
        assert "send a key as `Authorization: Bearer KEY`" in said(answer.json())


@pytest.mark.parametrize("kind_of_body", ["application/json", "multipart/form-data; boundary=b", "image/png"])
@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [one for one in ROUTES if one[1] in ("POST", "PUT", "PATCH") and one[2] not in LOADING],
)
def test_no_body_is_read_without_end(kind: str, method: str, path: str, kind_of_body: str) -> None:
    status, read_bytes = endless(GUARDED[kind], method, placed(path), kind_of_body)
    assert read_bytes <= 16 * MOST_BYTES + ("multipart" in kind_of_body) * FORMS_MAY_HAVE
    assert status != 200


@pytest.mark.parametrize("kind_of_body", ["application/json", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize(
    ("kind", "method", "path"), [one for one in ROUTES if one[1] in ("POST", "PUT", "PATCH")]
)
def test_nothing_of_a_strangers_body_is_read(kind: str, method: str, path: str, kind_of_body: str) -> None:
    assert endless(GUARDED[kind], method, placed(path), kind_of_body, key="guessed") == (401, 0)


def endless(app: FastAPI, method: str, path: str, kind_of_body: str, key: str = KEY) -> tuple[int, int]:
    """The status of the answer to a body that never ends, and how much of it was read."""
    read, statuses = [0], []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if read[0] > 2 * FORMS_MAY_HAVE:
            return {"type": "http.disconnect"}
        head = (
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' if not read[0] else b""
        )
        read[0] += len(CHUNK)
        return {"type": "http.request", "body": head + CHUNK, "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = {
        "host": "localhost",
        "authorization": f"Bearer {key}",
        "content-type": kind_of_body,
        "transfer-encoding": "chunked",
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"model=sentiment&bundle=chat",
        "root_path": "",
        "scheme": "http",
        "server": ("localhost", 80),
        "client": ("localhost", 1),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 60))
    return statuses[0], read[0]


@pytest.mark.parametrize("kind", GUARDED)
def test_every_answer_has_a_schema(kind: str) -> None:
    document = TestClient(GUARDED[kind]).get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for content in operation["responses"]["200"]["content"].values():
                assert content["schema"] != {"type": "object"}, path


OPEN = apps(Settings())


def elsewhere() -> list[tuple[str, str]]:
    """The endpoints of the table of tasks that an app does not have."""
    every = dict.fromkeys(path for task in TASKS for path in task.endpoints)
    return [
        (kind, path)
        for kind, app in OPEN.items()
        for path in every
        if path not in {route.path for route in routes_of(app)}
    ]


@pytest.mark.parametrize(("kind", "path"), elsewhere())
def test_an_endpoint_of_another_kind_says_what_is_served_and_where(kind: str, path: str) -> None:
    client = TestClient(OPEN[kind])
    answer = client.post(path, json={"model": "x"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "wrong_endpoint")
    tasks = {card["task"] for card in client.get("/v1/models").json()["data"]}
    assert tasks
    for task in tasks:
        assert task in error["message"]
        assert endpoints_of(task)[0] in error["message"]


def test_who_has_no_key_is_not_told_what_tasks_the_adapters_have() -> None:
    said = TestClient(GUARDED["encoder"]).post("/v1/chat/completions", json={}).json()["error"]["message"]
    assert "/v1/classify" in said
    assert "token-classification" not in said


def test_a_path_that_nothing_has_is_simply_not_there() -> None:
    answer = TestClient(OPEN["encoder"]).get("/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "GET /v1/nothing: Not Found"


@pytest.mark.parametrize("name", [*TEXTS, *IMAGES])
def test_the_command_to_try_goes_to_the_adapters_own_endpoint(name: str) -> None:
    app = create_encoder_app(FakeEncoderModel({name: {**TEXTS, **IMAGES}[name]}))
    path, body = app.state.service.hint
    assert path == endpoints_of({**TEXTS, **IMAGES}[name].task)[0]
    assert body["model"] == name
    if name in TEXTS:
        assert TestClient(app).post(path, json=body).status_code == 200
    json.dumps(body)


def test_every_task_with_an_endpoint_has_an_example() -> None:
    for task in TASKS:
        assert not task.endpoints or task.example, task.recipe_name
