"""The codec of texts and words against transformers' own tokenizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import tiny_tokenizers
from tokenizers import Tokenizer, models

from ptune.codecs import words
from ptune.codecs.sequence import SequenceCodec
from ptune.errors import FormatError

TOKENIZERS = {
    "wordpiece": tiny_tokenizers.wordpiece_tokenizer(),
    "roberta": tiny_tokenizers.roberta_tokenizer(),
    "byte-level": tiny_tokenizers.tokenizer(),
}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["The devil's own dictionary.", "a [SEP] b </s>", "é́ ﷽ 😀 ​x", "  two  spaces "]
)
WORDS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C", "M")), min_size=1, max_size=8),
    min_size=1,
    max_size=12,
)


def codec_of(name: str, **changes: object) -> SequenceCodec:
    tokenizer = TOKENIZERS[name]
    options = {"context": None, "type_ids": name == "wordpiece", "pad_id": tokenizer.pad_token_id}
    special = {key: text for key, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return SequenceCodec(backend, **{**options, "special_tokens": special, **changes})


CODECS = {name: codec_of(name) for name in TOKENIZERS}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS)
@settings(max_examples=60)
def test_a_text_is_encoded_as_transformers_does(name: str, text: str) -> None:
    found = CODECS[name].encode(text)
    expected = TOKENIZERS[name](text, return_offsets_mapping=True, split_special_tokens=True)
    assert list(found.ids) == expected["input_ids"]
    assert list(found.offsets) == expected["offset_mapping"]
    assert not found.truncated


@pytest.mark.parametrize("name", ["wordpiece", "roberta"])
@given(text=TEXTS, pair=TEXTS.filter(bool), most=st.integers(6, 40))
@settings(max_examples=60)
@example(text="a b c d e", pair="a b c d e", most=8)
def test_two_texts_are_cut_as_transformers_does(name: str, text: str, pair: str, most: int) -> None:
    found = CODECS[name].encode(text, pair, most)
    expected = TOKENIZERS[name](
        text,
        pair,
        truncation="longest_first",
        max_length=most,
        split_special_tokens=True,
        return_token_type_ids=True,
    )
    assert list(found.ids) == expected["input_ids"]
    if name == "wordpiece":
        assert list(found.type_ids) == expected["token_type_ids"]
    assert found.truncated == (found.length > most)


@given(said=WORDS, most=st.integers(4, 24))
@settings(max_examples=80)
def test_words_begin_where_transformers_says(said: list[str], most: int) -> None:
    found = CODECS["wordpiece"].encode_words(said, most)
    expected = TOKENIZERS["wordpiece"](said, is_split_into_words=True, truncation=True, max_length=most)
    assert list(found.ids) == expected["input_ids"]
    owners = expected.word_ids()
    assert list(found.first) == [owners.index(word) if word in owners else None for word in range(len(said))]


@pytest.mark.parametrize("name", ["roberta", "byte-level"])
@given(said=WORDS)
@settings(max_examples=60)
def test_byte_level_words_are_those_of_the_joined_text(name: str, said: list[str]) -> None:
    """The models know words with the space before them."""
    codec = CODECS[name]
    found, joined = codec.encode_words(said), codec.encode(" ".join(said))
    assert found.ids == joined.ids
    starts = [0]
    for word in said:
        starts.append(starts[-1] + len(word) + 1)
    begins = [max(start - 1, 0) for start in starts[:-1]]  # a token holds the space before its word
    covering = [
        next(at for at, (begin, end) in enumerate(joined.offsets) if begin <= start < end)
        for start in starts[:-1]
    ]
    assert len(begins) == len(found.first)
    assert all(place is not None and place <= at for place, at in zip(found.first, covering, strict=True))


def test_a_word_that_the_tokenizer_reads_nothing_of_has_a_token_too() -> None:
    found = CODECS["wordpiece"].encode_words(["one", "\u200b", "two"])
    assert None not in found.first
    assert found.first == tuple(sorted(set(found.first)))  # type: ignore[type-var]
    cut = CODECS["wordpiece"].encode_words(["devil"] * 20, 10)
    assert cut.truncated
    assert cut.first[-1] is None


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_in_a_text_are_spelled(name: str) -> None:
    codec = CODECS[name]
    special = {token for token, known in codec.tokenizer.get_added_tokens_decoder().items() if known.special}
    said = "".join(known.content for known in codec.tokenizer.get_added_tokens_decoder().values())
    own = set(codec.encode("").ids)
    unknown = codec.tokenizer.token_to_id(codec.special_tokens.get("unk_token", ""))
    inside = [token for token, (begin, end) in zip(*_parts(codec, said), strict=True) if end > begin]
    assert not (special - {unknown}) & set(inside)
    assert set(codec.encode_words([said, "x"]).ids) & special <= own | {unknown}


def test_letters_that_give_a_special_token_become_the_unknown_one() -> None:
    """Unigram models have their special tokens among their pieces, and like them better than their letters."""
    pieces = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("</s>", -0.1), *((mark, -9.0) for mark in "</s>ab ")], 0)
    )
    pieces.add_special_tokens(["<unk>", "</s>"])
    codec = SequenceCodec(
        pieces,
        context=None,
        type_ids=False,
        pad_id=1,
        special_tokens={"unk_token": "<unk>", "eos_token": "</s>"},
    )
    assert pieces.token_to_id("</s>") not in codec.encode("a</s>b").ids


def test_a_tokenizer_that_writes_two_texts_as_one_gets_a_line_feed_between() -> None:
    codec = CODECS["byte-level"]
    first, second, feed = (codec.encode(text).ids for text in ("one", "two", "\n"))
    assert codec.encode("one", "two").ids == (*first, *feed, *second)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_saved_opens_as_the_same(name: str, tmp_path: Path) -> None:
    codec = codec_of(name, context=12)
    codec.save(tmp_path)
    again = SequenceCodec.open(tmp_path)
    for text in ("The devil [SEP] </s>", "so " * 30):
        assert again.encode(text, "and") == codec.encode(text, "and")
        assert len(again.encode(text, max_length=99).ids) <= 12
    assert (again.pad_id, again.type_ids, again.special_tokens) == (
        codec.pad_id,
        codec.type_ids,
        codec.special_tokens,
    )


def test_a_damaged_codec_is_a_format_error(tmp_path: Path) -> None:
    CODECS["wordpiece"].save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(FormatError, match=r"tokenizer\.json cannot be read"):
        SequenceCodec.open(tmp_path)


def test_words_of_raw_text() -> None:
    text = "Press Ctrl+C, naïve_x!"
    assert [text[begin:end] for begin, end in words.split(text)] == [
        "Press",
        "Ctrl",
        "+",
        "C",
        ",",
        "naïve_x",
        "!",
    ]


def _parts(codec: SequenceCodec, text: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    found = codec.encode(text)
    return found.ids, found.offsets
