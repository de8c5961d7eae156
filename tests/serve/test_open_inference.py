"""The Open Inference Protocol (KServe's v2): the specification's JSON, over an encoder's adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from support.fake_chat_model import FakeChatModel
from support.fake_encoder_model import IMAGES, TEXTS, FakeEncoderModel

from ptune.formats.bundle import Alias
from ptune_serve.access.auth import ApiKeys
from ptune_serve.app import create_app, create_encoder_app
from ptune_serve.service import Settings

INFER = "/v2/models/sentiment/infer"


@pytest.fixture
def model() -> FakeEncoderModel:
    return FakeEncoderModel()


@pytest.fixture
def http(model: FakeEncoderModel) -> Iterator[TestClient]:
    with TestClient(create_encoder_app(model)) as client:
        yield client


def texts(*data: Any, name: str = "text", **fields: Any) -> dict[str, Any]:
    """A tensor of texts."""
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": list(data), **fields}


def outputs_of(answer: Any) -> dict[str, dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output for output in answer.json()["outputs"]}


def test_health_is_for_anybody(model: FakeEncoderModel) -> None:
    """Kubernetes' probes have no key."""
    app = create_encoder_app(model, Settings(api_keys=ApiKeys(("key",))))
    http = TestClient(app)
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}
    assert http.get("/v2").status_code == http.get("/v2/models/sentiment/ready").status_code == 401
    app.state.service.draining = True
    assert http.get("/v2/health/live").status_code == 200
    assert http.get("/v2/health/ready").status_code == 503


def test_what_the_server_and_its_models_are(http: TestClient) -> None:
    server = http.get("/v2").json()
    assert (server["name"], server["extensions"]) == ("ptune", [])
    assert server["version"]
    metadata = http.get("/v2/models/sentiment").json()
    assert metadata == {
        "name": "sentiment",
        "versions": ["a" * 12],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "text_pair", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "probs", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }
    assert http.get(f"/v2/models/sentiment/versions/{'a' * 12}").json() == metadata
    assert http.get("/v2/models/names").json()["outputs"] == [
        {"name": "entities", "datatype": "BYTES", "shape": [-1]}
    ]
    assert http.get("/v2/models/sentiment/ready").json() == {"name": "sentiment", "ready": True}
    assert http.get(f"/v2/models/sentiment/versions/{'a' * 12}/ready").json()["ready"] is True


def test_classes(http: TestClient) -> None:
    asked = {"id": "42", "inputs": [texts("a good day", "a bad day")]}
    answer = http.post(INFER, json=asked)
    assert set(answer.json()) == {"model_name", "model_version", "id", "outputs"}
    assert (answer.json()["model_name"], answer.json()["model_version"]) == ("sentiment", "a" * 12)
    assert answer.json()["id"] == "42"
    assert answer.headers["x-ptune-adapter"] == f"sentiment@{'a' * 12}"
    label, probs = outputs_of(answer)["label"], outputs_of(answer)["probs"]
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["positive", "negative"]}
    assert (probs["datatype"], probs["shape"]) == ("FP32", [2, 3])
    of_v1 = http.post(
        "/v1/classify", json={"model": "sentiment", "input": ["a good day", "a bad day"]}
    ).json()
    assert probs["data"] == [number for entry in of_v1["data"] for number in entry["probs"]]


def test_only_the_outputs_that_are_asked_for(http: TestClient) -> None:
    answer = http.post(INFER, json={"inputs": [texts("good")], "outputs": [{"name": "probs"}]})
    assert set(outputs_of(answer)) == {"probs"}
    assert "id" not in answer.json()


@pytest.mark.parametrize(
    "tensor",
    [
        texts("good", "bad"),
        texts("good", "bad", shape=[2, 1]),
        texts(["good"], ["bad"], shape=[2, 1]),
        texts("good", "bad", parameters={"content_type": "str"}),
    ],
)
def test_tensors_come_flat_or_nested(http: TestClient, model: FakeEncoderModel, tensor: Any) -> None:
    assert outputs_of(http.post(INFER, json={"inputs": [tensor]}))["label"]["data"] == [
        "positive",
        "negative",
    ]
    assert [text for text, _ in model.engine.asked] == ["good", "bad"]


def test_pairs(http: TestClient, model: FakeEncoderModel) -> None:
    http.post(INFER, json={"inputs": [texts("one", name="text_pair"), texts("two")]})
    assert model.engine.asked == [(("two", "one"), "sentiment")]


def test_entities_come_as_json(http: TestClient) -> None:
    found = outputs_of(http.post("/v2/models/names/infer", json={"inputs": [texts("Rome", "nothing")]}))
    assert found["entities"]["shape"] == [2]
    first, second = map(json.loads, found["entities"]["data"])
    assert [(entity["label"], entity["begin"], entity["end"]) for entity in first] == [("LOC", 0, 4)]
    assert second == []


