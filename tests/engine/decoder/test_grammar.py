"""Whatever a model prefers, an answer with a grammar keeps to it: checked by jsonschema and by Python's own `re`."""

from __future__ import annotations

import gc
import json
import re
import weakref
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.tiny_grammars import CODEC, END, GRAMMARS, SPELL, VOCAB, codec_of
from tokenizers import Tokenizer, decoders, models

from ptune.codecs.structured_output import StructuredOutput
from ptune.engine.decoder.answers.grammar import KEPT, MAX_BYTES, Grammars, Walk
from ptune.engine.sampling import Sampling, choose
from ptune.errors import PtuneError, RequestError

LONGEST = 2000


def drawn(
    form: StructuredOutput, seed: int, *, temperature: float = 1.0, limit: int = LONGEST
) -> tuple[str, bool]:
    """An answer of a model that knows nothing, and whether it ended."""
    walk = GRAMMARS.compile(form.source(), END).walk()
    rng = np.random.default_rng(seed)
    output: list[int] = []
    while len(output) < limit:
        logits = rng.normal(0, 3, VOCAB).astype(np.float32)
        token = choose(logits, Sampling(temperature), [1], output, seed, walk.allowed())
        if token in END:
            return CODEC.decode(output), True
        output.append(token)
        walk.advance(token)
    return CODEC.decode(output), False


names = st.text("ab\"\\é☠ '{}", min_size=1, max_size=4)
numbers = st.integers(-(2**53), 2**53) | st.builds(
    lambda digits, power: float(f"{digits}e{power}"),
    st.integers(-(10**15) + 1, 10**15 - 1),
    st.integers(-22, 0),
)
leaves = st.one_of(
    st.builds(
        lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)},
        st.integers(-200, 200),
        st.integers(-200, 200),
    ),
    st.builds(lambda low: {"type": "number", "minimum": low, "maximum": low + 2}, st.integers(-3, 3)),
    st.builds(
        lambda a, b: {"type": "string", "minLength": min(a, b), "maxLength": max(a, b)},
        st.integers(0, 6),
        st.integers(0, 6),
    ),
    st.sampled_from(
        [
            {"type": "string", "pattern": "^[a-c]{2,4}$"},
            {"type": "string", "format": "date"},
            {"type": "string", "format": "uuid"},
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["boolean", "null"]},
        ]
    ),
    st.builds(
        lambda values: {"enum": values},
        st.lists(names | numbers | st.booleans() | st.none(), min_size=1, max_size=4, unique_by=repr),
    ),
    st.builds(lambda value: {"const": value}, st.dictionaries(names, numbers | names, max_size=2)),
    st.builds(
        lambda low: {"type": "integer", "minimum": low, "maximum": low + 2**13},
        st.integers(2**53, 2**63 - 2**14),
    ),
)


def _object(properties: dict[str, Any], required: bool) -> dict[str, Any]:
    needed = list(properties) if required else list(properties)[:1]
    return {
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }


def _larger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    sizes = st.tuples(st.integers(0, 2), st.integers(0, 2)).map(sorted)
    return st.one_of(
        st.builds(_object, st.dictionaries(names, inner, max_size=3), st.booleans()),
        st.builds(
            lambda item, size: {"type": "array", "items": item, "minItems": size[0], "maxItems": size[1]},
            inner,
            sizes,
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda item: {"$ref": "#/$defs/it", "$defs": {"it": item}}, leaves),
    )


schemas = st.recursive(leaves, _larger, max_leaves=6).filter(
    lambda schema: '"$defs"' not in json.dumps(schema)[1:] or "$ref" in schema
)


@settings(max_examples=80)
@given(schemas, st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 2.0]))
def test_json_always_validates(schema: dict[str, Any], seed: int, temperature: float) -> None:
    text, ended = drawn(StructuredOutput.json(schema), seed, temperature=temperature)
    assert ended
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_json_without_bounds_validates_where_it_ends(seed: int) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": {"type": "string"},
    }
    text, ended = drawn(StructuredOutput.json(schema), seed, limit=400)
    if ended:
        jsonschema.validate(json.loads(text), schema)
    else:
        with pytest.raises(ValueError):
            json.loads(text)


