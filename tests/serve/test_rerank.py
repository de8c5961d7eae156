"""/v1/rerank over a real bundle, in the shape that Jina's and Cohere's clients read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from support.retrieval_runs import bundle, embedding_run
from support.served_encoder import client_of

from ptune.errors import RequestError
from ptune.tasks.encoder.infer import EncoderModel, load
from ptune.tasks.retrieval.infer import rerank
from ptune.tasks.retrieval.torch_side import load_embeddings

QUERY = "what is the devil of war"
DOCUMENTS = ["devil and devil with war", "money without anything", "the church", "war of the devil 3"]
SHAPE = {
    "type": "object",
    "required": ["id", "model", "results", "usage"],
    "properties": {
        "model": {"type": "string"},
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "relevance_score"],
                "properties": {
                    "index": {"type": "integer"},
                    "relevance_score": {"type": "number", "minimum": -1, "maximum": 1},
                    "document": {"type": "object", "required": ["text"]},
                },
            },
        },
        "usage": {"type": "object", "required": ["total_tokens"]},
    },
}


@pytest.fixture(scope="module")
def model() -> Iterator[EncoderModel]:
    found = load(bundle(), threads=1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def http(model: EncoderModel) -> Iterator[httpx.Client]:
    with client_of(model) as client:
        yield client


def ask(http: httpx.Client, **fields: object) -> httpx.Response:
    return http.post("/v1/rerank", json={"model": "judge", "query": QUERY, "documents": DOCUMENTS, **fields})


@pytest.mark.parametrize("adapter", ["judge", "finder"])
def test_documents_come_in_the_order_of_their_scores(
    http: httpx.Client, model: EncoderModel, adapter: str
) -> None:
    answer = ask(http, model=adapter).json()
    jsonschema.validate(answer, SHAPE)
    scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    np.testing.assert_allclose(
        [scores[at] for at in range(4)], rerank(model, QUERY, DOCUMENTS, adapter), atol=2e-5
    )
    assert all(one["document"]["text"] == DOCUMENTS[one["index"]] for one in answer["results"])
    assert answer["usage"]["total_tokens"] > 10


def test_an_adapter_of_vectors_gives_their_cosine(http: httpx.Client) -> None:
    query, *others = load_embeddings(embedding_run(), "cpu")([QUERY, *DOCUMENTS])
    found = {one["index"]: one["relevance_score"] for one in ask(http, model="finder").json()["results"]}
    np.testing.assert_allclose([found[at] for at in range(4)], [query @ one for one in others], atol=2e-5)


@pytest.mark.parametrize(
    ("adapter", "limit", "changes", "place"),
    [
        ("judge", 48, {"documents": [*DOCUMENTS, "war " * 90]}, "documents[4]"),
        ("judge", 48, {"query": "war " * 90}, "documents[0]"),  # a pair is read together
        ("finder", 32, {"documents": ["war " * 90, *DOCUMENTS]}, "documents[0]"),
        ("finder", 32, {"query": "war " * 90}, "query"),
    ],
)
def test_what_is_too_long_is_refused_unless_it_may_be_cut(
    http: httpx.Client, model: EncoderModel, adapter: str, limit: int, changes: dict[str, Any], place: str
) -> None:
    answer = ask(http, model=adapter, **changes)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (place, "context_length_exceeded")
    assert f"tokens, and {adapter} reads at most {limit}" in error["message"]
    assert '"truncate_prompt_tokens": -1' in error["message"]
    cut = ask(http, model=adapter, truncate_prompt_tokens=-1, **changes).json()
    asked = {"query": QUERY, "documents": DOCUMENTS, **changes}
    with pytest.raises(RequestError, match="truncate=True"):
        rerank(model, adapter=adapter, **asked)
    expected = rerank(model, adapter=adapter, truncate=True, **asked)
    found = {one["index"]: one["relevance_score"] for one in cut["results"]}
    np.testing.assert_allclose([found[at] for at in range(len(expected))], expected, atol=2e-5)
    fewer = ask(http, model=adapter, truncate_prompt_tokens=9, **changes).json()
    assert fewer["usage"]["total_tokens"] < cut["usage"]["total_tokens"]


def test_the_first_so_many_without_their_texts(http: httpx.Client) -> None:
    every = ask(http).json()["results"]
    answer = ask(http, top_n=2, return_documents=False).json()
    assert [one["index"] for one in answer["results"]] == [one["index"] for one in every[:2]]
    assert all("document" not in one for one in answer["results"])
    same = ask(http, documents=[{"text": text} for text in DOCUMENTS], top_n=9).json()["results"]
    assert [one["index"] for one in same] == [one["index"] for one in every]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a", " "]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0]"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"rank_fields": ["title"]}, "rank_fields"),
    ],
)
def test_refusals_say_what_is_wrong(http: httpx.Client, fields: dict[str, Any], words: str) -> None:
    answer = ask(http, **fields)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert ask(http, model="nobody").status_code == 404


def test_the_open_inference_protocol_gives_the_same_scores(http: httpx.Client) -> None:
    scores = {entry["index"]: entry["relevance_score"] for entry in ask(http).json()["results"]}
    shape = {"shape": [len(DOCUMENTS)], "datatype": "BYTES"}
    inputs: list[dict[str, Any]] = [
        {"name": "text", **shape, "data": [QUERY] * len(DOCUMENTS)},
        {"name": "text_pair", **shape, "data": DOCUMENTS},
    ]
    [output] = http.post("/v2/models/judge/infer", json={"inputs": inputs}).json()["outputs"]
    assert (output["name"], output["shape"]) == ("score", [len(DOCUMENTS)])
    np.testing.assert_allclose(output["data"], [scores[index] for index in range(len(DOCUMENTS))], atol=1e-5)
    alone = http.post("/v2/models/judge/infer", json={"inputs": inputs[:1]})
    assert alone.json()["error"] == "inputs: judge takes text and text_pair, once each (sent: 'text')"
