"""POST /v1/translate: over a real bundle in a real server process, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from support.translation_runs import NAME, bundle, kit, merged, run
from transformers import GenerationConfig

import ptune
from ptune.config.recipe import Recipe
from ptune.evaluation.evaluate import models_of
from ptune.evaluation.held_out import held_out
from ptune.formats.run import Run
from ptune.tasks.chat.answers import answers
from ptune.tasks.translation.infer import most_tokens
from ptune.verify.server import serving
from ptune_serve.app import create_app


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with serving(bundle(), threads=1) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def sources() -> list[str]:
    return [json.loads(line)["en"] for line in (kit() / "test.jsonl").read_text().splitlines()]


def ask(http: httpx.Client, text: object, **fields: object) -> httpx.Response:
    return http.post("/v1/translate", json={"model": NAME, "text": text, **fields})


def test_texts_are_translated_as_torch_does(http: httpx.Client) -> None:
    trained: Run = run()
    held, recipe = held_out(trained), Recipe.load(trained.recipe_path)
    model = models_of(trained, trained.finished_record(), recipe)[1]
    prompts = [row.prompt(held.codec) for row in held.conversations]
    most = [most_tokens(held.codec, row.question) for row in held.conversations]
    expected = answers(model, held.codec, prompts, most, next(model.parameters()).device)
    answer = ask(http, sources())
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert [one["text"] for one in said["data"]] == expected
    assert [one["index"] for one in said["data"]] == list(range(len(expected)))
    assert said["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert said["model"] == NAME
    assert answer.headers["x-ptune-adapter"] == said["system_fingerprint"]
    assert ask(http, sources()[0]).json()["data"][0]["text"] == expected[0]


def test_as_plain_chat_the_adapter_says_the_same(http: httpx.Client) -> None:
    """The instruction is the adapter's own: nobody has to know it."""
    source = sources()[1]
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": source}],
        "temperature": 0,
        "max_tokens": 20,
    }
    chat = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert ask(http, source, max_tokens=20).json()["data"][0]["text"] == chat.strip()


def test_the_catalogue_says_what_it_translates(http: httpx.Client) -> None:
    card = http.get(f"/v1/models/{NAME}").json()
    assert (card["task"], card["source_language"], card["target_language"]) == ("translation", "en", "es")
    assert http.get("/v1/models/base").json()["task"] == "chat"


@pytest.mark.parametrize(
    ("fields", "param", "why"),
    [
        ({"text": []}, "text", "at least 1"),
        ({"text": ""}, "text[0]", "empty"),
        ({"text": ["a", "\0"]}, "text[1]", "NUL"),
        ({"text": 7}, "text", "array"),
        ({"text": ["a"] * 129}, "text", "128"),
        ({"text": ["a", "word " * 600]}, "text[1]", "over the context of"),
        ({"text": "a", "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"text": "a", "stream": True}, "stream", "not supported"),
        ({"text": "a", "temperature": 0.7}, "temperature", "not supported"),
        ({"text": "a", "target_language": "fr"}, "target_language", "from en into es"),
        ({"text": "a", "num_beams": 0}, "num_beams", "1"),
        ({"text": "a", "num_beams": 2, "length_penalty": 50}, "length_penalty", "10"),
        ({"text": "a", "length_penalty": 0.5}, "length_penalty", "needs num_beams of 2 or more"),
        ({"text": "a", "num_beams": 5000}, "num_beams", "at most"),
    ],
)
def test_what_is_refused(http: httpx.Client, fields: dict[str, Any], param: str, why: str) -> None:
    answer = http.post("/v1/translate", json={"model": NAME, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert why in error["message"]
    unknown = http.post("/v1/translate", json={"model": "nobody", "text": "a"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_beams_find_what_transformers_finds(http: httpx.Client) -> None:
    trained = run()
    held, recipe = held_out(trained), Recipe.load(trained.recipe_path)
    model = models_of(trained, trained.finished_record(), recipe)[1]
    for source, row in zip(sources()[:3], held.conversations, strict=False):
        prompt = row.prompt(held.codec)
        ids = torch.tensor([prompt], device=next(model.parameters()).device)
        stops = sorted(held.codec.eos_ids)
        config = GenerationConfig(
            num_beams=3,
            length_penalty=0.5,
            max_new_tokens=12,
            eos_token_id=stops,
            pad_token_id=0,
            repetition_penalty=1.0,
        )
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        answer = ask(http, source, num_beams=3, length_penalty=0.5, max_tokens=12).json()["data"][0]
        assert answer["text"] == held.codec.decode(found[0, len(prompt) :].tolist()).strip()


def test_an_adapter_of_another_task_is_refused(served: Any) -> None:
    """Of the fake server only `devil` says that it translates; the base has no instruction."""
    for model in ("pirate", "base"):
        answer = served.http.post("/v1/translate", json={"model": model, "text": "ahoy"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_endpoint")
    answer = served.http.post("/v1/translate", json={"model": "devil", "text": ["ahoy", "☠"]}).json()
    assert [one["text"] for one in answer["data"]] == ["devil heard: ahoy", "devil heard: ☠"]
    assert [one["finish_reason"] for one in answer["data"]] == ["stop", "stop"]


def test_a_merged_model_translates_without_an_adapter() -> None:
    model = ptune.load(merged(), threads=1)
    with TestClient(create_app(model)) as client:
        answer = client.post("/v1/translate", json={"model": "base", "text": sources()[0], "max_tokens": 5})
        said = model.chat([{"role": "user", "content": sources()[0]}], temperature=0.0, max_tokens=5)
    model.close()
    assert answer.json()["data"][0]["text"] == said.text.strip()


def test_the_right_languages_pass(http: httpx.Client) -> None:
    assert ask(http, "a", source_language="EN", target_language="es", num_beams=1).status_code == 200


def test_the_document_describes_it(http: httpx.Client) -> None:
    schema = http.get("/openapi.json").json()["components"]["schemas"]["TranslateRequest"]
    assert schema["required"] == ["model", "text"]
    assert {"max_tokens", "source_language", "target_language"} <= set(schema["properties"])


def test_limits_of_a_key_count(http: httpx.Client) -> None:
    before = http.get("/metrics").text
    ask(http, ["one", "two"], max_tokens=3)
    counted = f'ptune_generation_tokens_total{{adapter="{NAME}"}}'
    after = http.get("/metrics").text
    assert _value(after, counted) > _value(before, counted)


def _value(metrics: str, name: str) -> float:
    return next(
        (float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(name)), 0.0
    )
