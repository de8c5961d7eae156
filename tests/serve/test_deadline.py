"""`x-request-timeout`: how long an answer may take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import encoder_bundles, fake_chat_model, recommendation_runs, retrieval_runs
from support.fake_encoder_model import IMAGES, TEXTS
from support.served_encoder import client_of, encoder, part, png

from ptune.engine.decoder.request import NO_TOKEN, Request, Token
from ptune.engine.encoder.batch import Item
from ptune.engine.options import EngineOptions
from ptune.errors import UsageError
from ptune.tasks.encoder.infer import load
from ptune_serve import lifecycle

BODIES = {
    "/v1/chat/completions": {"model": "pirate", "messages": [{"role": "user", "content": "ahoy"}]},
    "/v1/completions": {"model": "base", "prompt": "ahoy"},
}


@pytest.mark.parametrize("path", BODIES)
def test_the_header_becomes_the_requests_deadline(served: Any, path: str) -> None:
    for headers, expected in (({}, None), ({"x-request-timeout": "2.5"}, 2.5)):
        assert served.http.post(path, json=BODIES[path], headers=headers).status_code == 200
        assert served.engine.requests[-1].deadline_s == expected


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
def test_what_is_no_time_is_refused(served: Any, path: str, value: str) -> None:
    answer = served.http.post(path, json=BODIES[path], headers={"x-request-timeout": value})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("x-request-timeout", "invalid_value")
    assert "must be seconds, above 0" in error["message"]
    assert not served.engine.requests


@pytest.mark.parametrize("path", BODIES)
def test_who_waited_too_long_gets_a_503(served: Any, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(request: Request, *_: object) -> Iterator[Token]:
        yield Token(NO_TOKEN, finish="error", error=f"{request.deadline_s} s passed", expired=True)

    monkeypatch.setattr(fake_chat_model, "_answer", late)
    answer = served.http.post(path, json=BODIES[path], headers={"x-request-timeout": "2.5"})
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("deadline_exceeded", "2.5 s passed")


def test_an_encoders_texts_are_never_cut() -> None:
    with pytest.raises(UsageError, match="leave out --step-ms"):
        lifecycle.serve(
            encoder_bundles.tiny().bundle.folder, port=0, ui=False, options=EngineOptions(step_ms=50)
        )


OF_ENCODERS = {
    "/v1/classify": {"model": "sentiment", "input": ["good", "bad"]},
    "/v1/tag": {"model": "names", "input": ["to Paris", "to Rome"]},
}


@pytest.mark.parametrize("path", OF_ENCODERS)
def test_an_encoders_inputs_have_what_is_left_of_the_time(path: str) -> None:
    with encoder(TEXTS) as texts:
        assert texts.http.post(path, json=OF_ENCODERS[path]).status_code == 200
        assert texts.engine.deadlines_s == [None, None]
        answer = texts.http.post(path, json=OF_ENCODERS[path], headers={"x-request-timeout": "20"})
        assert answer.status_code == 200
        left = [one or 0 for one in texts.engine.deadlines_s[2:]]
        assert all(0 < one <= 20 for one in left)
        assert left == sorted(left, reverse=True)
        refused = texts.http.post(path, json=OF_ENCODERS[path], headers={"x-request-timeout": "soon"})
        assert refused.status_code == 400


def test_images_have_it_too() -> None:
    with encoder(IMAGES) as images:
        body = {"model": "colours", "input": [part(png())]}
        answer = images.http.post("/v1/classify", json=body, headers={"x-request-timeout": "20"})
        assert answer.status_code == 200
        assert images.engine.deadlines_s[0] is not None


@pytest.mark.parametrize(
    ("made", "path", "body"),
    [
        (retrieval_runs, "/v1/embeddings", {"model": "finder", "input": ["love", "war"]}),
        (retrieval_runs, "/v1/rerank", {"model": "judge", "query": "love", "documents": ["war"]}),
        (retrieval_runs, "/v1/rerank", {"model": "finder", "query": "love", "documents": ["war"]}),
        (
            recommendation_runs,
            "/v1/recommend",
            {"model": recommendation_runs.NAME, "history": [{"title": "love"}]},
        ),
    ],
    ids=["embeddings", "a reranker", "by cosines", "recommend"],
)
def test_vectors_that_came_too_late_are_a_503(
    made: Any, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(made.bundle(), threads=1)
    try:
        with client_of(model) as http:
            assert http.post(path, json=body, headers={"x-request-timeout": "60"}).status_code == 200
            late = model.engine.submit

            def submit(item: Item) -> Any:
                assert item.deadline_s is not None
                return late(Item(item.inputs, item.adapter, 1e-9))

            monkeypatch.setattr(model.engine, "submit", submit)
            answer = http.post(path, json=body, headers={"x-request-timeout": "60"})
    finally:
        model.close()
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "deadline_exceeded"
    assert "deadline of 60 s passed before it was computed" in error["message"]
