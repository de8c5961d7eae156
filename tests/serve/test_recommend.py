"""/v1/recommend over a real bundle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from support.recommendation_runs import NAME, TITLES, bundle, run
from support.served_encoder import client_of

from ptune.tasks.encoder.infer import EncoderModel, load
from ptune.tasks.recommendation.index import ItemIndex
from ptune.tasks.retrieval.torch_side import load_embeddings


@pytest.fixture(scope="module")
def model() -> Iterator[EncoderModel]:
    found = load(bundle(), threads=1)
    yield found
    found.close()


@pytest.fixture(scope="module")
def http(model: EncoderModel) -> Iterator[httpx.Client]:
    with client_of(model) as client:
        yield client


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/recommend", json={"model": NAME, "history": ["i1", "i2", "i7"], **fields})


def test_the_best_items_with_titles_and_reasons(http: httpx.Client) -> None:
    answer = ask(http, k=20)
    assert answer.status_code == 200, answer.text
    found = answer.json()["data"]
    index = ItemIndex.open(run().adapter_path)
    scores = index.scores([1, 2, 7])
    assert {one["item"] for one in found} == set(TITLES) - {"i1", "i2", "i7"}
    for one in found:
        assert one["title"] == TITLES[one["item"]]
        assert one["score"] == pytest.approx(float(scores[index.place[one["item"]]]), abs=1e-6)
        assert {reason["item"] for reason in one["reasons"]} <= {"i1", "i2", "i7"}
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert answer.headers["x-ptune-adapter"].startswith(f"{NAME}@")
    assert answer.json()["usage"]["total_tokens"] == 0


def test_titles_and_new_items_go_through_the_encoder(http: httpx.Client) -> None:
    """By torch's own vectors."""
    vectors = load_embeddings(run(), "cpu")(["devil of the dog", "the church and the king", *TITLES.values()])
    new = [{"item": "fresh", "title": "the church and the king"}]
    answer = ask(http, history=[{"title": "devil of the dog"}], new=new, weight=0.0, k=100).json()
    found = {one["item"]: one["score"] for one in answer["data"]}
    expected = dict(zip(["fresh", *TITLES], (vectors[1:] @ vectors[0]).tolist(), strict=True))
    assert found == pytest.approx(expected, abs=2e-5)
    assert answer["data"][0]["reasons"][0]["item"] is None
    assert answer["usage"]["total_tokens"] > 8


def test_items_are_left_out_and_chosen_from(http: httpx.Client) -> None:
    every = [one["item"] for one in ask(http, k=20).json()["data"]]
    first = every[0]
    assert [one["item"] for one in ask(http, k=1, exclude=[first, "unknown"]).json()["data"]] == [every[1]]
    chosen = ask(http, among=["i3", "i4", "i1"]).json()["data"]
    assert {one["item"] for one in chosen} == {"i3", "i4"}


def test_items_are_found_by_words_of_their_titles(http: httpx.Client) -> None:
    def found(**fields: Any) -> list[dict[str, str]]:
        answer = http.post("/v1/recommend/items", json={"model": NAME, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    words = TITLES["i7"].upper()
    assert found(query=words)[0] == {"item": "i7", "title": TITLES["i7"]}
    assert [one["item"] for one in found(limit=3)] == list(TITLES)[:3]
    assert found(query="nothing of the kind") == []
    for fields in ({"limit": 0}, {"query": 3}, {"model": "nobody"}):
        answer = http.post("/v1/recommend/items", json={"model": NAME, **fields})
        assert answer.status_code in (400, 404)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"history": []}, "history"),
        ({"history": ["gone"]}, "history[0]"),
        ({"history": [{"name": "x"}]}, "history[0]"),
        ({"history": [{"title": " "}]}, "history[0]"),
        ({"among": ["gone"]}, "among[0]"),
        ({"new": [{"item": "i1", "title": "x"}]}, "new[0].item"),
        ({"new": [{"item": "x"}]}, "new[0].title"),
        ({"k": 0}, "k"),
        ({"weight": 1.5}, "weight"),
    ],
)
def test_refusals_say_what_is_wrong(http: httpx.Client, fields: dict[str, Any], words: str) -> None:
    answer = ask(http, **fields)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_models_and_vectors_are_there_too(http: httpx.Client) -> None:
    (card,) = http.get("/v1/models").json()["data"]
    assert card["embedding"]["items"] == len(TITLES)
    assert "/v1/recommend" in http.get("/openapi.json").json()["paths"]
    vector = http.post("/v1/embeddings", json={"model": NAME, "input": TITLES["i0"]}).json()["data"][0][
        "embedding"
    ]
    np.testing.assert_allclose(vector, ItemIndex.open(run().adapter_path).vectors[0], atol=2e-5)
    assert ask(http, model="nobody").status_code == 404
