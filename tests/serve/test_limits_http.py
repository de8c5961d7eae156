"""A key's limits over HTTP: what is turned away, what the headers say, and that a place is always given back."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
from starlette.testclient import TestClient
from support.fake_chat_model import FakeChatModel, FakeEngine, serving, wait_until
from support.fake_encoder_model import FakeEncoderModel
from support.http_client import Response

from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, Limits, plain
from ptune_serve.app import create_app, create_encoder_app
from ptune_serve.encoders import call
from ptune_serve.service import Settings

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
PROMPT = len("<user>hi")
ANSWER = len("base heard: hi") + 1  # with the token that ends it


def limited(**limits: int) -> Key:
    return Key("alice", plain("alice").digest, frozenset({"infer"}), limits=Limits(**limits))


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def asked():
    """A client of a server whose one key has these limits."""
    engines = []

    def made(**limits: int) -> SimpleNamespace:
        clock, engine = Clock(), FakeEngine()
        engines.append(engine)
        keys = ApiKeys((limited(**limits), plain("free", "free")), clock=clock)
        app = create_app(FakeChatModel(engine), Settings(api_keys=keys))
        http = TestClient(app, raise_server_exceptions=False)
        http.headers["authorization"] = "Bearer alice"

        def chat(**fields: object) -> Response:
            return http.post(
                "/v1/chat/completions",
                json={"model": "base", "messages": MESSAGES, "max_tokens": 50, **fields},
            )

        return SimpleNamespace(http=http, chat=chat, clock=clock, engine=engine, keys=keys, app=app)

    yield made
    for engine in engines:
        engine.close()


def refused(response: Response) -> dict[str, Any]:
    assert response.status_code == 429
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    return error


def test_headers_say_what_is_left(asked):
    one = asked(requests_per_minute=10, tokens_per_minute=600)
    response = one.chat()
    assert response.status_code == 200
    told = {name: value for name, value in response.headers.items() if name.startswith("x-ratelimit-")}
    assert told == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "6s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": str(600 - PROMPT - 50),  # what it might have come to
        "x-ratelimit-reset-tokens": "6s",
    }
    settled = one.chat().headers
    assert settled["x-ratelimit-remaining-tokens"] == str(600 - PROMPT - ANSWER - PROMPT - 50)


def test_requests_over_the_limit(asked):
    one = asked(requests_per_minute=2)
    for _ in range(2):
        assert one.chat().status_code == 200
    response = one.chat()
    assert "key 'alice'" in refused(response)["message"]
    assert response.headers["retry-after"] == "30"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert one.chat(stream=True).headers["content-type"] == "application/json"
    one.clock.now_s += float(response.headers["retry-after"])
    assert one.chat().status_code == 200


def test_tokens_over_the_limit(asked):
    one = asked(tokens_per_minute=100)
    assert one.chat().status_code == 200  # 23 tokens
    assert one.chat().status_code == 200
    response = one.chat()  # may need 58, and 54 are there
    assert "may need 58" in refused(response)["message"]
    assert response.headers["retry-after"] == str(-(-4 * 60 // 100))
    assert one.chat(max_tokens=20).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_settled_by_what_usage_says(asked, stream):
    one = asked(tokens_per_minute=1000)
    response = one.chat(stream=stream, n=3, **({"stream_options": {"include_usage": True}} if stream else {}))
    if stream:
        lines = response.text.strip().split("\n\n")
        usage = json.loads(lines[-2].removeprefix("data: "))["usage"]
    else:
        usage = response.json()["usage"]
    assert usage["total_tokens"] == PROMPT + 3 * ANSWER
    left = one.http.post("/tokenize", json={"prompt": "x"}).headers["x-ratelimit-remaining-tokens"]
    assert int(left) == 1000 - usage["total_tokens"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"temperature": 9}, 400),
        ({"messages": "x"}, 400),
        ({"max_tokens": 5000}, 400),
    ],
)
def test_a_request_that_fails_costs_no_tokens_and_leaves_its_place(asked, body, status):
    one = asked(tokens_per_minute=10_000, concurrent=1)
    for _ in range(3):
        response = one.chat(**body)
        assert response.status_code == status
    assert one.chat(max_tokens=20).status_code == 200


def test_an_engine_that_fails_leaves_its_place(asked):
    one = asked(tokens_per_minute=1000, concurrent=1)
    for failure, status in (("submit", 500), ("step", 500), (None, 200)):
        one.engine.failure = failure
        assert one.chat().status_code == status


def test_a_full_queue_costs_no_tokens(asked):
    one = asked(tokens_per_minute=1000)
    one.engine.max_waiting = 0
    assert one.chat().json()["error"]["code"] == "queue_full"
    one.engine.max_waiting = 10
    assert one.chat().headers["x-ratelimit-remaining-tokens"] == str(1000 - PROMPT - 50)


def test_an_encoders_texts_cost_no_tokens_where_the_queue_has_no_room_for_all() -> None:
    model, keys = FakeEncoderModel(), ApiKeys((limited(tokens_per_minute=10),), clock=Clock())
    http = TestClient(create_encoder_app(model, Settings(api_keys=keys)))
    http.headers["authorization"] = "Bearer alice"
    model.engine.max_waiting = 1
    model.engine.go_on.clear()
    body = {"model": "sentiment", "input": ["one two three four", "five six seven eight"]}
    assert http.post("/v1/classify", json=body).json()["error"]["code"] == "queue_full"
    model.engine.max_waiting = 10
    model.engine.go_on.set()
    assert http.post("/v1/classify", json=body).headers["x-ratelimit-remaining-tokens"] == "2"  # 10 - 8
    assert keys.meter(limited()).headers()["x-ratelimit-remaining-tokens"] == "2"


def test_an_encoders_texts_are_reserved_before_any_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "QUEUED_AT_ONCE", 2)
    model, keys = FakeEncoderModel(), ApiKeys((limited(tokens_per_minute=30),), clock=Clock())
    asked = model.engine.asked
    model.engine.go_on.clear()

    def classify(*texts: str) -> httpx.Response:
        return http.post("/v1/classify", json={"model": "sentiment", "input": texts})

    with (
        serving(create_encoder_app(model, Settings(api_keys=keys))) as url,
        httpx.Client(base_url=url, headers={"authorization": "Bearer alice"}, timeout=30) as http,
        ThreadPoolExecutor() as pool,
    ):
        try:
            first = pool.submit(classify, "one two three four", "five six seven eight")
            wait_until(lambda: len(asked) == 2)
            second = pool.submit(classify, *["one two three four five"] * 5)  # 25 tokens, and 22 are there
            wait_until(lambda: second.done() or len(asked) > 2)
            assert len(asked) == 2
            assert "may need 25" in refused(second.result())["message"]
            assert second.result().headers["retry-after"] == str(3 * 60 // 30)
            assert second.result().headers["x-ratelimit-remaining-tokens"] == "22"
        finally:
            model.engine.go_on.set()
        assert first.result().status_code == 200
        assert classify(*["one two three four"] * 5).headers["x-ratelimit-remaining-tokens"] == "2"
        assert len(asked) == 7


def test_other_keys_are_not_held_up(asked):
    one = asked(requests_per_minute=1)
    one.chat()
    refused(one.chat())
    free = {"authorization": "Bearer free"}
    response = one.http.post(
        "/v1/chat/completions", json={"model": "base", "messages": MESSAGES}, headers=free
    )
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("x-ratelimit")]


def test_lists_and_metrics_are_not_limited(asked):
    one = asked(requests_per_minute=1)
    one.chat()
    refused(one.chat())
    assert one.http.get("/v1/models").status_code == 200
    assert one.http.get("/health").status_code == 200


def test_requests_at_once_and_clients_that_go_away():
    """On a real socket: a place is free again when a client leaves in the middle of a stream."""
    engine = FakeEngine(may_end=0)
    keys = ApiKeys((limited(concurrent=2, tokens_per_minute=10_000),), clock=Clock())
    app = create_app(FakeChatModel(engine), Settings(api_keys=keys))
    body = {"model": "base", "messages": MESSAGES, "stream": True, "max_tokens": 400}
    engine.script = "x" * 200
    meter = keys._meters["alice"]

    async def run(url: str) -> None:
        headers = {"authorization": "Bearer alice"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
            streams = [http.stream("POST", "/v1/chat/completions", json=body) for _ in range(2)]
            lines = [(await stream.__aenter__()).aiter_lines() for stream in streams]
            for each in lines:  # one that nobody holds would end its stream
                await anext(each)
            third = await http.post("/v1/chat/completions", json=body)
            assert "2 requests at the same time" in refused(third)["message"]
            assert third.headers["retry-after"] == "1"
            for stream in streams:
                await stream.__aexit__(None, None, None)

    with serving(app) as url:
        asyncio.run(run(url))
        wait_until(lambda: meter.running == 0)
    assert meter.tokens is not None
    assert 10_000 - 2 * (PROMPT + 200) <= meter.tokens.level(meter.clock()) < 10_000


def test_openais_client_understands_it(asked):
    """It reads the code and the time to wait: with retries it would come back by itself."""
    one = asked(requests_per_minute=1)
    with (
        serving(one.app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="alice", max_retries=0) as client,
    ):
        client.chat.completions.create(model="base", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model="base", messages=MESSAGES)
        assert raised.value.code == "rate_limit_exceeded"
        assert raised.value.response.headers["retry-after"] == "60"
