"""POST /v1/tag over HTTP: entities with places in code points."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_chat_model import serving
from support.fake_encoder_model import TEXTS, FakeEncoderModel

from ptune_serve.app import create_encoder_app


@pytest.fixture(scope="module")
def http():
    with (
        serving(create_encoder_app(FakeEncoderModel(TEXTS))) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield client


def tag(http: httpx.Client, value: object, model: str = "names") -> httpx.Response:
    return http.post("/v1/tag", json={"model": model, "input": value})


def test_entities_and_their_places(http):
    response = tag(http, "then Ada Lovelace went to Rome")
    body = response.json()
    assert (body["object"], body["model"], body["usage"]["prompt_tokens"]) == ("list", "names", 6)
    assert body["data"] == [
        {
            "index": 0,
            "entities": [
                {"label": "PER", "begin": 5, "end": 17, "text": "Ada Lovelace", "score": 0.9},
                {"label": "LOC", "begin": 26, "end": 30, "text": "Rome", "score": 0.9},
            ],
        }
    ]
    assert response.headers["x-ptune-adapter"].startswith("names@")


AWKWARD = [
    "😀 said Zoë to Łukasz",
    "e\u0301 Émile",
    "\u202eok Rome",
    "👩‍👩‍👧 and Ada",
    "x\u2028 Rome\r\nLondon",
    "𝒳 Ada",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_places_are_code_points(http, text):
    [item] = tag(http, text).json()["data"]
    assert item["entities"]
    for one in item["entities"]:
        assert text[one["begin"] : one["end"]] == one["text"]


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_text_has_places_that_fit(http, text):
    [item] = tag(http, text).json()["data"]
    for one in item["entities"]:
        assert text[one["begin"] : one["end"]] == one["text"]


def test_texts_without_words_have_no_entities(http):
    assert [item["entities"] for item in tag(http, ["", " \n", "lower case"]).json()["data"]] == [[], [], []]


@pytest.mark.parametrize(
    "value", [[], [[]], [["a", "b"]], 5, None, True, [1], {"type": "text", "text": "x"}, "a\0b", ["x"] * 129]
)
def test_inputs_that_are_none(http, value):
    response = tag(http, value)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("input")


def test_the_wrong_endpoint_is_told_which_is_right(http):
    error = tag(http, "x", "sentiment").json()["error"]
    assert error["code"] == "wrong_endpoint"
    assert "/v1/classify" in error["message"]


def test_only_json_is_read(http):
    assert http.post("/v1/tag", content=b"x", headers={"content-type": "text/plain"}).status_code == 415


def test_a_pair_is_for_models_that_judge_steps(http):
    response = tag(http, ["Ada", ["What is 3 + 4?", "3 + 4 = 7"]])
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["message"]) == (
        "input[1]",
        "input[1]: 'names' tags words: send a text, not a pair",
    )
    assert tag(http, [["one", "two", "three"]]).status_code == 400
