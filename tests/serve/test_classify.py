"""POST /v1/classify over HTTP: texts and pairs in, labels out; what cannot be answered is refused by name."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from support.fake_chat_model import wait_until
from support.fake_encoder_model import TEXTS
from support.raw_http import connected, posted_json
from support.served_encoder import Encoder, as_new, encoder, part, png, refusal

from ptune.errors import RequestError
from ptune_serve.access.auth import ApiKeys
from ptune_serve.encoders.schemas import NOT_BUILT, ClassifyRequest, TagRequest
from ptune_serve.http.errors import invalid


@pytest.fixture(scope="module")
def _texts():
    with encoder(TEXTS, max_body_bytes=300_000) as served:
        yield served


@pytest.fixture
def texts(_texts: Encoder) -> Encoder:
    return as_new(_texts)


# The documented example of vLLM's answer: these fields, with these types.
VLLM = {"id": str, "object": str, "created": int, "model": str, "data": list, "usage": dict}
VLLM_ITEM = {"index": int, "label": str, "probs": list, "num_classes": int}


def test_a_text_in_vllms_shape(texts):
    response = texts.classify("what a wonderful day")
    response.raise_for_status()
    body = response.json()
    assert {name: type(body[name]) for name in VLLM} == VLLM
    assert (body["object"], body["model"]) == ("list", "sentiment")
    [item] = body["data"]
    assert {name: type(item[name]) for name in VLLM_ITEM} == VLLM_ITEM
    assert (item["index"], item["label"], item["num_classes"]) == (0, "positive", 3)
    assert sum(item["probs"]) == pytest.approx(1)
    assert item["probs"] == [item["scores"][label] for label in ("negative", "neutral", "positive")]
    assert list(item["scores"]) == ["positive", "neutral", "negative"]  # likeliest first
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4, "completion_tokens": 0}
    assert response.headers["x-ptune-adapter"] == "sentiment@" + "a" * 12
    assert body["id"] == f"classify-{response.headers['x-request-id']}"


def test_several_inputs_and_pairs_keep_their_order(texts):
    body = texts.classify(["good", ["bad", "awful"], "a table"]).json()
    assert [(item["index"], item["label"]) for item in body["data"]] == [
        (0, "positive"),
        (1, "negative"),
        (2, "neutral"),
    ]
    assert body["usage"]["prompt_tokens"] == 1 + 2 + 2
    assert (("bad", "awful"), "sentiment") in texts.engine.asked


def test_several_labels_may_fit(texts):
    [both, none] = texts.classify(["a hill by the sea", "a room"], "topics").json()["data"]
    assert both["labels"] == ["sea", "land"]
    assert all(score > 0.5 for score in both["probs"])
    assert none["labels"] == []


def test_a_number_comes_as_it_is(texts):
    [item] = texts.classify("great, great", "stars").json()["data"]
    assert (item["label"], item["probs"], item["num_classes"]) == ("stars", [5.0], 1)


def test_raw_numbers_on_demand(texts):
    [item] = texts.classify("good", use_activation=False).json()["data"]
    assert item["probs"] == [-2.0, 0.5, 2.0]
    assert item["scores"]["positive"] == 2.0


def test_a_text_that_was_cut_says_so(texts):
    [long, short] = texts.classify(["word " * 20, "word"]).json()["data"]
    assert long["truncated"] is True
    assert "truncated" not in short


@pytest.mark.parametrize(
    "value",
    [
        {"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}},
        {"type": "image_url", "image_url": "data:image/png;base64,AAAA"},
        {"type": "image_url"},
        {"type": "input_audio"},
        {},
        "",
        " \n ",
        "a\0b",
        [],
        [[]],
        [["one"]],
        [["one", "two", "three"]],
        [[["a", "b"]]],
        [["a", ""]],
        ["a", ""],
        [1, 2, 3],
        [[1, 2, 3]],
        [None],
        [True],
        [1.5],
        5,
        None,
        True,
        ["x"] * 129,
    ],
    ids=lambda value: repr(value)[:40],
)
def test_inputs_that_are_none(texts, value):
    error = refusal(texts.classify(value))
    assert error["param"].startswith("input")
    texts.classify("good").raise_for_status()


def test_a_body_over_the_limit(texts):
    assert "300000" in refusal(texts.classify("x" * 400_000), 413)["message"]


def test_images_where_texts_are_taken(texts):
    response = texts.classify(["good", part(png())])
    error = refusal(response)
    assert (error["param"], "cannot see images" in error["message"]) == ("input[1]", True)
    assert response.headers["x-ptune-adapter"].startswith("sentiment@"), "a refusal, too, names the adapter"


def test_the_wrong_endpoint_is_told_which_is_right(texts):
    error = refusal(texts.classify("Rome", "names"))
    assert (error["param"], error["code"]) == ("model", "wrong_endpoint")
    assert "/v1/tag" in error["message"]


def test_the_bundles_name_before_the_adapters(texts):
    assert texts.classify("good", "many:sentiment").json()["data"] == texts.classify("good").json()["data"]
    assert texts.http.get("/v1/models/many:sentiment").json()["id"] == "sentiment"


@pytest.mark.parametrize("model", ["base", "many", "many:base", "other:sentiment", "gpt-5", ""])
def test_the_bare_base_is_not_served(texts, model):
    error = refusal(texts.classify("good", model), 404)
    assert all(name in error["message"] for name in TEXTS)
    assert ("no head" in error["message"]) == (model in ("base", "many", "many:base"))


def test_models(texts):
    cards = texts.http.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == list(TEXTS)
    for card in cards:
        record = TEXTS[card["id"]]
        assert (card["task"], card["labels"], card["problem"]) == (
            record.task,
            list(record.labels),
            record.problem,
        )
        assert card["endpoint"] == ("/v1/tag" if record.problem == "tags" else "/v1/classify")
        assert texts.http.get(f"/v1/models/{card['id']}").json() == card
    assert cards[0]["max_model_len"] == 16
    assert cards[1]["max_model_len"] == 512


ASKING = {
    "messages": [{"role": "user", "content": "x"}],
    "add_special_tokens": False,
    "truncate_prompt_tokens": 5,
}


@pytest.mark.parametrize("field", NOT_BUILT)
def test_what_is_not_built_is_refused_by_name(texts, field):
    error = refusal(texts.classify("x", **{field: ASKING.get(field, {"any": "thing"})}))
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    for harmless in (None, *NOT_BUILT[field]):
        texts.classify("x", **{field: harmless}).raise_for_status()
    texts.classify("x", user="somebody", priority=0).raise_for_status()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"model":"sentiment"}', b'{"input":"x"}', b'{"model":5,"input":"x"}',
             b'{"model":"sentiment","input":"\\ud800"}', b'{"model":"sentiment","input":' + b"[" * 50_000,
             b'{"model":"sentiment","input":"x","use_activation":"yes"}'],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_bodies_that_are_no_request(texts, body):
    for path in ("/v1/classify", "/v1/tag"):
        response = texts.http.post(path, content=body, headers={"content-type": "application/json"})
        if path == "/v1/classify" or b"use_activation" not in body:
            refusal(response)
    texts.classify("good").raise_for_status()


def test_a_full_queue_refuses_the_whole_request(texts):
    texts.engine.max_waiting = 2
    texts.engine.go_on.clear()
    response = texts.classify(["a", "b", "c"])
    error = refusal(response, 429)
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert int(response.headers["retry-after"]) >= 1
    wait_until(lambda: texts.engine.cancelled == 2)
    wait_until(lambda: not texts.service.running)


def test_who_goes_away_is_cancelled(texts):
    texts.engine.go_on.clear()
    with connected(texts.url) as client:
        client.sendall(posted_json({"model": "sentiment", "input": ["a", "b"]}, "/v1/classify"))
        wait_until(lambda: len(texts.engine.asked) == 2)
    wait_until(lambda: texts.engine.cancelled == 2)
    wait_until(lambda: samples(texts).get(requests("sentiment", "cancelled"), 0) >= 1)
    wait_until(lambda: not texts.service.running)


def test_draining(texts):
    texts.service.draining = True
    assert refusal(texts.classify("x"), 503)["code"] == "shutting_down"
    assert texts.http.get("/ready").status_code == 503
    assert texts.http.get("/health").status_code == 200


def test_what_still_runs_when_the_server_stops_is_told(texts):
    texts.engine.go_on.clear()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(texts.classify, "x")
        wait_until(lambda: texts.engine.asked)
        for running in list(texts.service.running):
            running.close()
        assert refusal(answer.result(), 503)["code"] == "shutting_down"


def test_defects_and_failures_say_nothing_of_what_was_sent(texts, caplog):
    texts.engine.failure = "submit"
    response = texts.classify("my secret text")
    assert response.headers["x-request-id"] in refusal(response, 500)["message"]
    texts.engine.failure = "pass"
    assert refusal(texts.classify("my secret text"), 500)["code"] == "engine_error"
    assert "secret" not in caplog.text
    assert not texts.service.running


def samples(served: Encoder) -> dict[tuple[Any, ...], float]:
    families = text_string_to_metric_families(served.http.get("/metrics").text)
    return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}


def requests(adapter: str, ending: str) -> tuple[Any, ...]:
    labels = {"adapter": adapter, "endpoint": "/v1/classify", "ending": ending}
    return ("ptune_requests_total", *sorted(labels.items()))


def test_metrics_count_what_happened(texts):
    before = samples(texts)
    texts.classify(["a", "b"], "topics")
    texts.classify("made-up", "made-up")
    texts.engine.max_waiting = 0
    texts.classify("x", "topics")
    after = samples(texts)

    def grown(key: tuple[Any, ...]) -> float:
        return after[key] - before.get(key, 0)

    assert grown(requests("topics", "done")) == 1
    assert grown(requests("topics", "refused")) == 1
    assert grown(("ptune_inputs_total", ("adapter", "topics"), ("endpoint", "/v1/classify"))) == 2
    assert grown(("ptune_request_seconds_count", ("endpoint", "/v1/classify"))) == 2
    assert (after[("ptune_passes_total",)], after[("ptune_batch_rows_total",)]) == (3, 12)
    assert ("ptune_num_requests_waiting",) in after
    assert not any("made-up" in str(key) for key in after)


def test_keys_guard_the_endpoints():
    with encoder(TEXTS, api_keys=ApiKeys(("alpha",))) as served:
        for path in ("/v1/classify", "/v1/tag"):
            refusal(served.http.post(path, content=b"not even JSON"), 401)
        served.http.headers["authorization"] = "Bearer alpha"
        served.classify("x").raise_for_status()


def test_chat_is_not_offered_by_an_encoder(texts):
    refusal(texts.http.post("/v1/chat/completions", json={}), 404)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["image_url", "text", "x"])},
    optional={
        "image_url": st.fixed_dictionaries({"url": st.text() | st.just("data:image/png;base64,AA==")}),
        "text": JSON,
    },
)
FIELDS = sorted({*ClassifyRequest.model_fields, *NOT_BUILT})


@settings(max_examples=300)
@given(
    st.sampled_from([ClassifyRequest, TagRequest]),
    st.dictionaries(st.sampled_from(FIELDS), JSON | PARTS | st.lists(PARTS, max_size=2), max_size=5),
)
def test_any_json_is_read_or_refused(kind, body):
    body = {"model": "sentiment", "input": "x", **body}
    with contextlib.suppress(RequestError):
        try:
            kind.model_validate_json(json.dumps(body))
        except ValidationError as error:
            raise invalid(error) from None
