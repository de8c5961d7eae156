"""Several bundles behind one port: names, and each API's way to the bundle that a request names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from support.batch_lines import ended, lines_of
from support.byte_codec import CONTEXT
from support.error_forms import said
from support.served_encoder import as_documented
from support.several_bundles import Several, several, write_all, write_bundle

from ptune.formats.bundle import AdapterRecord, Bundle
from ptune_serve.files.store import FilesOptions, FileStore
from ptune_serve.ui.answer import SamplingControls
from ptune_serve.ui.client import Client
from ptune_serve.ui.text import heading


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Several]:
    with several(write_all(tmp_path)) as served:
        served.http.event_hooks = as_documented(served.app)
        yield served


@pytest.mark.parametrize(
    ("model", "speaker", "bundle"),
    [
        ("chat", "base", "chat"),
        ("chat:base", "base", "chat"),
        ("chat:pirate", "pirate", "chat"),
        ("pirate", "pirate", "chat"),
        ("chat:sql", "sql", "chat"),
        ("small:sql", "sql", "small"),
        ("chat:prod", "sql", "chat"),
        ("prod", "sql", "chat"),
        ("small", "base", "small"),
    ],
)
def test_a_name_means_a_model_of_one_bundle(served: Several, model: str, speaker: str, bundle: str) -> None:
    answer = served.chat(model)
    assert answer.json()["choices"][0]["message"]["content"] == f"{speaker} heard: ahoy"
    assert answer.json()["model"] == model
    assert answer.headers["x-ptune-adapter"].startswith(f"{speaker}@")
    assert served.loaded == [bundle]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("sql", ["chat:sql", "small:sql"]),
        ("base", ["chat", "small", "german"]),
        ("texts", ["texts:sentiment", "texts:names"]),
        ("nobody", ["chat:pirate", "texts:topics"]),
        ("chat:nobody", ["chat:pirate"]),
        ("nobody:sql", ["chat:sql"]),
        ("", ["chat"]),
    ],
)
def test_a_name_that_is_none_or_could_mean_several_says_what_to_send(
    served: Several, model: str, words: list[str]
) -> None:
    answer = served.chat(model)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert all(word in said(answer.json()) for word in words)
    assert not served.opening.opened


def test_one_adapter_and_bundle_of_the_same_name(tmp_path: Path) -> None:
    """As `ptune export` names them: the bundle's name is enough, though an encoder's base does not answer."""
    record = AdapterRecord(
        name="mood",
        task="text-classification",
        labels=("bad", "so-so", "good"),
        problem="single",
        max_length=9,
    )
    write_bundle(tmp_path / "mood", "encoder", (record,))
    write_bundle(tmp_path / "other", "encoder", (record.model_copy(update={"name": "single"}),))
    with several(tmp_path) as served:
        assert {card["id"] for card in served.http.get("/v1/models").json()["data"]} == {
            "mood:mood",
            "other:single",
        }
        for model in ("mood", "mood:mood", "other", "single"):
            assert served.classify(model).status_code == 200


def test_models_of_all_bundles_are_listed_loaded_or_not(served: Several) -> None:
    served.said("pirate")
    cards = {card["id"]: card for card in served.http.get("/v1/models").json()["data"]}
    assert list(cards) == [
        "chat", "chat:pirate", "chat:sql", "german", "small", "small:sql",
        "texts:sentiment", "texts:topics", "texts:stars", "texts:names", "chat:prod",
    ]  # fmt: skip
    assert {name for name, card in cards.items() if card["loaded"]} == {
        "chat",
        "chat:pirate",
        "chat:sql",
        "chat:prod",
    }
    assert (cards["chat:sql"]["parent"], cards["chat:sql"]["root"]) == ("chat", "chat")
    assert cards["chat:prod"]["parent"] == "chat:sql"
    assert cards["texts:names"]["endpoint"] == "/v1/tag"
    assert served.http.get("/v1/models/pirate").json()["id"] == "chat:pirate"
    assert served.http.get("/v1/models/small:sql").json()["loaded"] is False
    assert served.opening.opened == ["chat"]


def test_openais_client_with_two_kinds_at_once(served: Several) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
    messages: Any = [{"role": "user", "content": "hi"}]
    stream = client.chat.completions.create(model="chat:sql", messages=messages, stream=True)
    classified = served.classify("sentiment")
    spoken = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert spoken == "sql heard: hi"
    assert classified.json()["data"][0]["label"] == "positive"
    assert client.completions.create(model="small", prompt="x").choices[0].text == "base heard: x"
    assert served.loaded == ["chat", "small", "texts"]
    with pytest.raises(openai.NotFoundError, match="use /v1/chat/completions"):
        client.embeddings.create(model="chat", input="x", extra_body={})


def test_responses_go_on_after_their_bundle_was_unloaded(served: Several) -> None:
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
    first = client.responses.create(model="chat:sql", input="one")
    assert served.http.post("/v2/repository/models/chat/unload").status_code == 200
    assert client.responses.retrieve(first.id).output_text == "sql heard: one"
    second = client.responses.create(model="chat:sql", input="two", previous_response_id=first.id)
    assert second.output_text == "sql heard: two"
    assert client.responses.create(model="small", input="3", previous_response_id=second.id).output_text
    assert served.http.delete(f"/v1/responses/{first.id}").json()["deleted"] is True


def test_anthropics_client(served: Several) -> None:
    client = anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0)
    messages: Any = [{"role": "user", "content": "hi"}]
    answer = client.messages.create(model="pirate", max_tokens=50, messages=messages)
    assert answer.content[0].text == "pirate heard: hi"  # type: ignore[union-attr]
    with pytest.raises(anthropic.NotFoundError, match="chat:sql or small:sql"):
        client.messages.create(model="sql", max_tokens=50, messages=messages)


def test_ollamas_client(served: Several) -> None:
    client = ollama.Client(host=served.url)
    listed = [model.model for model in client.list().models]
    assert "chat:latest" in listed
    assert "chat:sql:latest" in listed
    assert client.ps().models == []
    assert client.show("chat:sql").capabilities == ["completion"]
    assert served.opening.opened == [], "asking about a model loads nothing"
    messages = [{"role": "user", "content": "hi"}]
    assert client.chat(model="chat:sql", messages=messages).message.content == "sql heard: hi"
    assert client.chat(model="small:latest", messages=messages).message.content == "base heard: hi"
    assert [model.model for model in client.ps().models] == ["chat:latest", "small:latest"]
    assert client.show("chat:sql").capabilities == ["completion", "tools"]


def test_the_open_inference_protocol_goes_by_path(served: Several) -> None:
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}
    assert served.http.get("/v2").json()["extensions"] == ["model_repository"]
    ready = served.http.get("/v2/models/texts:sentiment/ready")
    assert ready.status_code == 503
    assert "not loaded" in said(ready.json())
    for model in ("texts:sentiment", "sentiment"):
        answer = served.http.post(f"/v2/models/{model}/infer", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == ["positive"]
    assert served.http.get("/v2/models/texts:sentiment/ready").json()["ready"] is True
    assert served.http.get("/v2/models/sentiment").json()["platform"] == "onnxruntime_onnx"
    refused = served.http.post("/v2/models/chat/infer", json=body)
    assert refused.status_code == 404
    assert "/v1/chat/completions" in said(refused.json())


def test_the_repository_loads_and_unloads(served: Several) -> None:
    states = served.http.post("/v2/repository/index").json()
    assert {one["name"]: one["state"] for one in states} == dict.fromkeys(
        ("chat", "german", "small", "texts"), "UNAVAILABLE"
    )
    assert served.http.post("/v2/repository/models/german/load").status_code == 200
    ready = served.http.post("/v2/repository/index", json={"ready": True}).json()
    assert [one["name"] for one in ready] == ["german"]
    assert served.http.post("/v2/repository/models/german/unload").status_code == 200
    assert served.loaded == []
    assert served.http.post("/v2/repository/models/nobody/load").status_code == 404


def test_other_endpoints_go_the_same_way(served: Several) -> None:
    post = served.http.post
    assert post("/tokenize", json={"model": "chat", "prompt": "hi"}).json()["tokens"] == [104, 105]
    assert post("/v1/tag", json={"model": "names", "input": "to Rome"}).json()["data"][0]["entities"]
    refused = post("/v1/completions", json={"model": "german", "prompt": "hi"})
    assert refused.status_code == 404
    assert "use /v1/translate" in said(refused.json())
    assert served.http.get("/tokenizer_info", params={"model": "small"}).status_code == 200
    assert served.http.get("/tokenizer_info").status_code == 400
    assert served.http.get("/v1/models/chat:prod").json()["parent"] == "chat:sql"


def test_a_body_without_a_model_says_which_there_are(served: Several) -> None:
    refused = served.http.post("/v1/chat/completions", json={"messages": []})
    assert refused.status_code == 400
    assert "say which model, of chat, chat:pirate, chat:sql, german" in said(refused.json())
    long = "x" * 2000
    assert served.http.get("/tokenizer_info", params={"model": long}).status_code == 404
    assert served.http.post("/v1/completions", json={"model": long, "prompt": "x"}).status_code == 400
    assert served.http.post("/v1/chat/completions", content=b"{}").status_code == 415
    broken = served.http.post(
        "/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}
    )
    assert said(broken.json()).startswith("the body is not valid JSON")


def test_a_folder_of_one_bundle_needs_no_name(tmp_path: Path) -> None:
    write_bundle(tmp_path / "chat", adapters=(AdapterRecord(name="sql"),))
    with several(tmp_path) as served:
        assert served.http.post("/tokenize", json={"prompt": "hi"}).json()["tokens"] == [104, 105]
        assert served.said("base") == "base heard: ahoy"


def test_a_batch_asks_bundles_line_by_line(tmp_path: Path) -> None:
    files = FileStore(FilesOptions(tmp_path / "files"))
    with several(write_all(tmp_path / "bundles"), files=files) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0)
        lines = [
            {
                "custom_id": model,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": [{"role": "user", "content": "hi"}]},
            }
            for model in ("chat:sql", "small")
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = client.files.create(file=("asked.jsonl", content), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        done = ended(client, batch.id)
        answers = {one["custom_id"]: one["response"]["body"] for one in lines_of(client, done.output_file_id)}
        assert {name: body["choices"][0]["message"]["content"] for name, body in answers.items()} == {
            "chat:sql": "sql heard: hi",
            "small": "base heard: hi",
        }


def test_an_unloaded_bundle_is_listed_as_it_is_on_disk_now(served: Several, tmp_path: Path) -> None:
    bundle = Bundle.open(tmp_path / "small")
    bundle.write_manifest(bundle.manifest.model_copy(update={"adapters": {}}))
    names = [card["id"] for card in served.http.get("/v1/models").json()["data"]]
    assert "small" in names
    assert "small:sql" not in names
    assert served.said("sql") == "sql heard: ahoy"


def test_the_document_describes_every_kind(served: Several) -> None:
    paths = served.http.get("/openapi.json").json()["paths"]
    for path in ("/v1/chat/completions", "/v1/classify", "/v1/translate", "/v2/repository/index", "/api/ps"):
        assert path in paths
    assert "requestBody" in paths["/v1/chat/completions"]["post"]


def test_the_page_lists_the_models_of_all_bundles(served: Several) -> None:
    found = asyncio.run(Client(served.url).served())
    assert found.bundles == ("chat", "german", "small", "texts")
    assert found.models == ("chat", "chat:pirate", "chat:sql", "small", "small:sql", "chat:prod")
    assert [one.name for one in found.classifiers] == [
        "texts:sentiment",
        "texts:topics",
        "texts:stars",
        "texts:names",
    ]
    assert [one.name for one in found.translators] == ["german"]
    assert (found.chats, found.context) == (True, CONTEXT)
    assert "<b>german</b>" in heading(found)
    labelled = asyncio.run(Client(served.url).classify("texts:sentiment", "good"))
    assert labelled.scores[0][0] == "positive"

    async def answer() -> str:
        answers = [one async for one in Client(served.url).answer("small:sql", [], SamplingControls())]
        return answers[-1].error or answers[-1].text

    assert "messages" in asyncio.run(answer())
    again = asyncio.run(Client(served.url).served())
    assert again == found, "the page stays as it is while bundles come and go"
