"""Tool calls: the format is told from the template, and what a template writes is read back as what it was."""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.codecs.template import ChatTemplate
from ptune.codecs.tool_calls import ToolFormat, tool_format
from ptune.codecs.tool_reader import Argued, Called, Event, Said, ToolReader

FOLDER = Path(__file__).parent
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ENDS = re.compile(r"</s>|<\|im_end\|>|<\|eot_id\|>|<\|eom_id\|>")
KINDS = {
    "agents/hermes": "hermes", "agents/forgets_reasoning": "hermes", "agents/opens_reasoning": "hermes",
    "agents/llama31": "llama", "agents/mistral": "mistral", "agents/smollm3": None, "templates/llama3": "llama",
    "templates/mistral_tools": "mistral", "templates/qwen2_5": "hermes", "templates/qwen3": "hermes",
    "templates/gemma3": None, "templates/zephyr": None, "templates/mistral": None,
}  # fmt: skip
QUESTION = {"role": "user", "content": "How warm is it in Oslo?"}


@functools.cache
def template_of(name: str) -> ChatTemplate:
    return ChatTemplate((FOLDER / f"{name}.jinja").read_text(encoding="utf-8"), SPECIAL_TOKENS)


@functools.cache
def format_of(name: str) -> ToolFormat:
    form = tool_format(template_of(name), ENDS)
    assert form is not None
    return form


def read(form: ToolFormat, pieces: list[str], **options: Any) -> tuple[str, list[tuple[str, str]]]:
    """What an answer says, and its calls."""
    reader = ToolReader(form, **options)
    events: list[Event] = [event for piece in pieces for event in reader.push(piece)] + reader.finish()
    text, calls = "", list[tuple[str, str]]()
    for event in events:
        if isinstance(event, Said):
            text += event.text
        elif isinstance(event, Called):
            assert event.index == len(calls)
            calls.append((event.name, ""))
        elif isinstance(event, Argued):
            name, before = calls[event.index]
            assert event.index == len(calls) - 1
            calls[event.index] = (name, before + event.text)
    return text, calls


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("name", KINDS)
def test_the_format_is_told_from_the_template(name: str) -> None:
    found = tool_format(template_of(name), ENDS)
    assert (found and found.kind) == KINDS[name]


texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\{}[],:'), max_size=12)
hard = texts | st.sampled_from(["</tool_call>", "<tool_call>", "[TOOL_CALLS]", '"}', "}\n</tool_call>"])
values = st.recursive(
    hard | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(hard, inner, max_size=2),
    max_leaves=4,
)
names = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
called = st.lists(st.tuples(names, st.dictionaries(hard, values, max_size=3)), min_size=1, max_size=3)
cuts = st.lists(st.integers(0, 10_000), max_size=30)


@settings(max_examples=100)
@given(
    st.sampled_from([name for name, kind in KINDS.items() if kind]),
    called,
    cuts,
    st.sampled_from(["", "I will look."]),
)
def test_calls_that_a_template_writes_are_read_back(
    name: str, calls: list[tuple[str, dict[str, Any]]], cuts: list[int], said: str
) -> None:
    form, template = format_of(name), template_of(name)
    if form.between is None:
        calls = calls[:1]
    said = said if form.kind == "hermes" else ""  # the others leave out what is said besides
    given_calls: list[dict[str, Any]] = [
        {"id": f"abcdefgh{n}", "type": "function", "function": {"name": function, "arguments": arguments}}
        for n, (function, arguments) in enumerate(calls)
        if (function, name) != ("python", "agents/llama31")
    ] or [{"id": "abcdefgh0", "type": "function", "function": {"name": "x", "arguments": {}}}]
    asked = template.render([QUESTION], add_generation_prompt=True)
    text = template.render([QUESTION, {"role": "assistant", "content": said, "tool_calls": given_calls}])
    answer = re.sub(rf"({ENDS.pattern})\s*$", "", text.removeprefix(asked))
    answer = answer.removeprefix("<think>\n").removeprefix("\n</think>\n\n")
    text, found = read(form, pieces_of(answer, cuts))
    assert text.strip() == said
    expected = [(call["function"]["name"], call["function"]["arguments"]) for call in given_calls]
    assert [(function, json.loads(arguments)) for function, arguments in found] == expected