letters = st.sampled_from(["a", "/", "\\\\", "é", "☠", "[0-9]", "[b-d\"']", "\\.", "\n", "[^a]", "#", "%"])
patterns = st.recursive(
    letters,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.builds(
            lambda part, a, b: f"({part}){{{min(a, b)},{max(a, b)}}}",
            inner,
            st.integers(0, 3),
            st.integers(1, 3),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=80)
@given(patterns, st.integers(0, 2**32))
def test_a_regular_expression_matches_the_whole_answer(pattern: str, seed: int) -> None:
    text, ended = drawn(StructuredOutput.regex(pattern), seed)
    assert ended
    assert re.fullmatch(pattern, text)


@settings(max_examples=60)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**32),
)
def test_a_choice_is_one_of_the_texts(texts: list[str], seed: int) -> None:
    assume(all(CODEC.decode(CODEC.encode_text(text)) == text for text in texts))
    text, ended = drawn(StructuredOutput.choice(texts), seed)
    assert ended
    assert text in texts


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (lambda: StructuredOutput.json({"not": {"type": "string"}}), "not"),
        (lambda: StructuredOutput.json({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (lambda: StructuredOutput.json({"type": "wizard"}), "wizard"),
        (lambda: StructuredOutput.json({"$ref": "https://example.com/a.json"}), "example.com"),
        (lambda: StructuredOutput.json({"allOf": [{"type": "string"}, {"type": "integer"}]}), "nsatisfiable"),
        (lambda: StructuredOutput.json({"x-guidance": {"lenient": True}, "not": {}}), "not"),
        (lambda: StructuredOutput.json({"const": {"a": [2**53 + 1]}}), "more digits"),
        (lambda: StructuredOutput.json({"properties": {"a": {"enum": [1801439850948199.2]}}}), "more digits"),
        (lambda: StructuredOutput.json({"type": "integer", "minimum": 2**64}), "64 bits"),
        (lambda: StructuredOutput.json({"const": [float("inf")]}), "const: a number must be finite"),
        (lambda: StructuredOutput.json({"maximum": float("nan")}), "maximum: a number must be finite"),
        (lambda: StructuredOutput.json([]), "object"),
        (lambda: StructuredOutput.json(False), "object"),
        (lambda: StructuredOutput.regex("(?=a)b"), "look-around"),
        (lambda: StructuredOutput.regex("("), "unclosed"),
        (lambda: StructuredOutput.regex("a\\"), "single"),
        (lambda: StructuredOutput.json({"const": "x" * MAX_BYTES}), "bytes long"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_with_a_reason(form: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as refused:
        GRAMMARS.compile(form().source(), END)
    assert refused.value.status == 400
    assert "\n" not in str(refused.value)


def test_bounds_that_do_not_bind_may_be_of_any_size() -> None:
    schema = {"type": "integer", "minimum": -(10**400), "maximum": 10**400}
    for seed in range(20):
        text, ended = drawn(StructuredOutput.json(schema), seed)
        assert ended
        jsonschema.validate(json.loads(text), schema)


def test_deep_schemas_are_refused() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(70):
        schema = {"type": "array", "items": schema}
    with pytest.raises(RequestError, match="nested 64 deep"):
        StructuredOutput.json(schema)


def _follow(walk: Walk, tokens: list[int]) -> None:
    for token in tokens:
        walk.allowed()
        walk.advance(token)
    walk.allowed()


def test_a_grammar_that_grows_too_complex_is_refused_on_its_way() -> None:
    walk = GRAMMARS.compile(StructuredOutput.regex(r"(\w{1,1000}){1,1000}").source(), END).walk()
    [letter] = CODEC.encode_text("a")
    with pytest.raises(RequestError, match="too complex"):
        _follow(walk, [letter] * 200)


def test_a_vocabulary_that_lacks_a_letter_is_refused() -> None:
    grammars = Grammars([b"a", b"b", b""], {2})
    walk = grammars.compile(StructuredOutput.choice(["ax"]).source(), frozenset({2})).walk()
    with pytest.raises(RequestError, match="vocabulary"):
        _follow(walk, [0])


def test_without_an_end_there_is_no_grammar() -> None:
    with pytest.raises(RequestError, match="no token that ends"):
        GRAMMARS.compile(StructuredOutput.choice(["a"]).source(), frozenset())


def test_compiled_grammars_are_kept_and_the_oldest_forgotten() -> None:
    grammars = Grammars([b"a", b"b", b""], {2})
    ends = frozenset({2})

    def compiled(number: int) -> object:
        return grammars.compile(StructuredOutput.regex(f"a{{{number + 1}}}").source(), ends)

    first = compiled(0)
    assert compiled(0) is first
    for number in range(1, KEPT):
        compiled(number)
    assert compiled(0) is first  # used just now
    compiled(KEPT)
    assert compiled(0) is first
    for number in range(KEPT + 1, 2 * KEPT + 1):
        compiled(number)
    assert compiled(0) is not first


def test_the_end_comes_only_where_the_grammar_ends() -> None:
    walk = GRAMMARS.compile(StructuredOutput.regex("a{2,3}").source(), END).walk()
    [letter] = CODEC.encode_text("a")
    ends = []
    for _ in range(3):
        ends.append(bool(walk.allowed()[2]))
        walk.advance(letter)
    assert [*ends, bool(walk.allowed()[2])] == [False, False, True, True]
    assert walk.allowed().sum() == 1


@pytest.mark.parametrize(
    "text", ["The meaning of it, said Tom.", '{"name": "user", "content": ', "é☠ <s> \n\n  x"]
)
def test_what_is_forced_is_written_in_the_models_own_tokens(text: str) -> None:
    """Not byte by byte, which would take more steps, and tokens that the model never saw beside each other."""
    walk, output = GRAMMARS.compile(StructuredOutput.choice([text]).source(), END).walk(), list[int]()
    while (token := int(walk.allowed().argmax())) not in END:
        output.append(token)
        walk.advance(token)
    assert output == SPELL(text)


def test_without_a_tokenizer_the_longest_tokens_are_taken() -> None:
    grammars = Grammars([b"", b"a", b"b", b"ab", b"aba", b"c"], {0})
    walk, output = grammars.compile(StructuredOutput.choice(["ababc"]).source(), frozenset({0})).walk(), []
    while (token := int(walk.allowed().argmax())) != 0:
        output.append(token)
        walk.advance(token)
    assert output == [4, 2, 5]


def test_special_tokens_are_no_text() -> None:
    allowed = GRAMMARS.compile(StructuredOutput.regex(r"(.|\n)*").source(), END).walk().allowed()
    special = sorted(CODEC.special_ids - END)
    assert len(special) >= 3
    assert not allowed[special].any()
    assert allowed[2]


def test_nothing_is_chosen_where_the_model_excludes_all_that_may_come() -> None:
    logits = np.array([0.0, -np.inf, -np.inf], np.float32)
    with pytest.raises(PtuneError, match="no token a chance"):
        choose(logits, Sampling(), [0], [], 0, np.array([False, True, True]))


def test_a_space_that_decoding_takes_away_is_not_part_of_the_answer() -> None:
    """As of SentencePiece: the first word's space is not shown."""
    words = ["<unk>", "</s>", "▁", "▁yes", "yes", "▁no", "no", "s", "e", "y"]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    codec = codec_of(tokenizer)
    assert codec.takes_first_space
    grammars = Grammars(codec.token_table(len(words)), codec.special_ids)

    def first(form: StructuredOutput) -> set[str]:
        grammar = grammars.compile(form.source(stripped=codec.takes_first_space), frozenset({1}))
        return {words[token] for token in np.flatnonzero(grammar.walk().allowed())}

    assert first(StructuredOutput.choice(["yes"])) == {"▁", "▁yes", "yes", "y"}
    assert not CODEC.takes_first_space


def test_a_refusal_keeps_nothing_of_the_requests_that_it_was_told() -> None:
    """It is kept, as grammars are; an error that is raised again and again collects the frames of all who raised it."""

    class Body:
        pass

    def asked() -> weakref.ref[Body]:
        body = Body()
        with pytest.raises(RequestError, match="unknown name") as refused:
            GRAMMARS.compile('start: "a" nothing_of_that_name', END)
        assert (refused.value.code, refused.value.status) == ("invalid_grammar", 400)
        return weakref.ref(body)

    bodies = [asked() for _ in range(3)]
    gc.collect()
    assert [body() for body in bodies] == [None] * 3
