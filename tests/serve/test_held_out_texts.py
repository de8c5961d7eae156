"""A file of held-out texts: any bytes are texts or one sentence, and how the file is sorted does not matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.data.shapes.conversations import Completion, Conversation, Document
from ptune.errors import RequestError
from ptune_serve.rollout.texts import read_texts

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = st.text(max_size=3) | st.sampled_from(
    ["messages", "prompt", "completion", "text", "conversations", "instruction", "output", "x"]
)
LINE = st.binary(max_size=30) | st.dictionaries(COLUMNS, JSON, max_size=4).map(
    lambda row: json.dumps(row).encode()
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


def problem_of(root: Path) -> RequestError | None:
    """What is wrong with a file, if not all of it is texts."""
    try:
        for text in read_texts(root, "file"):
            assert isinstance(text.conversation(), Conversation | Completion | Document)
    except RequestError as error:
        return error
    return None


@settings(max_examples=150)
@given(lines=st.lists(LINE, max_size=5))
def test_any_bytes_are_texts_or_one_sentence(root: Path, lines: list[bytes]) -> None:
    (root / "file").write_bytes(b"\n".join(lines))
    if (problem := problem_of(root)) is not None:
        assert problem.status == 400
        assert str(problem).startswith("canary.decide.loss.texts: ")
        assert "\n" not in str(problem)
        assert len(str(problem)) < 500


def test_what_a_line_says_is_not_repeated_without_end(root: Path) -> None:
    row = {f"column\n{number}": 0 for number in range(10_000)}
    (root / "file").write_text(json.dumps(row))
    problem = problem_of(root)
    assert problem is not None
    assert str(problem).startswith(
        "canary.decide.loss.texts: line 1: no known shape: its columns are column 0, "
    )
    assert len(str(problem)) < 500


@given(order=st.permutations(range(8)))
def test_texts_come_in_an_order_of_their_own(root: Path, order: list[int]) -> None:
    def texts(numbers: list[int]) -> list[Any]:
        (root / "file").write_text("\n\n".join(json.dumps({"text": f"text {number}"}) for number in numbers))
        return [text.conversation() for text in read_texts(root, "file")]

    first = texts(list(range(8)))
    assert texts(order) == first
    assert first != [Document(f"text {number}") for number in range(8)]


def test_every_shape_that_training_reads(root: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"messages": turns, "tools": None, "id": 7},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"instruction": "a", "output": "b"},
        {"prompt": "a", "completion": "b"},
        {"text": "a"},
    ]
    (root / "file").write_text("\n".join(map(json.dumps, rows)))
    texts = sorted(read_texts(root, "file"), key=lambda text: text.number)
    assert [text.number for text in texts] == [1, 2, 3, 4, 5]
    asked = Conversation(tuple(turns))
    assert [text.conversation() for text in texts] == [
        asked,
        asked,
        asked,
        Completion("a", "b"),
        Document("a"),
    ]