scraps = st.lists(
    st.sampled_from(
        ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<tool_", "[", "]", "{", "}", ",", ";", ":", " ",
         "\n", '"name"', '"arguments"', '"parameters"', '"x"', '"id"', '"\\"', "5", "null", '{"name": "x", "arguments": {"a": 1}}',
         '{"name": "y", "parameters": {}}', '{"arguments": "{\\"a\\": 1}", "name": "z"}', "text"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=500)
@given(st.sampled_from(["agents/hermes", "agents/mistral", "agents/llama31"]), scraps, cuts, st.booleans())
@example("agents/hermes", '<tool_call>{"name": "x"}</tool_call>', [3, 12, 14, 20], True)
@example("agents/llama31", '{"a": 5}', [2], True)
@example("agents/llama31", '{"name": "x", "parameters": {}, "y": 5}', [], True)
@example("agents/hermes", '<tool_call>{"name": "x", "arguments": {"a": 1}}}</tool_call>', [], True)
def test_what_is_read_does_not_depend_on_the_pieces(
    name: str, text: str, cuts: list[int], many: bool
) -> None:
    form = format_of(name)
    whole = read(form, [text], many=many)
    assert read(form, pieces_of(text, cuts), many=many) == whole
    assert read(form, list(text), many=many) == whole
    said, calls = whole
    if not calls:
        assert said == text  # what is no call is text, to the last letter


@pytest.mark.parametrize(
    ("name", "text", "said", "calls"),
    [
        ("agents/hermes", "Hi!\n\n", "Hi!\n\n", []),
        ("agents/hermes", "<tool_call>", "<tool_call>", []),
        ("agents/hermes", "I <tool_call> x", "I <tool_call> x", []),
        ("agents/hermes", '<tool_call>{"a": 1}</tool_call>', '<tool_call>{"a": 1}</tool_call>', []),
        ("agents/hermes", '<tool_call>{"name": "x"}', "", [("x", "{}")]),
        ("agents/hermes", '<tool_call>{"name": "x", "arguments": {"a": [1, ', "", [("x", '{"a": [1, ')]),
        ("agents/hermes", 'So: <tool_call>{"arguments": {"b": 1}, "name": "x"}</tool_call> Done.', "So: Done.", [("x", '{"b": 1}')]),
        ("agents/hermes", '<tool_call>{"name": "x", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("x", '{"a": 1}')]),
        ("agents/hermes", '<tool_call>{"name": "x", "arguments": null}</tool_call>', "", [("x", "null")]),
        ("agents/hermes", '<tool_call>[{"name": "x"}]', '<tool_call>[{"name": "x"}]', []),
        ("agents/hermes", '<tool_call>\n{"name": "x", "arguments": {"a": 1}\n</tool_call>\nDone.', "Done.", [("x", '{"a": 1}')]),
        ("agents/hermes", '<tool_call>\n{"name": "x", "arguments": {"a": 1}}}\n</tool_call>\nDone.', "Done.", [("x", '{"a": 1}')]),
        ("agents/hermes", '<tool_call>{"name": "x", "arguments": {"a": {"b": 1}</tool_call> Done.', "Done.", [("x", '{"a": {"b": 1}')]),
        ("agents/hermes", '<tool_call>{"name": "x", "parameters": {"a": 1}, "arguments": {}}</tool_call>', "", [("x", '{"a": 1}')]),
        ("agents/hermes", '<tool_call>\n{"name": "x", "arguments": {}}\n{"name": "y", "arguments": {"a": 1}}\n</tool_call>', "",
         [("x", "{}"), ("y", '{"a": 1}')]),
        ("agents/hermes", '<tool_call>{"name": "x"}{"name": "y"}</tool_call> Done. <tool_call>{"name": "z"}</tool_call>', "Done.",
         [("x", "{}"), ("y", "{}"), ("z", "{}")]),
        ("agents/hermes", '<tool_call>{"name": "x"}} {"a": 1}</tool_call>', '} {"a": 1}</tool_call>', [("x", "{}")]),
        ("agents/llama31", '{"name": "x", "parameters": {}}; and so on', "; and so on", [("x", "{}")]),
        ("agents/llama31", '{"name": "x", "parameters": {}, "y": 5}', "", [("x", "{}")]),
        ("agents/llama31", '{"answer": 5}', '{"answer": 5}', []),
        ("agents/llama31", '<|python_tag|>{"name": "x", "parameters": {}}', "", [("x", "{}")]),
        ("agents/llama31", "<|python_tag|>print(5)", "<|python_tag|>print(5)", []),
        ("agents/llama31", '{"name": "x", "parameters": {}}; {"name": "y", "parameters": {}}', "", [("x", "{}"), ("y", "{}")]),
        ("agents/llama31", 'See {"name": "x", "parameters": {}}', 'See {"name": "x", "parameters": {}}', []),
        ("agents/mistral", 'Well [TOOL_CALLS] [{"name": "x", "arguments": {}}]', "Well", [("x", "{}")]),
        ("agents/mistral", "[TOOL_CALLS] no", "[TOOL_CALLS] no", []),
    ],
)  # fmt: skip
def test_calls_and_what_only_looks_like_one(
    name: str, text: str, said: str, calls: list[tuple[str, str]]
) -> None:
    found, read_calls = read(format_of(name), [text])
    assert (" ".join(found.split()) if calls else found, read_calls) == (said, calls)


@pytest.mark.parametrize("text", ['{"name": "Bob"}', '{"name": "Bob", "parameters": {"age": 5}} and more'])
def test_json_without_a_mark_calls_only_what_is_on_offer(text: str) -> None:
    form = format_of("agents/llama31")
    for pieces in ([text], list(text)):
        assert read(form, pieces, names={"weather"}) == (text, [])
    marked = '<|python_tag|>{"name": "Bob", "parameters": {}}'
    assert read(form, [marked], names={"weather"}) == ("", [("Bob", "{}")])
    offered = '{"name": "weather", "parameters": {}}'
    assert read(form, [offered], names={"weather"}) == ("", [("weather", "{}")])


@pytest.mark.parametrize("name", ["agents/hermes", "agents/mistral", "agents/llama31"])
def test_arguments_come_while_they_are_written(name: str) -> None:
    form = format_of(name)
    reader = ToolReader(form)
    events = reader.push(f'{form.begin}{form.head}weather{form.middle}{{"place": "Os')
    assert events == [Called(0, "weather"), Argued(0, '{"place": "Os')]
    assert reader.push("lo") == [Argued(0, "lo")]


def test_after_the_only_call_nothing_counts() -> None:
    form = format_of("agents/hermes")
    call = '<tool_call>{"name": "x", "arguments": {}}</tool_call>'
    reader = ToolReader(form, many=False)
    assert reader.push(call + call + "more") == [Called(0, "x"), Argued(0, "{}")]
    assert reader.done
    assert reader.push("more") + reader.finish() == []


def test_marks_that_are_special_tokens_are_written_out(byte_level: Tokenizer) -> None:
    tokenizer = Tokenizer.from_str(byte_level.to_str())
    tokenizer.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True, normalized=False)])
    source = (FOLDER / "agents/mistral.jinja").read_text(encoding="utf-8")
    codec = ChatCodec(tokenizer, source, SPECIAL_TOKENS, (), None)
    mark = codec.silent_mark("[TOOL_CALLS]")
    assert mark is not None
    assert mark == tokenizer.token_to_id("[TOOL_CALLS]")
    assert codec.silent_mark("<tool_call>") is None
    assert codec.mark("<tool_call>") == tokenizer.token_to_id("<tool_call>")
    assert codec.tool_format is not None
    answer = 'é [TOOL_CALLS][{"name": "x", "arguments": {"é": 1}}]'
    ids = tokenizer.encode(answer, add_special_tokens=False).ids
    for shown, expected in ((frozenset({mark}), answer), (frozenset(), answer.replace("[TOOL_CALLS]", ""))):
        stream = codec.stream(shown)
        assert "".join([*map(stream.push, ids), stream.finish()]) == expected
    assert codec.spell(ids) == answer
