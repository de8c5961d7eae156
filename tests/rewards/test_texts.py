"""The rewards that read an answer's text, against what their papers say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import RecipeError
from ptune.rewards import RewardError, rewards_of
from ptune.rewards.number import last_number

TEXTS = st.text("ab \n", max_size=40)


def scores(asked: str, answers: Sequence[str], **columns: Sequence[Any]) -> list[float | None]:
    """Of answers as texts, which must be those of the same answers as messages."""
    (reward,) = rewards_of([asked])
    found = reward(["?"] * len(answers), answers, columns)
    messages = [[{"role": "assistant", "content": answer}] for answer in answers]
    assert reward([[{"role": "user", "content": "?"}]] * len(answers), messages, columns) == found
    return found


def test_exact() -> None:
    answers = ["Paris", " paris\n", "PARIS  is", "Rome", "x", "7"]
    wanted = ["Paris", "Paris", "paris is", "Paris", None, 7]
    assert scores("exact", answers, answer=wanted) == [1, 1, 1, 0, None, 1]
    assert scores("exact:solution", ["b"], solution=[["a", "B "]]) == [1]
    with pytest.raises(
        RewardError, match="reward 'exact': it needs the column 'answer', and the rows have solution"
    ):
        scores("exact", ["b"], solution=["b"])


def test_an_answer_without_text_scores_as_an_empty_one() -> None:
    (reward,) = rewards_of(["exact"])
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    nothing: list[dict[str, Any]] = [{"role": "assistant", "content": None, "tool_calls": []}]
    assert reward(["?"] * 3, [parts, nothing, []], {"answer": ["ab", "", ""]}) == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so he pays $1,800.", "1800"),
        ("2 + 3 = 5", "5"),
        ("10 - 3 = 7.0 apples", "7"),
        ("5-3", "3"),
        ("it is -3", "-3"),
        ("it is \N{MINUS SIGN}3,", "-3"),
        ("-$5.50", "-5.5"),
        (".5", "0.5"),
        ("1,2,3", "3"),
        ("12,345,678 of them", "12345678"),
        ("6.02e23", "6.02e23"),
        ("#### 18", "18"),
        ("The year 2024, the 3rd", "3"),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


@given(st.integers(-(10**9), 10**9), st.booleans())
def test_every_number_is_read_as_it_is_written(number: int, grouped: bool) -> None:
    assert last_number(f"1 and 2: {number:,}." if grouped else f"1 and 2: {number}.") == number


@given(st.text(max_size=60))
def test_any_text_has_a_last_number_or_none(text: str) -> None:
    assert isinstance(last_number(text), Decimal | None)


def test_number() -> None:
    """The column as GSM8K has it: the way there, and the number behind four marks."""
    gold = "He has 3 * 6 = <<3*6=18>>18 eggs.\n#### 18"
    answers = ["3 times 6 is 18.", "18 eggs, so 19", "eighteen", "18.00"]
    assert scores("number", answers, answer=[gold] * 4) == [1, 0, 0, 1]
    assert scores("number:n", ["4"] * 3, n=[4, 4.0, None]) == [1, 1, None]
    with pytest.raises(
        RewardError, match="reward 'number': the column 'n' of answer 2 has no number: 'none'"
    ):
        scores("number:n", ["4", "4"], n=["4", "none"])


def test_regex() -> None:
    assert scores(r"regex:^\d+$", ["42", "a 42", "42\n"]) == [1, 0, 1]
    assert scores("regex:(?i)yes|no", ["well, YES", "maybe"]) == [1, 0]
    assert scores(r"regex:<a>(?s:.*)</a>", ["<a>\n</a>", "<a>"]) == [1, 0]


def test_a_pattern_that_would_take_for_ever_is_stopped() -> None:
    with pytest.raises(
        RewardError, match=r"took more than 1 s on the 41 characters of answer 2: write it without"
    ):
        scores(r"regex:^(\w|\w\w)+$", ["a", "a" * 40 + "!"])


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    return file


def test_json_schema(schema: Path) -> None:
    answers = {
        '{"name": "Ann", "age": 3}': 1.0,
        ' {"name": "Ann"}\n': 1.0,
        'Here it is:\n```json\n{"name": "Ann"}\n```\nThat is all.': 1.0,
        '```\n{"name": "Ann"}\n```': 1.0,
        '```json\n{}\n```\nno,\n```json\n{"name": ""}\n```': 1.0,
        'First ```code```, then\n```python\nprint()\n```\nand\n  ```JSON\r\n{"name": ""}\r\n  ```\r\n': 1.0,
        '```json\n{"name": "Ann"}\n```\n```python\n{}\n```': 1.0,
        '{"name": "```json"}': 1.0,
        '{"name": 3}': 0.5,
        "[]": 0.5,
        "3": 0.5,
        'Here: {"name": "Ann"}': 0.0,
        '{"name": "Ann"': 0.0,
        '{"name": NaN}': 0.0,
        "": 0.0,
        "[" * 100_000: 0.0,
    }
    assert scores(f"json_schema:{schema}", [*answers]) == [*answers.values()]


@given(st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "name"]),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "age"]), inner)))  # fmt: skip
def test_values_score_as_jsonschema_judges_them(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any_schema.json"
    file.write_text(json.dumps(SCHEMA))
    valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(value)
    assert scores(f"json_schema:{file}", [json.dumps(value)]) == [1.0 if valid else 0.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "schema.json is not JSON"),
        (
            '{"type": "objekt"}',
            "schema.json is no JSON schema: 'objekt' is not valid under any of the given schemas",
        ),
        ("[]", "schema.json is no JSON schema"),
        ("5", "schema.json is no JSON schema"),
        ("null", "schema.json is no JSON schema"),
        ('{"$schema": 5}', r"\$schema is 5, and has to be text"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_schemas_that_are_none(schema: Path, content: str, words: str) -> None:
    schema.write_text(content)
    with pytest.raises(RecipeError, match=words):
        rewards_of([f"json_schema:{schema}"])


@pytest.mark.parametrize("answer", ["1e400", "1" * 400])
def test_a_number_beyond_floats_ends_no_training(schema: Path, answer: str) -> None:
    schema.write_text('{"multipleOf": 0.01}')
    assert scores(f"json_schema:{schema}", [answer, "0.02"]) == [0.5, 1.0]


_FOR_EVER = r"^(\w|\w\w)+$"


@pytest.mark.parametrize(
    "content",
    [
        {"items": {"pattern": _FOR_EVER}},
        {"items": {"propertyNames": {"pattern": _FOR_EVER}}},
        {"items": {"patternProperties": {_FOR_EVER: {"type": "null"}}}},
        {"items": {"patternProperties": {_FOR_EVER: {}}, "additionalProperties": False}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "allOf": [{"pattern": _FOR_EVER}, {"items": {"$ref": "#"}}],
        },
    ],
)
def test_a_schema_with_a_pattern_that_would_take_for_ever_is_stopped(schema: Path, content: Any) -> None:
    schema.write_text(json.dumps(content))
    long = "a" * 40 + "!"
    with pytest.raises(RewardError, match="took more than 1 s on a text of 41 characters: write it without"):
        scores(f"json_schema:{schema}", [json.dumps([{long: 1}]), json.dumps([long])])


PATTERNS = {
    "properties": {"b": {"pattern": "^x+$"}},
    "patternProperties": {"^a": {"type": "integer"}, "c$": {"minimum": 2}},
    "additionalProperties": {"type": "string", "pattern": "y"},
}


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "ac", "d", ""]), st.integers(0, 4) | st.sampled_from(["x", "xy", "y", ""])),
       st.booleans())  # fmt: skip
def test_patterns_are_judged_as_jsonschema_judges_them(
    tmp_path_factory: pytest.TempPathFactory, value: Any, closed: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "patterns.json"
    content = {**PATTERNS, "additionalProperties": False} if closed else PATTERNS
    file.write_text(json.dumps(content))
    valid = jsonschema.Draft202012Validator(content).is_valid(value)
    assert scores(f"json_schema:{file}", [json.dumps(value)]) == [1.0 if valid else 0.5]


def test_a_row_may_have_its_own_schema() -> None:
    (reward,) = rewards_of(["json_schema"])
    schemas = [{"type": "integer"}, '{"type": "string"}', {"type": "string"}, None]
    assert reward([""] * 4, ["3", '"a"', "3", "3"], {"schema": schemas}) == [1.0, 1.0, 0.5, None]
    with pytest.raises(RewardError, match="no JSON schema"):
        reward([""], ["3"], {"schema": [{"type": "objekt"}]})
    with pytest.raises(RewardError, match="it needs the column 'schema'"):
        reward([""], ["3"], {"answer": ["3"]})


def test_nothing_is_fetched_for_a_schema(schema: Path) -> None:
    schema.write_text('{"$ref": "http://127.0.0.1:9/other.json"}')
    with pytest.raises(
        RewardError, match=r"refers to 'http://127\.0\.0\.1:9/other\.json', which is not in it"
    ):
        scores(f"json_schema:{schema}", ["{}"])


def test_length() -> None:
    answers = ["a b c d", "a b", "", "a b c d e f", " ".join("a" * 9)]
    assert scores("length:4", answers) == [1.0, 0.5, 0.0, 0.5, 0.0]


@given(TEXTS, st.integers(1, 50))
def test_length_is_a_share(text: str, wanted: int) -> None:
    (score,) = scores(f"length:{wanted}", [text])
    assert score is not None
    assert 0 <= score <= 1
    assert (score == 1) == (len(text.split()) == wanted)


def test_overlong() -> None:
    """(13) of the paper with L_max = 10 and L_cache = 2: 0 up to 8, ((8 - y) / 2) up to 10, then -1."""
    answers = [" ".join(["w"] * count) for count in (0, 7, 8, 9, 10, 11, 30)]
    assert scores("overlong:10", answers) == pytest.approx([0, 0, 0, -0.5, -1, -1, -1])


def test_repetition() -> None:
    assert scores("repetition:2", ["a b a b a b", "a b c d", "a", "", "A a a"]) == pytest.approx(
        [2 / 5 - 1, 0, 0, 0, -0.5]
    )
    assert scores("repetition", ["x y z x y z"]) == pytest.approx([3 / 4 - 1])


@given(TEXTS, st.integers(1, 4))
def test_repetition_is_the_share_of_grams_that_were_there(text: str, n: int) -> None:
    words = text.split()
    seen = Counter(" ".join(words[at : at + n]) for at in range(max(0, len(words) - n + 1)))
    again = sum(count - 1 for count in seen.values())
    assert scores(f"repetition:{n}", [text]) == pytest.approx([-again / max(1, seen.total())])
