"""OpenAI's Batch API: the `openai` package, unmodified, against a real socket."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from support.batch_lines import Filing, filing, jsonl, line, many, said
from support.fake_chat_model import FakeChatModel, wait_until
from support.fake_encoder_model import FakeEncoderModel

from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, Limits, plain
from ptune_serve.app import create_encoder_app
from ptune_serve.batches import runner


@pytest.fixture
def model() -> FakeChatModel:
    return FakeChatModel()


@pytest.fixture
def server(tmp_path: Path, model: FakeChatModel) -> Iterator[Filing]:
    with filing(tmp_path / "kept", model) as server:
        yield server


def test_a_batch(server: Filing) -> None:
    lines = [
        line("first", "ahoy ☠"),
        line("second", "hi"),
        line("third", model="nobody"),
        line("4", max_tokens=-1),
    ]
    batch_id = server.begun(jsonl(*lines), metadata={"night": "job"})
    batch = server.ended(batch_id)
    assert (batch.object, batch.status, batch.endpoint) == ("batch", "completed", "/v1/chat/completions")
    assert (batch.metadata, batch.errors, batch.model) == ({"night": "job"}, None, "pirate")
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 2, 2)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.usage.output_tokens == len("pirate heard: ahoy ☠".encode()) + 1 + len("pirate heard: hi") + 1
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    right = {entry["custom_id"]: entry for entry in server.lines(batch.output_file_id)}
    assert {name: said(entry) for name, entry in right.items()} == {
        "first": "pirate heard: ahoy ☠",
        "second": "pirate heard: hi",
    }
    for entry in right.values():
        assert set(entry) == {"id", "custom_id", "response", "error"}
        assert entry["error"] is None
        assert entry["response"]["status_code"] == 200
        assert entry["response"]["body"]["id"] == f"chatcmpl-{entry['response']['request_id']}"
    wrong = {entry["custom_id"]: entry["response"] for entry in server.lines(batch.error_file_id)}
    assert {name: response["status_code"] for name, response in wrong.items()} == {"third": 404, "4": 400}
    assert "no model 'nobody'" in wrong["third"]["body"]["error"]["message"]
    output = server.client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch_id}_output.jsonl")
    assert {one.id for one in server.client.files.list(purpose="batch_output")} == {
        batch.output_file_id,
        batch.error_file_id,
    }


ENDPOINTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": "base", "prompt": ["a", "b"]}),
    ("/v1/responses", {"model": "base", "input": "a", "store": False}),
    ("/v1/translate", {"model": "devil", "text": "a"}),
]


@pytest.mark.parametrize(("endpoint", "body"), ENDPOINTS, ids=[endpoint for endpoint, _ in ENDPOINTS])
def test_every_endpoint_of_the_server(server: Filing, endpoint: str, body: dict[str, Any]) -> None:
    entry = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    batch = server.ended(server.begun(jsonl(entry), endpoint))
    assert batch.status == "completed"
    (answer,) = server.lines(batch.output_file_id)
    assert answer["response"]["body"]["object"]
    assert batch.usage.output_tokens > 0


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/responses"])
def test_tokens_that_were_found_in_the_cache_are_added_up(
    server: Filing, model: FakeChatModel, endpoint: str
) -> None:
    model.engine.reused = 5
    said = {"model": "base", "messages": [{"role": "user", "content": "a"}]}
    body = {"model": "base", "input": "a", "store": False} if endpoint == "/v1/responses" else said
    lines = [
        {"custom_id": name, "method": "POST", "url": endpoint, "body": body} for name in ("first", "second")
    ]
    assert server.ended(server.begun(jsonl(*lines), endpoint)).usage.input_tokens_details.cached_tokens == 10


def test_a_body_that_just_fits_is_answered(tmp_path: Path) -> None:
    """It was written again with spaces, and refused for its length."""
    body = {"model": "base", "prompt": [65] * 100, "max_tokens": 5}
    raw = json.dumps(body, separators=(",", ":")).encode()
    head = b'{"custom_id":"a","method":"POST","url":"/v1/completions","body":'
    with filing(tmp_path, max_body_bytes=len(raw)) as server:
        headers = {"content-type": "application/json"}
        assert httpx.post(f"{server.url}/v1/completions", content=raw, headers=headers).status_code == 200
        batch = server.ended(server.begun(head + raw + b"}", "/v1/completions"))
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 0)


def test_an_encoder_has_batches_too(tmp_path: Path) -> None:
    encoder = FakeEncoderModel()
    entries = [
        {
            "custom_id": text,
            "method": "POST",
            "url": "/v1/classify",
            "body": {"model": "sentiment", "input": text},
        }
        for text in ("a good day", "a bad day")
    ]
    with filing(tmp_path, app=lambda settings: create_encoder_app(encoder, settings)) as server:
        batch = server.ended(server.begun(jsonl(*entries), "/v1/classify"))
        labels = {
            entry["custom_id"]: entry["response"]["body"]["data"][0]["label"]
            for entry in server.lines(batch.output_file_id)
        }
        assert labels == {"a good day": "positive", "a bad day": "negative"}
        with pytest.raises(
            openai.BadRequestError, match="is not one that batches are for here: /v1/classify"
        ):
            server.uploaded(many(1))


def test_few_lines_are_asked_at_once(tmp_path: Path, model: FakeChatModel) -> None:
    model.engine.go_on.clear()
    with filing(tmp_path, model, batch_lines=3) as server:
        batch_id = server.begun(many(20))
        wait_until(lambda: model.engine.running == 3)
        time.sleep(0.2)
        assert model.engine.running == 3
        batch = server.now(batch_id)
        assert (batch.status, batch.request_counts.total, batch.request_counts.completed) == (
            "in_progress",
            20,
            0,
        )
        model.engine.go_on.set()
        batch = server.ended(batch_id)
        assert batch.request_counts.completed == 20
        assert len(server.lines(batch.output_file_id)) == 20


def test_a_request_with_many_texts_takes_the_places_of_many() -> None:
    assert runner.inputs_of({"messages": []}) == 1
    assert runner.inputs_of({"input": ["a"] * 40}) == 40
    assert runner.inputs_of({"prompt": ["a", "b"], "n": 4}) == 8
    assert runner.inputs_of({"input": ["a"] * 2048}) == 128
    assert (
        runner.inputs_of({"input": [], "n": -5})
        == runner.inputs_of({"n": True})
        == runner.inputs_of({"n": "x"})
        == 1
    )


def test_batches_give_way_in_the_engine(server: Filing, model: FakeChatModel) -> None:
    server.ended(server.begun(many(1)))
    server.client.chat.completions.create(model="base", messages=[{"role": "user", "content": "hi"}])
    of_batch, of_client = model.engine.requests
    assert of_batch.tenant != of_client.tenant
    assert of_batch.weight < of_client.weight


def test_cancelling_keeps_what_is_there(server: Filing, model: FakeChatModel) -> None:
    batches = server.client.batches
    model.engine.scripts = {"number 0": "done"}
    first = server.begun(many(1))
    server.ended(first)
    with pytest.raises(
        openai.BadRequestError, match="is completed; only one that has not ended can be cancelled"
    ):
        batches.cancel(first)
    model.engine.delay_s, model.engine.context = 0.01, 60_000
    model.engine.scripts = {f"number {number}": "x" * 50_000 for number in range(3, 40)}  # minutes each
    batch_id = server.begun(many(40))
    wait_until(lambda: server.now(batch_id).request_counts.completed == 3)
    assert batches.cancel(batch_id).status in ("cancelling", "cancelled")
    batch = server.ended(batch_id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    assert (batch.request_counts.total, batch.request_counts.failed) == (40, 0)
    assert {entry["custom_id"] for entry in server.lines(batch.output_file_id)} == {"0", "1", "2"}
    assert batch.error_file_id is None
    wait_until(lambda: model.engine.running == 0)
    with pytest.raises(openai.BadRequestError):
        batches.cancel(batch_id)


def test_a_file_stays_while_it_is_read(server: Filing, model: FakeChatModel) -> None:
    model.engine.go_on.clear()
    file_id = server.uploaded(many(2))
    batch = server.client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    with pytest.raises(openai.BadRequestError, match="cancel the batch first"):
        server.client.files.delete(file_id)
    server.client.batches.cancel(batch.id)
    server.ended(batch.id)
    assert server.client.files.delete(file_id).deleted


def test_a_file_for_another_endpoint_fails_with_its_lines(server: Filing) -> None:
    content = jsonl(
        line("a"), {**line("b"), "url": "/v1/completions"}, {**line("c"), "url": "/v1/completions"}
    )
    batch = server.ended(server.begun(content))
    assert (batch.status, batch.in_progress_at) == ("failed", None)
    assert batch.failed_at >= batch.created_at
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "mismatched_endpoint", "url"),
        (3, "mismatched_endpoint", "url"),
    ]
    assert "line 2: url is '/v1/completions'" in batch.errors.data[0].message
    assert batch.output_file_id is batch.error_file_id is None


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"endpoint": "/v1/adapters"}, "endpoint: batches are for /v1/chat/completions, "),
    ({"completion_window": "soon"}, 'completion_window: must be hours from "1h" to "720h"'),
    ({"completion_window": "0h"}, "completion_window: "),
    ({"completion_window": "721h"}, "completion_window: "),
    ({"metadata": {"a": 1}}, "metadata.a: "),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata: "),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds: "),
    ({"input_file_id": "file-1"}, "no file 'file-1' is kept here for this key"),
    ({"extra_body": {"priority_": 1}}, "priority_: there is no such field; did you mean priority?"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_begun_is_refused(server: Filing, fields: dict[str, Any], message: str) -> None:
    given: Any = {
        "input_file_id": server.uploaded(many(1)),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **fields,
    }
    with pytest.raises(openai.APIStatusError) as raised:
        server.client.batches.create(**given)
    assert raised.value.body["message"].startswith(message)  # type: ignore[index]
    assert list(server.client.batches.list()) == []


def test_a_list_comes_in_pages(server: Filing) -> None:
    made = [server.begun(many(1)) for _ in range(3)]
    for batch_id in made:
        server.ended(batch_id)
    assert [batch.id for batch in server.client.batches.list(limit=2)] == made[::-1]
    assert len(server.client.batches.list(limit=2).data) == 2


def test_a_key_has_its_own_batches_limits_and_adapters(tmp_path: Path, model: FakeChatModel) -> None:
    """What a key may not ask over HTTP, a line of its batch may not either."""
    narrow = Key(
        "narrow", plain("narrow-key").digest, adapters=frozenset({"devil"}), limits=Limits(concurrent=4)
    )
    keys = ApiKeys((narrow, plain("other-key", "other")))
    model.engine.go_on.clear()
    with filing(tmp_path, model, api_key="narrow-key", api_keys=keys) as server:
        batch_id = server.begun(jsonl(line("a"), *(line(str(number), model="devil") for number in range(9))))
        wait_until(lambda: model.engine.running == 2)
        time.sleep(0.1)
        assert model.engine.running == 2, "half of what the key may ask at a time"
        other = server.client.with_options(api_key="other-key")
        for gone in (other.batches.retrieve, other.batches.cancel):
            with pytest.raises(openai.NotFoundError, match="is kept here for this key"):
                gone(batch_id)
        assert list(other.batches.list()) == []
        model.engine.go_on.set()
        batch = server.ended(batch_id)
        assert (batch.request_counts.completed, batch.request_counts.failed) == (9, 1)
        (refused,) = server.lines(batch.error_file_id)
        assert refused["response"]["body"]["error"]["code"] == "model_not_found"
        assert {request.tenant for request in model.engine.requests} == {"narrow/batches"}
        keys._use((narrow,))
        with pytest.raises(openai.NotFoundError):
            server.client.batches.retrieve("batch_of_nobody")


def test_a_line_waits_for_its_keys_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LONGEST_WAIT_S", 0.05)
    now_s = [0.0]
    slow = Key("slow", plain("slow-key").digest, limits=Limits(requests_per_minute=2))
    keys = ApiKeys((slow,), clock=lambda: now_s[0])
    with filing(tmp_path, api_key="slow-key", api_keys=keys) as server:
        batch_id = server.begun(many(4))
        wait_until(lambda: server.now(batch_id).request_counts.completed == 2)
        time.sleep(0.2)
        assert server.now(batch_id).request_counts.completed == 2
        now_s[0] = 60.0
        batch = server.ended(batch_id)
        assert (batch.request_counts.completed, batch.error_file_id) == (4, None)


def test_the_batch_of_a_key_that_is_gone_waits(
    tmp_path: Path, model: FakeChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LONGEST_WAIT_S", 0.05)
    one, other = plain("one-key", "one"), plain("other-key", "other")
    keys = ApiKeys((one, other))
    model.engine.go_on.clear()
    with filing(tmp_path, model, api_key="one-key", api_keys=keys, batch_lines=1) as server:
        batch_id = server.begun(many(6))
        wait_until(lambda: len(model.engine.requests) == 1)  # a line at a time, and this one waits for go_on
        keys._use((other,))
        model.engine.go_on.set()
        time.sleep(0.2)
        assert len(model.engine.requests) == 1
        keys._use((one, other))
        assert server.ended(batch_id).request_counts.completed == 6


def test_a_full_queue_and_a_failing_engine_are_tried_again(
    tmp_path: Path, model: FakeChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(runner, "RETRY_S", 0.05)
    model.engine.max_waiting = 0
    with filing(tmp_path, model) as server:
        batch_id = server.begun(many(2))
        time.sleep(0.2)
        model.engine.max_waiting = 1
        assert server.ended(batch_id).request_counts.completed == 2
        model.engine.max_waiting = 1000
        model.engine.failure = "step"
        batch = server.ended(server.begun(many(1)))
        assert (batch.status, batch.request_counts.failed) == ("completed", 1)
        (failed,) = server.lines(batch.error_file_id)
        assert failed["response"]["body"]["error"]["code"] == "engine_error"
        assert len(model.engine.requests) == 2 + 3