def test_a_text_that_was_cut_is_told(http: TestClient) -> None:
    answer = http.post(INFER, json={"inputs": [texts("good", "good " * 30)]}).json()
    assert answer["parameters"] == {"truncated": [False, True]}


def test_an_alias_and_a_version(http: TestClient, model: FakeEncoderModel) -> None:
    model.engine.bundle.manifest.aliases = {"prod": Alias(name="sentiment")}
    answer = http.post("/v2/models/prod/infer", json={"inputs": [texts("good")]})
    assert (answer.json()["model_name"], answer.json()["model_version"]) == ("prod", "a" * 12)
    path = "/v2/models/sentiment/versions/{}/infer"
    assert http.post(path.format("a" * 12), json={"inputs": [texts("good")]}).status_code == 200
    other = http.post(path.format("7"), json={"inputs": [texts("good")]})
    assert other.status_code == 404
    assert other.json() == {"error": f"sentiment is served in version {'a' * 12} alone (asked for: '7')"}


BAD: list[tuple[Any, str]] = [
    ({}, "inputs: "),
    ({"inputs": []}, "inputs: "),
    ({"inputs": [texts("x", name="texts")]}, "inputs: sentiment takes text, and text_pair if you like, once each (sent: 'texts')"),
    ({"inputs": [texts("x"), texts("x")]}, "inputs: sentiment takes text"),
    ({"inputs": [texts("x", name="text_pair")]}, "inputs: sentiment takes text"),
    ({"inputs": [texts("x"), texts("x", "y", name="text_pair")]}, "text_pair: must have as many elements as text, 1 (has 2)"),
    ({"inputs": [texts("x", datatype="FP32")]}, "inputs[0]: datatype: texts are BYTES (is 'FP32')"),
    ({"inputs": [texts("x", shape=[2])]}, "inputs[0]: shape [2] is not that of 1 elements of data"),
    ({"inputs": [texts("x", "y", shape=[1, 2])]}, "inputs[0]: shape: must be [texts] or [texts, 1]"),
    ({"inputs": [texts("x", shape=[-1])]}, "inputs[0].shape[0]: "),
    ({"inputs": [texts(5)]}, "inputs[0].data: must hold strings"),
    ({"inputs": [texts("a\0b")]}, "inputs[0].data: must not hold a NUL character"),
    ({"inputs": [texts("x", "  ")]}, "text[1]: must not be empty"),
    ({"inputs": [texts(*["x"] * 129)]}, "text: 129 texts, over 128 in one request"),
    ({"inputs": [texts("x")], "outputs": [{"name": "logits"}]}, "outputs: sentiment has label, probs (asked for: 'logits')"),
    ({"inputs": [texts("x")], "output": []}, "output: there is no such field; did you mean outputs?"),
    ({"inputs": [texts("x", parameters={"binary_data_size": 3})]}, "inputs[0].parameters.binary_data_size: there is no such field"),
    ({"inputs": [texts("x")], "parameters": {"binary_data_output": True}}, "parameters: binary_data_output: answers are JSON here"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_is_said_in_one_sentence(http: TestClient, body: Any, message: str) -> None:
    answer = http.post(INFER, json=body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"].startswith(message)
    assert "\n" not in answer.json()["error"]


def test_errors_have_the_protocols_form(http: TestClient) -> None:
    unknown = http.post("/v2/models/nobody/infer", json={"inputs": [texts("x")]})
    assert (unknown.status_code, set(unknown.json())) == (404, {"error"})
    assert "no model 'nobody' here; served: sentiment" in unknown.json()["error"]
    assert http.get("/v2/models/nobody").status_code == http.get("/v2/models/nobody/ready").status_code == 404
    form = http.post(INFER, content=b"{}", headers={"content-type": "application/octet-stream"})
    assert (form.status_code, set(form.json())) == (415, {"error"})


def test_an_adapter_of_images_says_where_it_is_asked() -> None:
    http = TestClient(create_encoder_app(FakeEncoderModel({**TEXTS, **IMAGES})))
    for answer in (
        http.get("/v2/models/colours"),
        http.post("/v2/models/colours/infer", json={"inputs": [texts("x")]}),
    ):
        assert answer.status_code == 400
        assert "is an adapter for image-classification" in answer.json()["error"]


def test_metrics_name_the_route_and_not_the_path(http: TestClient) -> None:
    http.post(INFER, json={"inputs": [texts("good")]})
    metrics = http.get("/metrics").text
    assert 'endpoint="/v2/models/{model}/infer"' in metrics
    assert INFER not in metrics


def test_a_chat_model_has_no_tensors() -> None:
    assert TestClient(create_app(FakeChatModel())).get("/v2/health/live").status_code == 404
