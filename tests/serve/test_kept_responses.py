"""Responses that are kept: conversations that go on, what is cancelled, and who sees them."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from starlette.testclient import TestClient
from support.error_forms import said
from support.fake_chat_model import FakeChatModel, wait_until

from ptune_serve.access.auth import ApiKeys
from ptune_serve.access.keys import Key, Limits, plain
from ptune_serve.app import create_app
from ptune_serve.service import Settings


def test_a_conversation_goes_on(client: openai.OpenAI, served: Any) -> None:
    first = client.responses.create(model="pirate", input="one", instructions="Be brief.")
    second = client.responses.create(model="pirate", input="two", previous_response_id=first.id)
    assert served.prompt == "<user>one<assistant>pirate heard: one<user>two"
    assert second.previous_response_id == first.id
    client.responses.delete(first.id)
    client.responses.create(model="devil", input="three", previous_response_id=second.id)
    assert served.prompt.endswith("<user>two<assistant>pirate heard: two<user>three")
    assert client.responses.retrieve(second.id).to_dict() == second.to_dict()
    with pytest.raises(openai.NotFoundError, match="no response"):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match="previous_response_id") as gone:
        client.responses.create(model="pirate", input="four", previous_response_id=first.id)
    assert (gone.value.code, gone.value.param) == ("previous_response_not_found", "previous_response_id")
    unkept = client.responses.create(model="pirate", input="five", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_a_streamed_response_is_kept_too(client: openai.OpenAI) -> None:
    with client.responses.stream(model="pirate", input="one") as stream:
        final = stream.get_final_response()
    assert client.responses.retrieve(final.id).output_text == "pirate heard: one"


def test_a_response_is_cancelled_while_it_is_written(client: openai.OpenAI, served: Any) -> None:
    served.engine.script, served.engine.may_end = "x" * 9, 0
    stream = client.responses.create(model="pirate", input="ahoy", stream=True)
    created = next(stream)
    assert created.type == "response.created"
    response_id = created.response.id
    assert client.responses.retrieve(response_id).status == "in_progress"
    next(event for event in stream if event.type == "response.output_text.delta")
    cancelled = client.responses.cancel(response_id)
    assert cancelled.status == "cancelled"
    last = list(stream)[-1]
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    assert last.response.output_text.startswith("x")
    wait_until(lambda: served.engine.cancelled and not served.service.running)
    assert client.responses.retrieve(response_id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="has ended"):
        client.responses.cancel(response_id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_1")


def test_a_key_sees_only_its_own_responses() -> None:
    keys = (
        Key("one", plain("one").digest, frozenset({"infer"}), limits=Limits(concurrent=1)),
        plain("two", "two"),
    )
    app = create_app(FakeChatModel(), Settings(api_keys=ApiKeys(keys)))
    with TestClient(app) as http:
        mine, other = ({"authorization": f"Bearer {name}"} for name in ("one", "two"))
        body = {"model": "base", "input": "ahoy"}
        made = http.post("/v1/responses", json=body, headers=mine).json()["id"]
        assert http.get(f"/v1/responses/{made}", headers=mine).status_code == 200
        on = {**body, "previous_response_id": made}
        for told in (
            http.get(f"/v1/responses/{made}", headers=other),
            http.delete(f"/v1/responses/{made}", headers=other),
            http.post(f"/v1/responses/{made}/cancel", headers=other),
        ):
            assert (told.status_code, said(told.json())) == (404, f"no response {made!r} is kept here")
        assert http.post("/v1/responses", json=on, headers=other).status_code == 400
        assert http.post("/v1/responses", json=on, headers=mine).status_code == 200


def test_a_client_cannot_choose_the_id(served: Any) -> None:
    body = {"model": "base", "input": "ahoy"}
    made = [
        served.http.post("/v1/responses", json=body, headers={"x-request-id": "mine"}).json()["id"]
        for _ in range(2)
    ]
    assert len(set(made)) == 2
    assert not any("mine" in one for one in made)


def test_an_answer_that_no_request_may_hold_is_not_kept(served: Any) -> None:
    served.engine.script = "a\0b"
    answer = served.http.post("/v1/responses", json={"model": "base", "input": "ahoy"}).json()
    assert (answer["output"][0]["content"][0]["text"], answer["store"]) == ("a\0b", False)


def test_nothing_is_kept_where_the_operator_says_so() -> None:
    with TestClient(create_app(FakeChatModel(), Settings(max_stored_bytes=0))) as http:
        answer = http.post("/v1/responses", json={"model": "base", "input": "ahoy"}).json()
        assert (answer["status"], answer["store"]) == ("completed", False)
        assert http.get(f"/v1/responses/{answer['id']}").status_code == 404
