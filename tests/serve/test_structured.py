"""Answers of a form: JSON, regular expressions, choices. The fake model knows nothing and writes what it may."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openai
import pydantic
import pytest
from support.serve_streams import chunks_of, whole_of

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
WAYS: list[dict[str, Any]] = [
    {"response_format": FORMAT},
    {"guided_json": SCHEMA},
    {"guided_json": json.dumps(SCHEMA)},
    {"structured_outputs": {"json": SCHEMA}},
]


def content(response: Any) -> tuple[str, str]:
    response.raise_for_status()
    [choice] = response.json()["choices"]
    return choice["message"]["content"] if "message" in choice else choice["text"], choice["finish_reason"]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: next(iter(way)))
@pytest.mark.parametrize("seed", [1, 2])
def test_json_of_a_schema(served: Any, way: dict[str, Any], seed: int) -> None:
    for response in (served.chat(**way, seed=seed), served.complete("x", **way, seed=seed, max_tokens=300)):
        text, finish = content(response)
        assert finish == "stop"
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    "way", [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}]
)
def test_any_json_object(served: Any, way: dict[str, Any]) -> None:
    ended = 0
    for seed in range(20):
        text, finish = content(served.chat(**way, seed=seed))
        assert text.startswith(("{", " {", "\n"))
        if finish == "stop":
            assert isinstance(json.loads(text), dict)
            ended += 1
    assert ended


@pytest.mark.parametrize(
    "way", [{"guided_regex": "[a-c]{3}/\\d"}, {"structured_outputs": {"regex": "[a-c]{3}/\\d"}}]
)
def test_a_regular_expression(served: Any, way: dict[str, Any]) -> None:
    text, finish = content(served.chat(**way, seed=3))
    assert re.fullmatch("[a-c]{3}/\\d", text)
    assert finish == "stop"


@pytest.mark.parametrize(
    "way", [{"guided_choice": ["ja", "nein ☠"]}, {"structured_outputs": {"choice": ["ja", "nein ☠"]}}]
)
def test_a_choice(served: Any, way: dict[str, Any]) -> None:
    found = {content(served.chat(**way, seed=seed))[0] for seed in range(12)}
    assert found == {"ja", "nein ☠"}


TAG: dict[str, Any] = {
    "type": "structural_tag",
    "structures": [{"begin": "ab", "schema": {"const": 5}, "end": ">"}],
    "triggers": ["a"],
}


@pytest.mark.parametrize(
    "way",
    [
        {"response_format": TAG},
        {"structured_outputs": {"structural_tag": json.dumps(TAG)}},
        {
            "response_format": {
                "type": "structural_tag",
                "format": {
                    "type": "triggered_tags",
                    "triggers": ["a"],
                    "tags": [{"begin": "ab", "content": {"type": "const_string", "value": "5"}, "end": ">"}],
                },
            }
        },
    ],
)
def test_a_structural_tag(served: Any, way: dict[str, Any]) -> None:
    """Free text, in which every trigger begins a whole tag."""
    found = [content(served.chat(**way, seed=seed, max_tokens=200)) for seed in range(8)]
    texts = [text for text, finish in found if finish == "stop"]
    assert all(len(re.findall("ab5>", text)) == text.count("a") for text in texts)
    assert any("a" in text for text in texts)


@pytest.mark.parametrize("way", ["guided_grammar", "structured_outputs"])
def test_a_grammar(served: Any, way: str) -> None:
    source = 'start: sum\nsum: NUMBER ("+" sum)?  // as in Lark\nNUMBER: /[0-9]/'
    asked = {way: source if way == "guided_grammar" else {"grammar": source}}
    found = {content(served.chat(**asked, seed=seed))[0] for seed in range(12)}
    assert all(re.fullmatch(r"[0-9](\+[0-9])*", text) for text in found)
    assert len({len(text) for text in found}) > 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('root ::= "a"', "GBNF"),
        ("begin: 'a'", "structured_outputs.grammar"),
        ('start: "a" }\nanswer: "b"', "structured_outputs.grammar"),
        ('start: "a" nowhere', "structured_outputs.grammar"),
    ],
)
def test_a_grammar_that_cannot_be_read(served: Any, source: str, message: str) -> None:
    response = served.chat(structured_outputs={"grammar": source})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert (error["param"], error["code"]) == ("structured_outputs.grammar", "invalid_grammar")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"guided_json": {"multipleOf": 1e400}', "guided_json: multipleOf: a number must be finite"),
        ('"guided_json": "{\\"const\\": NaN}"', "guided_json: const: a number must be finite"),
        (
            '"structured_outputs": {"structural_tag":'
            ' "{\\"format\\": {\\"type\\": \\"const_string\\", \\"value\\": \\"\\\\ud800\\"}}"}',
            "structured_outputs.structural_tag: is not JSON",
        ),
    ],
)
def test_json_that_is_none_elsewhere_is_refused(served: Any, fields: str, message: str) -> None:
    """Python's parser takes half of a surrogate pair, and infinity for a number that is too large."""
    response = served.http.post(
        "/v1/completions",
        content=f'{{"model": "base", "prompt": "x", {fields}}}',
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]["message"]


def test_nothing_asked_for_is_no_form(served: Any) -> None:
    way: dict[str, Any]
    for way in ({"response_format": {"type": "text"}}, {"structured_outputs": {}}, {"guided_json": None}):
        assert content(served.chat("hi", **way))[0] == "pirate heard: hi"
    assert all(request.grammar is None for request in served.engine.requests)


def test_one_grammar_is_compiled_for_all_choices_and_requests(served: Any) -> None:
    served.chat(response_format=FORMAT, n=2)
    served.chat(guided_json=SCHEMA, model="devil")
    assert len({id(request.grammar) for request in served.engine.requests}) == 1


def test_streams_are_of_the_form(served: Any) -> None:
    for choice in whole_of(chunks_of(served.chat(response_format=FORMAT, n=2, seed=4, stream=True))):
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
        assert choice["finish_reason"] == "stop"


def test_a_cut_answer_says_length(served: Any) -> None:
    text, finish = content(served.chat(response_format=FORMAT, max_tokens=3))
    assert finish == "length"
    assert len(text) <= 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_grammar_that_grows_too_complex_is_the_requests_fault(served: Any, stream: bool) -> None:
    response = served.chat(guided_regex=r"(\w{1,1000}){1,1000}", seed=1, stream=stream)
    error = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert (error["code"], error["type"]) == ("invalid_grammar", "invalid_request_error")
    assert "too complex" in error["message"]


class Person(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=5)
    tags: list[bool] = pydantic.Field(max_length=2)


def test_the_openai_client_parses_into_a_class(served: Any) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Who?"}]
        parsed = client.chat.completions.parse(
            model="base", messages=messages, response_format=Person, seed=1
        )
        assert isinstance(parsed.choices[0].message.parsed, Person)
        with client.chat.completions.stream(
            model="base", messages=messages, response_format=Person, seed=2
        ) as stream:
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)
