"""Structural tags: what their grammars accept, text by text, is what XGrammar's documentation says of each format."""

from __future__ import annotations

from typing import Any

import pytest

from ptune.codecs.structural_tag import structural_tag
from ptune.engine.decoder.answers.grammar import Grammars
from ptune.errors import RequestError

END, CALL = 256, 257  # the end of an answer, and a special token
TOKENS = [*(bytes([byte]) for byte in range(256)), b"</s>", b"<|call|>"]
GRAMMARS = Grammars(TOKENS, {END, CALL})
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
JSON = {"type": "json_schema", "json_schema": SCHEMA}
TAGS = [
    {"type": "tag", "begin": "<f=one>", "content": JSON, "end": "</f>"},
    {"begin": "<f=two>", "content": {"type": "regex", "pattern": "[a-c]+"}, "end": "</f>"},
]
ONE, TWO = '<f=one>{"n":1}</f>', "<f=two>abc</f>"
LEGACY = {
    "type": "structural_tag",
    "structures": [{"begin": "<f=one>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f="],
}


def pieces(text: str) -> list[str | int]:
    before, found, after = text.partition("<|call|>")
    return [
        piece for piece in (before, CALL if found else "", *(pieces(after) if found else ())) if piece != ""
    ]


def accepted(value: Any, text: str) -> bool:
    """Whether an answer may be this text."""
    walk = GRAMMARS.compile(structural_tag(value, pieces).source(), frozenset({END})).walk()
    for piece in pieces(text):
        for token in [piece] if isinstance(piece, int) else piece.encode():
            if not walk.allowed()[token]:
                return False
            walk.advance(token)
    return bool(walk.allowed()[END])


def triggered(**more: Any) -> dict[str, Any]:
    return {"format": {"type": "triggered_tags", "triggers": ["<f="], "tags": TAGS, **more}}


@pytest.mark.parametrize(
    ("value", "right", "wrong"),
    [
        (
            LEGACY,
            ["", "free < text", ONE, f"a {ONE}\nb {ONE} c"],
            ['<f=one>{"n":"x"}</f>', "<f=", "a <f=three>", "<f=one>{}</f>", ONE.removesuffix("</f>")],
        ),
        (triggered(), ["", f"a{TWO}b{ONE}", TWO], ["<f=two>abd</f>", "a<f=two>", f"{TWO}<f=x"]),
        (triggered(at_least_one=True), [f"{TWO} and", f"{ONE} {TWO}"], ["", f"a {ONE}", "text"]),
        (triggered(stop_after_first=True), ["", "text", f"a {ONE}"], [f"{ONE} b", f"{ONE}{TWO}"]),
        (triggered(at_least_one=True, stop_after_first=True), [ONE, TWO], ["", f"{ONE}b", f"a{ONE}"]),
        (
            {"format": {"type": "tags_with_separator", "tags": TAGS, "separator": ", "}},
            ["", ONE, f"{ONE}, {TWO}, {TWO}"],
            [f"{ONE},{TWO}", f"{ONE}, ", "text"],
        ),
        (
            {"format": {"type": "tags_with_separator", "tags": TAGS, "separator": "", "at_least_one": True}},
            [ONE, f"{ONE}{TWO}"],
            ["", f"{ONE} {TWO}"],
        ),
        (
            {
                "format": {
                    "type": "sequence",
                    "elements": [
                        {"type": "const_string", "value": "So: "},
                        {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"},
                        {"type": "or", "elements": [JSON, {"type": "any_text"}]},
                    ],
                }
            },
            ["So: <t></t>", "So: <t>a <b> c</t>more", 'So: <t>x</t>{"n": 2}'],
            ["<t></t>", "So: <t>a", "so: <t></t>"],
        ),
        (
            {
                "format": {
                    "type": "triggered_tags",
                    "triggers": ["<|call|>"],
                    "tags": [{"begin": "<|call|>go(", "content": JSON, "end": ")<|call|>"}],
                }
            },
            ["text", 'a <|call|>go({"n":1})<|call|> b'],
            ["<|call|>", "<|call|>stop(", '<|call|>go({"n":1})'],
        ),
    ],
)  # fmt: skip
def test_what_is_accepted(value: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    assert {text: accepted(value, text) for text in right} == dict.fromkeys(right, True)
    assert {text: accepted(value, text) for text in wrong} == dict.fromkeys(wrong, False)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "must be an object"),
        ({}, "lacks structures and triggers"),
        ({"format": {"type": "grammar", "grammar": "root ::= x"}}, "'grammar' is not supported; there are any_text"),
        ({"format": {"type": "qwen_xml_parameter", "json_schema": {}}}, "'qwen_xml_parameter' is not supported"),
        ({"format": {"type": ["or"]}}, "is not supported"),
        ({"format": {"type": "const_string"}}, "const_string lacks value"),
        ({"format": {"type": "const_string", "value": ""}}, "must not be empty"),
        ({"format": {"type": "const_string", "value": 5}}, "value of const_string is of the wrong type"),
        ({"format": {"type": "any_text", "excludes": ["x"]}}, "any_text has no field 'excludes'"),
        ({"format": {"type": "sequence", "elements": [{"type": "any_text"}, JSON]}}, "any_text must be"),
        ({"format": {"type": "sequence", "elements": []}}, "1 to 256 elements"),
        ({"format": {"type": "sequence", "elements": [triggered()["format"], JSON]}}, "must be the last"),
        (triggered(triggers=["<g="]), "'<f=one>' with 0"),
        (triggered(triggers=["<f", "<f="]), "'<f=one>' with 2"),
        (triggered(triggers=[""]), "none empty"),
        (triggered(tags=[]), "tags must be 1 to 256"),
        (triggered(tags=[{"begin": "<f=", "end": ""}]), "a tag lacks content"),
        (triggered(tags=[{"begin": "<f=", "content": {"type": "json_schema", "json_schema": 5}, "end": ""}]), "JSON schema"),
        (triggered(tags=[{"type": "or", "begin": "<f=", "content": JSON, "end": ""}]), "the type of a tag must be tag"),
        (triggered(many=True), "triggered_tags has no field 'many'"),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_by_name(value: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        structural_tag(value, pieces)
