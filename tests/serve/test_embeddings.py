"""/v1/embeddings over a real bundle: OpenAI's own client gets the vectors that torch computes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
import numpy as np
import ollama
import openai
import pytest
from support.retrieval_runs import bundle, embedding_run
from support.served_encoder import client_of

from ptune.engine.encoder.batch import Item
from ptune.errors import RequestError
from ptune.tasks.encoder.infer import EncoderModel, encode, load
from ptune.tasks.retrieval.infer import embed
from ptune.tasks.retrieval.torch_side import load_embeddings

LIMIT = 32  # tokens that `finder` reads
TEXTS = ["what is the devil of war", "love", "the king and the dog " * 30]  # the last is longer
CUT = {"truncate_prompt_tokens": -1}


@pytest.fixture(scope="module")
def model() -> Iterator[EncoderModel]:
    found = load(bundle(), threads=1, max_waiting=200)
    yield found
    found.close()


@pytest.fixture(scope="module")
def http(model: EncoderModel) -> Iterator[httpx.Client]:
    with client_of(model) as client:
        yield client


@pytest.fixture(scope="module")
def client(http: httpx.Client) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none")


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return load_embeddings(embedding_run(), "cpu")(TEXTS)


def test_ollama_gets_the_vectors_of_torch(http: httpx.Client, expected: np.ndarray) -> None:
    with ollama.Client(host=str(http.base_url)) as client:
        found = client.embed(model="finder:latest", input=TEXTS)
        np.testing.assert_allclose(np.array(found.embeddings), expected, atol=2e-5)
        assert (found.model, found.load_duration) == ("finder:latest", 0)
        assert found.prompt_eval_count
        [one] = client.embed(model="finder", input="love", dimensions=8).embeddings
        assert len(one) == 8
        with pytest.raises(ollama.ResponseError, match='cut with "truncate": true'):
            client.embed(model="finder", input=TEXTS[2], truncate=False)
        with pytest.raises(ollama.ResponseError, match="input"):
            client.embed(model="finder", input="")
        assert client.show("finder").capabilities == ["embedding"]


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_openai_gets_the_vectors_of_torch(
    client: openai.OpenAI, expected: np.ndarray, form: str | None
) -> None:
    options: dict[str, Any] = {} if form is None else {"encoding_format": form}
    found = client.embeddings.create(model="finder", input=TEXTS, extra_body=CUT, **options)
    values = [
        np.frombuffer(base64.b64decode(cast("str", one.embedding)), "<f4")
        if form == "base64"
        else one.embedding
        for one in found.data
    ]
    np.testing.assert_allclose(np.array(values), expected, atol=2e-5)
    assert [one.index for one in found.data] == [0, 1, 2]
    assert found.model == "finder"
    assert found.usage.total_tokens == found.usage.prompt_tokens > 32


def test_fewer_dimensions_are_the_first_numbers_at_length_1(
    client: openai.OpenAI, expected: np.ndarray
) -> None:
    found = client.embeddings.create(model="finder", input=TEXTS, dimensions=8, extra_body=CUT)
    short = expected[:, :8] / np.linalg.norm(expected[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose([one.embedding for one in found.data], short, atol=2e-5)
    with pytest.raises(openai.BadRequestError, match=r"1 to 64 numbers \(is 65\)"):
        client.embeddings.create(model="finder", input="a", dimensions=65)


def test_adapters_are_mixed_in_a_pass(model: EncoderModel) -> None:
    texts = [f"devil {at} of war" for at in range(6)]
    items = []
    for text in texts:
        items.append(Item(encode(text, model.engine.record("finder"), model.codec).inputs, "finder"))
        items.append(Item(encode((text, text), model.engine.record("judge"), model.codec).inputs, "judge"))
    before = model.engine.stats()
    together = model.engine.logits(items)
    after = model.engine.stats()
    assert after.passes - before.passes < len(items)
    alone = [model.engine.logits([one])[0] for one in items]
    for mixed, single in zip(together, alone, strict=True):
        np.testing.assert_allclose(mixed, single, atol=2e-5)


def test_many_callers_and_long_calls_are_all_answered(http: httpx.Client, model: EncoderModel) -> None:
    """More texts than the engine lets wait, and a reranker beside them."""
    texts = [f"{at} dogs" for at in range(450)]

    def asked(number: int) -> dict[str, Any]:
        if number:
            body = {"model": "judge", "query": "dogs", "documents": texts[:20]}
            return http.post("/v1/rerank", json=body).json()
        return http.post("/v1/embeddings", json={"model": "finder", "input": texts}).json()

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(asked, range(3))
    vectors = np.array([one["embedding"] for one in first["data"]])
    np.testing.assert_allclose(vectors[::50], embed(model, texts[::50], "finder"), atol=2e-5)
    assert others[0]["results"]
    assert len(others[1]["results"]) == 20


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input": []}, "input"),
        ({"input": " "}, "must not be empty"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1, 2]}, "token ids are not supported yet"),
        ({"input": [[1, 2]]}, "token ids are not supported yet"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "or -1 for as many as the adapter reads"),
        ({"input": "a", "truncate_prompt_tokens": 2}, "can cut to 3 to 32 tokens (is 2)"),
        ({"input": "a", "truncate_prompt_tokens": 33}, "can cut to 3 to 32 tokens (is 33)"),
        ({"input": "a", "truncate_prompt_tokens": "4"}, "truncate_prompt_tokens"),
        ({"input": "a", "truncation_side": "left"}, "truncation_side is not supported"),
        ({"input": "a", "model": "judge"}, "send this to /v1/rerank"),
        ({}, "input"),
    ],
)
def test_refusals_say_what_is_wrong(http: httpx.Client, body: dict[str, Any], words: str) -> None:
    answer = http.post("/v1/embeddings", json={"model": "finder", **body})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_a_text_that_is_too_long_is_refused_unless_it_may_be_cut(
    http: httpx.Client, model: EncoderModel
) -> None:
    """Two texts that differ only behind what the adapter reads are not given one vector in silence."""
    whole = len(model.codec.encode(TEXTS[2]).ids)
    answer = http.post("/v1/embeddings", json={"model": "finder", "input": TEXTS})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("input[2]", "context_length_exceeded")
    assert f"the text has {whole} tokens, and finder reads at most {LIMIT}" in error["message"]
    assert '"truncate_prompt_tokens": -1' in error["message"]
    alone = http.post("/v1/embeddings", json={"model": "finder", "input": TEXTS[2]})
    assert (alone.status_code, alone.json()["error"]["param"]) == (400, "input")
    with pytest.raises(RequestError, match=rf"{whole} tokens, .* at most {LIMIT}: .* with truncate=True"):
        embed(model, TEXTS, "finder")
    assert embed(model, TEXTS, "finder", truncate=True).shape == (3, 64)


def test_usage_counts_what_was_computed(http: httpx.Client, model: EncoderModel) -> None:
    for cut, most in ((-1, LIMIT), (LIMIT, LIMIT), (7, 7)):
        body = {"model": "finder", "input": TEXTS, "truncate_prompt_tokens": cut}
        answer = http.post("/v1/embeddings", json=body).json()
        expected = sum(min(len(model.codec.encode(text).ids), most) for text in TEXTS)
        assert answer["usage"] == {"prompt_tokens": expected, "total_tokens": expected}


def test_a_text_is_cut_to_so_many_tokens(http: httpx.Client) -> None:
    text = "the king and the dog"
    longer = http.post("/v1/embeddings", json={"model": "finder", "input": f"{text} of war"}).json()
    body = {"model": "finder", "input": [text, f"{text} of war"]}
    length = http.post("/v1/embeddings", json={**body, "input": text}).json()["usage"]["prompt_tokens"]
    found = http.post("/v1/embeddings", json={**body, "truncate_prompt_tokens": length}).json()["data"]
    np.testing.assert_allclose(found[0]["embedding"], found[1]["embedding"], atol=2e-5)
    assert np.abs(np.subtract(found[1]["embedding"], longer["data"][0]["embedding"])).max() > 1e-4


def test_an_unknown_adapter_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="finder, judge"):
        client.embeddings.create(model="nobody", input="a")


def test_models_say_what_they_give(http: httpx.Client) -> None:
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert cards["finder"]["endpoint"] == "/v1/embeddings"
    assert cards["finder"]["embedding"]["dimensions"] == [16, 8]
    assert cards["judge"]["endpoint"] == "/v1/rerank"
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/embeddings", "/v1/rerank"} <= set(paths)


def tensor(*texts: str, name: str = "text") -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}


def test_the_open_inference_protocol_gives_the_vectors_of_torch(
    http: httpx.Client, expected: np.ndarray
) -> None:
    width = expected.shape[1]
    [described] = http.get("/v2/models/finder").json()["outputs"]
    assert described == {"name": "embedding", "datatype": "FP32", "shape": [-1, width]}
    asked = {"inputs": [tensor(*TEXTS)], "parameters": CUT}
    [found] = http.post("/v2/models/finder/infer", json=asked).json()["outputs"]
    assert (found["name"], found["datatype"], found["shape"]) == ("embedding", "FP32", [3, width])
    np.testing.assert_allclose(np.reshape(found["data"], (3, width)), expected, atol=2e-5)
    refused = http.post("/v2/models/finder/infer", json={"inputs": [tensor(*TEXTS)]})
    assert refused.status_code == 400
    assert 'cut with "truncate_prompt_tokens": -1' in refused.json()["error"]
