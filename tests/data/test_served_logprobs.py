"""Whatever stands in a file, it is read or refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.codecs.chat import Example
from ptune.data.examples.index import ExampleIndex
from ptune.data.teacher.served_logprobs import scored
from ptune.errors import DataError

NUMBERS = st.integers(-3, 5) | st.floats() | st.none()
JSON = st.recursive(
    NUMBERS | st.booleans() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
LOGPROB = st.dictionaries(
    st.sampled_from(["1", "2", "x", "-1"]), st.fixed_dictionaries({"logprob": NUMBERS}) | JSON, max_size=3
)
TOP = st.fixed_dictionaries(
    {"token": st.sampled_from(["token_id:3", "token_id:x", "a"]), "logprob": NUMBERS},
    optional={"bytes": st.just([97]) | JSON},
)
CONTENT = st.lists(
    st.fixed_dictionaries(
        {"token": st.just("a"), "logprob": NUMBERS},
        optional={"top_logprobs": st.lists(TOP, max_size=2) | JSON},
    ),
    max_size=2,
)
PART = {
    "prompt_logprobs": st.lists(LOGPROB | st.none(), max_size=4) | JSON,
    "prompt_token_ids": st.lists(st.integers(0, 5), max_size=4) | JSON,
}
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        **PART,
        "logprobs": st.fixed_dictionaries({"content": CONTENT}) | JSON,
        "token_ids": st.lists(st.integers(0, 5), max_size=2),
    },
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        **PART,
        "model": st.text(max_size=2) | JSON,
        "choices": st.lists(CHOICE | JSON, max_size=2) | JSON,
    },
)
LINE = BODY | st.fixed_dictionaries(
    {
        "response": st.fixed_dictionaries(
            {"status_code": st.sampled_from([200, 500])}, optional={"body": BODY | JSON}
        )
        | JSON,
        "error": st.none(),
    }
)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINE.map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=9), max_size=3))
def test_any_file_is_read_or_refused(lines: list[str], tmp_path_factory: Any) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    refusal = ""
    try:
        for text in scored(path, {b"a": 4}):
            assert all(0 <= at < len(text.ids) for at in text.likely)
            assert all(
                isinstance(value, float) for likely in text.likely.values() for value in likely.values()
            )
    except DataError as error:
        refusal = str(error)
    assert not refusal or str(path) in refusal


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
SHORT = st.lists(st.integers(0, 2), max_size=2)


@given(known=st.lists(st.tuples(IDS, SHORT), max_size=6), text=IDS, first=st.booleans())
def test_the_beginnings_of_a_text_are_found(
    known: list[tuple[list[int], list[int]]], text: list[int], first: bool
) -> None:
    """Whatever follows the last target of an example."""
    examples = [Example((*ids, *after), (True,) * len(ids) + (False,) * len(after)) for ids, after in known]
    asked = text if first else [-1, *text[1:]]
    found = ExampleIndex(examples).beginnings(asked)
    wanted = [
        example
        for example, (ids, _) in zip(examples, known, strict=True)
        if len(ids) <= len(text) and all(a in (b, -1) for a, b in zip(asked, ids, strict=False))
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))
