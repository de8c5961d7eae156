"""With a grammar, whatever a model prefers, its tool calls are as the template writes them and fit their schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from ptune.codecs.chat import ChatCodec
from ptune.codecs.structured_output import StructuredOutput
from ptune.codecs.tool_calls import calls, text_or_calls
from ptune.codecs.tool_reader import Argued, Called, Said, ToolReader
from ptune.engine.decoder.answers.grammar import Grammars
from ptune.engine.sampling import Sampling, choose
from ptune.errors import RequestError

FOLDER = Path(__file__).parents[2] / "codecs"
NAMES = (
    "agents/hermes",
    "agents/mistral",
    "agents/llama31",
    "templates/llama3",
    "templates/mistral_tools",
    "templates/qwen2_5",
    "templates/qwen3",
)
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ("<s>", "</s>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "[TOOL_CALLS]")


def codec_of(name: str, marks: tuple[str, ...]) -> ChatCodec:
    """Bytes as tokens, and the marks of tool calls as tokens of their own, or not."""
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(ALPHABET)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in marks])
    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    return ChatCodec(tokenizer, source, {"bos_token": "<s>", "eos_token": "</s>"}, (), None)


CODECS = {
    (name, bool(marks)): codec_of(name, marks)
    for name in NAMES
    for marks in ((), ("<tool_call>", "</tool_call>"))
}
GRAMMARS = {
    key: Grammars(codec.token_table(codec.vocab_size), codec.special_ids) for key, codec in CODECS.items()
}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["place", "days"],
        "additionalProperties": False,
        "$defs": {"place": {"type": "string", "maxLength": 4}},
    },
}  # fmt: skip
CLOCK: dict[str, Any] = {"name": "now"}
ODD = {  # cannot be enforced as a whole
    "name": "odd",
    "parameters": {"properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False, "not": {}},
}  # fmt: skip
SCHEMAS = {
    "weather": WEATHER["parameters"],
    "now": {"const": {}},
    "odd": {"required": ["a"], "properties": {"a": {"enum": [1, 2]}}, "additionalProperties": False},
}


def drawn(
    key: tuple[str, bool], form: StructuredOutput, seed: int, pushes: str = "", limit: int = 1500
) -> tuple[str, bool]:
    """What a model that knows nothing writes, with special marks, and whether it ended. `pushes`: bytes it likes."""
    codec = CODECS[key]
    walk = GRAMMARS[key].compile(form.source(), codec.eos_ids).walk()
    mark = codec.silent_mark("[TOOL_CALLS]")
    stream = codec.stream(() if mark is None else (mark,))
    rng = np.random.default_rng(seed)
    liked = [ALPHABET.index(letter) for letter in pushes] + [
        codec.mark("[TOOL_CALLS]"),
        codec.mark("<tool_call>"),
    ]
    text, output = "", list[int]()
    while len(output) < limit:
        logits = rng.normal(0, 1, codec.vocab_size).astype(np.float32)
        logits[[token for token in liked if token is not None]] += 5 if pushes else 0
        logits[list(codec.eos_ids)] += 5
        token = choose(logits, Sampling(), [1], output, seed, walk.allowed())
        if token in codec.eos_ids:
            return text + stream.finish(), True
        output.append(token)
        text += stream.push(token)
        walk.advance(token)
    return text, False


def read(codec: ChatCodec, text: str, *, many: bool = True) -> tuple[str, list[tuple[str, Any]]]:
    assert codec.tool_format is not None
    reader = ToolReader(codec.tool_format, many=many)
    said, found = "", list[tuple[str, str]]()
    for event in reader.push(text) + reader.finish():
        if isinstance(event, Called):
            found.append((event.name, ""))
        elif isinstance(event, Argued):
            found[-1] = (found[-1][0], found[-1][1] + event.text)
        elif isinstance(event, Said):
            said += event.text
    return said, [(name, json.loads(arguments)) for name, arguments in found]


@settings(max_examples=60)
@given(st.sampled_from(sorted(CODECS)), st.booleans(), st.integers(0, 2**32))
def test_required_calls_are_valid(key: tuple[str, bool], many: bool, seed: int) -> None:
    codec = CODECS[key]
    assert codec.tool_format is not None
    form = calls(codec.tool_format, [WEATHER, CLOCK, ODD], codec.mark, many=many)
    text, ended = drawn(key, form, seed)
    if not many:
        assert ended
    if ended:
        said, found = read(codec, text)
        assert said == ""
        assert len(found) == 1 if not many or codec.tool_format.between is None else found
        for name, arguments in found:
            jsonschema.validate(arguments, SCHEMAS[name])


@settings(max_examples=60)
@given(st.sampled_from(sorted(CODECS)), st.booleans(), st.integers(0, 2**32))
def test_a_call_in_free_text_is_valid(key: tuple[str, bool], many: bool, seed: int) -> None:
    codec = CODECS[key]
    assert codec.tool_format is not None
    form = text_or_calls(codec.tool_format, [WEATHER, CLOCK], codec.mark, codec.silent_mark, many=many)
    text, ended = drawn(key, form, seed, pushes="<tool_call>{")
    if ended:
        _, found = read(codec, text, many=many)
        begun = text.count(codec.tool_format.begin) if codec.tool_format.begin else 0
        assert len(found) >= (begun if many else min(begun, 1))
        for name, arguments in found:
            jsonschema.validate(arguments, SCHEMAS[name])


@pytest.mark.parametrize("key", sorted(CODECS))
def test_free_text_stays_free_and_calls_can_begin(key: tuple[str, bool]) -> None:
    """Without chance: a text and a call, token by token."""
    codec = CODECS[key]
    assert codec.tool_format is not None
    form = text_or_calls(codec.tool_format, [WEATHER, CLOCK], codec.mark, codec.silent_mark, many=True)
    grammar = GRAMMARS[key].compile(form.source(), codec.eos_ids)
    call = codec.tool_format.begin + codec.tool_format.head + "now" + codec.tool_format.middle
    for text in ("Hello ☠\n\nworld", call):
        walk = grammar.walk()
        for token in codec.tokenizer.encode(text, add_special_tokens=False).ids:
            assert walk.allowed()[token], (text, token)
            walk.advance(token)
        assert walk.allowed()[min(codec.eos_ids)] == (text != call)


def test_a_strict_function_that_cannot_be_enforced_is_refused() -> None:
    codec = CODECS["agents/hermes", False]
    assert codec.tool_format is not None
    form = calls(codec.tool_format, [{**ODD, "strict": True}], codec.mark, many=False)
    with pytest.raises(RequestError, match="not"):
        GRAMMARS["agents/hermes", False].compile(form.source(), codec.eos_ids)


@settings(max_examples=20)
@given(st.sampled_from(sorted(CODECS)), st.integers(0, 2**32))
def test_a_call_or_an_answer_of_a_form(key: tuple[str, bool], seed: int) -> None:
    codec = CODECS[key]
    assert codec.tool_format is not None
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = calls(codec.tool_format, [WEATHER], codec.mark, many=False) | StructuredOutput.json(schema)
    text, ended = drawn(key, form, seed)
    assert ended
    said, found = read(codec, text)
    if found:
        assert said == ""
        jsonschema.validate(found[0][1], SCHEMAS["weather"])
    else:
        jsonschema.validate(json.loads(said), schema)
