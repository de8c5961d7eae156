"""An encoder-decoder's bundle served by `ptune serve` as a process: what comes over HTTP is what transformers generates."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from support.fake_chat_model import wait_until
from support.http_client import Client, Response
from support.seq2seq_bundles import ADAPTERS, CONTEXT, SOURCES, Made, generated, ids_of, make
from support.tiny_models import decoded

import ptune
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune_serve import lifecycle
from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_seq2seq_app
from ptune_serve.service import Settings
from ptune_serve.ui.app import _first_tab
from ptune_serve.ui.client import _served

NAMES = ("base", *ADAPTERS)
LONG = {"text": ["Save"] * 128, "max_tokens": CONTEXT}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("seq2seq"), "bart")


@contextlib.contextmanager
def process(made: Made, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    ready, said = folder / "ready", folder / "said"
    options = ["--port", "0", "--no-ui", "--ready-file", str(ready), "--threads", "1", "--max-rows", "2"]
    with said.open("wb") as out:
        command = [sys.executable, "-m", "ptune", "serve", str(made.bundle.folder), *options]
        running = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        wait_until(lambda: ready.exists() or running.poll() is not None)
        assert ready.exists(), said.read_text()
        with httpx.Client(base_url=ready.read_text().strip(), timeout=120) as http:
            yield running, http
    finally:
        running.kill()
        running.wait()


@pytest.fixture(scope="module")
def served(
    made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    with process(made, tmp_path_factory.mktemp("process")) as running:
        yield running


@pytest.fixture
def http(served: tuple[subprocess.Popen[bytes], httpx.Client]) -> httpx.Client:
    return served[1]


def ask(http: Client, model: str, text: object, **fields: object) -> Response:
    return http.post("/v1/translate", json={"model": model, "text": text, **fields})


def value(http: Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_mixed_adapters_at_once_write_what_transformers_generates(http: httpx.Client, made: Made) -> None:
    with ThreadPoolExecutor(len(NAMES)) as pool:
        asked = [pool.submit(ask, http, name, SOURCES, max_tokens=9, return_token_ids=True) for name in NAMES]
    seen = set()
    for name, one in zip(NAMES, asked, strict=True):
        answer = one.result()
        body = answer.json()
        expected = [generated(made, name, text, 9) for text in SOURCES]
        assert [tuple(each["token_ids"]) for each in body["data"]] == expected
        texts = [decoded(ids).strip() for ids in expected]
        assert [each["text"] for each in body["data"]] == texts
        assert [each["index"] for each in body["data"]] == [0, 1, 2]
        for each, ids in zip(body["data"], expected, strict=True):
            assert each["finish_reason"] == ("length" if len(ids) == 9 else "stop")
        read, written = (sum(map(len, some)) for some in (map(ids_of, SOURCES), expected))
        assert body["usage"] == {
            "prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written
        }  # fmt: skip
        assert body["id"].startswith("translate-")
        assert (body["object"], body["model"]) == ("list", name)
        assert answer.headers["x-ptune-adapter"] == body["system_fingerprint"]
        assert body["system_fingerprint"].startswith(f"{name}@")
        seen.update(expected)
    assert len(seen) > len(SOURCES)  # the adapters say something of their own


def test_the_catalogue_and_the_document(http: httpx.Client, made: Made) -> None:
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert [*cards] == [*NAMES]
    for card in cards.values():
        assert (card["task"], card["endpoint"]) == ("translation", "/v1/translate")
        assert card["max_model_len"] == CONTEXT
    paths = http.get("/openapi.json").json()["paths"]
    assert "/v1/translate" in paths
    assert "/v1/chat/completions" not in paths
    assert http.post("/v1/chat/completions", json={}).status_code == 404
    page = _served(list(cards.values()))
    assert [one.name for one in page.translators] == [*ADAPTERS, "base"]
    assert (page.chats, _first_tab(page)) == (False, "Translate")
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"text": []}, "text", "at least 1"),
        ({"text": ["a", "\0"]}, "text[1]", "NUL"),
        ({"text": ["a", "word " * 300]}, "text[1]", "send it in parts"),
        ({"text": "a", "max_tokens": 65}, "max_tokens", "the model takes 64"),
        ({"text": "a", "num_beams": 2}, "num_beams", "no beam search for an encoder-decoder"),
        ({"text": "a", "stream": True}, "stream", "not supported"),
    ],
)
def test_what_is_refused(http: httpx.Client, fields: dict[str, Any], param: str, why: str) -> None:
    answer = http.post("/v1/translate", json={"model": "one", **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert why in error["message"]


def test_an_unknown_model_and_a_deadline(http: httpx.Client) -> None:
    unknown = ask(http, "nobody", "a")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    body = {"model": "one", "text": "a"}
    late = http.post("/v1/translate", json=body, headers={"x-request-timeout": "1e-9"})
    assert (late.status_code, late.json()["error"]["code"]) == (503, "deadline_exceeded")
    assert late.headers["retry-after"]
    wrong = http.post("/v1/translate", json=body, headers={"x-request-timeout": "soon"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "x-request-timeout")


def test_a_full_queue_refuses_and_clients_that_go_away_are_cancelled(http: httpx.Client) -> None:
    sent = json.dumps({"model": "one", **LONG}).encode()
    head = (
        "POST /v1/translate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(sent)}\r\n\r\n"
    )
    clients = [socket.create_connection((http.base_url.host, http.base_url.port)) for _ in range(2)]
    try:
        for client in clients:
            client.sendall(head.encode() + sent)
        wait_until(lambda: value(http, "ptune_num_requests_waiting") > 200)
        full = ask(http, "two", LONG["text"])
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
        assert full.headers["retry-after"]
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: value(http, "ptune_num_requests_waiting") == 0)
    wait_until(lambda: value(http, "ptune_num_requests_running") == 0)
    cancelled = value(http, 'ptune_requests_total{adapter="one",finish="cancelled"}')
    assert 100 < cancelled <= 256
    assert ask(http, "one", "Save", max_tokens=2).status_code == 200


def test_metrics_are_those_of_what_writes(http: httpx.Client) -> None:
    before = value(http, 'ptune_generation_tokens_total{adapter="two"}')
    body = ask(http, "two", SOURCES, max_tokens=5).json()
    written = value(http, 'ptune_generation_tokens_total{adapter="two"}') - before
    assert written == body["usage"]["completion_tokens"]
    for name in (
        'ptune_prompt_tokens_total{adapter="two"}', 'ptune_e2e_request_latency_seconds_count{adapter="two"}',
        "ptune_request_queue_time_seconds_count", "ptune_step_seconds_count", "ptune_adapters_in_memory", "ptune_build_info",
    ):  # fmt: skip
        assert value(http, name) > 0, name


def test_it_drains(served: tuple[subprocess.Popen[bytes], httpx.Client]) -> None:
    """Last: it ends the server."""
    running, http = served
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, http, "base", ["Save"] * 32, max_tokens=40)
        wait_until(lambda: slow.done() or value(http, "ptune_num_requests_running"))
        running.send_signal(signal.SIGTERM)
        assert slow.result().status_code == 200
    assert running.wait(120) == 0


def test_options_of_chat_models_are_refused(made: Made) -> None:
    for flag, options in {
        "--kv-gb": EngineOptions(kv_bytes=1 << 29),
        "--step-ms": EngineOptions(step_ms=50),
        "--prefill-chunk": EngineOptions(prefill_chunk=64),
        "--num-speculative-tokens": EngineOptions(num_speculative_tokens=0),
        "--kernels": EngineOptions(kernels="off"),
    }.items():
        with pytest.raises(UsageError, match=f"leave out {flag}"):
            lifecycle.serve(made.bundle.folder, port=0, ui=False, options=options)


def test_keys_and_adapters_that_are_added(made: Made, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[[keys]]\nname = "alice"\nkey = "alices-own-key"\nadapters = ["one"]\ntokens_per_minute = 60\n'
        '[[keys]]\nname = "root"\nkey = "roots-own-key"\nscopes = ["infer", "admin", "metrics"]\n'
    )
    model = ptune.load(made.bundle.folder, threads=1)
    app = create_seq2seq_app(model, Settings(api_keys=ApiKeys.read(keys), adapters_api=True))
    try:
        with TestClient(app) as http:
            assert ask(http, "one", "Save").status_code == 401
            http.headers["authorization"] = "Bearer alices-own-key"
            assert [card["id"] for card in http.get("/v1/models").json()["data"]] == ["one"]
            assert ask(http, "two", "Save").status_code == 404
            assert ask(http, "one", "Save", max_tokens=4).status_code == 200
            limited = ask(http, "one", SOURCES, max_tokens=60)
            assert limited.status_code == 429, limited.text
            http.headers["authorization"] = "Bearer roots-own-key"
            for name, expected in (("one", 200), ("missing", 404)):
                assert http.post("/v1/adapters", json={"name": name}).status_code == expected
            pointed = http.post("/v1/adapters/one/alias", json={"alias": "prod"})
            assert pointed.status_code == 200
            answer = ask(http, "prod", "Save", max_tokens=4)
            assert answer.headers["x-ptune-adapter"].startswith("one@")
    finally:
        model.close()


def test_a_broken_engine_is_told_and_not_explained(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("secret detail")

    model = ptune.load(made.bundle.folder, threads=1)
    try:
        with TestClient(create_seq2seq_app(model)) as http:
            with monkeypatch.context() as patch:
                patch.setattr(model.engine._session, "decode", broken)
                for _ in range(3):
                    answer = ask(http, "one", "Save")
                    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
                    assert "secret" not in answer.text
            assert ask(http, "one", "Save", max_tokens=3).status_code == 200
            assert http.get("/health").status_code == 200
            assert value(http, 'ptune_requests_total{adapter="one",finish="error"}') == 3
    finally:
        model.close()
