"""Streamed text is what decoding everything gives, and never half a character."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.codecs.chat import ChatCodec

many = settings(max_examples=150)
letters = st.text(st.sampled_from("aé世😀👍🏽\n ▁x") | st.characters(exclude_categories=["Cs"]), max_size=20)


def streamed(codec: ChatCodec, ids: list[int]) -> list[str]:
    stream = codec.stream()
    return [*(stream.push(token) for token in ids), stream.finish()]


def check(codec: ChatCodec, ids: list[int]) -> None:
    assert "".join(streamed(codec, ids)) == codec.tokenizer.decode(ids, skip_special_tokens=True)


@many
@given(ids=st.lists(st.integers(0, 500), max_size=40))
def test_any_tokens_of_byte_level_bpe(codec_of, byte_level, ids):
    check(codec_of(byte_level, None), ids)


@many
@given(data=st.data())
def test_any_tokens_of_sentencepiece(codec_of, sentencepiece, data):
    codec = codec_of(sentencepiece, None)
    byte, any_token = st.integers(20, 275), st.integers(0, codec.vocab_size + 3)
    check(codec, data.draw(st.lists(byte | any_token, max_size=40)))


@many
@given(text=letters)
def test_text_comes_whole_and_no_piece_of_it_is_half_a_character(codec_of, byte_level, sentencepiece, text):
    text = "x" + text  # SentencePiece takes a space at the beginning for its own
    for codec in (codec_of(byte_level, None), codec_of(sentencepiece, None)):
        pieces = streamed(codec, codec.encode_text(text))
        assert "".join(pieces) == text
        assert all(piece.count("\ufffd") <= text.count("\ufffd") for piece in pieces)


def test_text_comes_as_soon_as_it_is_certain(codec_of, byte_level):
    codec = codec_of(byte_level, None)
    ids = codec.encode_text("Hello 😀!")
    shown = list(itertools.accumulate(streamed(codec, ids)))
    so_far = [codec.decode(ids[:count]) for count in range(1, len(ids) + 1)]
    assert any(text.endswith("\ufffd") for text in so_far)
    for text, whole in zip(shown, so_far, strict=False):
        assert text == whole or whole.endswith("\ufffd")


def test_a_token_costs_the_same_however_long_the_text_is(codec_of, byte_level):
    codec = codec_of(byte_level, None)
    decoded = []

    class Counting:
        id_to_token = codec.tokenizer.id_to_token

        def decode(self, ids):
            decoded.append(len(ids))
            return codec.tokenizer.decode(ids)

    stream = codec.stream()
    stream._tokenizer = Counting()
    for token in codec.encode_text("Hello, world! " * 300):
        stream.push(token)
    assert max(decoded) <= 3


# Single tokens


def test_token_bytes_join_to_the_text(codec_of, byte_level, sentencepiece):
    text = "Hello 世 😀\n"
    codec = codec_of(byte_level, None)
    assert b"".join(map(codec.token_bytes, codec.encode_text(text))) == text.encode()
    codec = codec_of(sentencepiece, None)
    assert b"".join(map(codec.token_bytes, codec.encode_text(text)[1:])) == b" " + text.encode()


@pytest.mark.parametrize(
    ("token", "text"), [("<|im_end|>", "<|im_end|>"), ("<think>", "<think>"), ("Ġthe", " the")]
)
def test_token_text(codec_of, byte_level, token, text):
    assert codec_of(byte_level, None).token_text(byte_level.token_to_id(token)) == text


def test_a_part_of_a_character_and_an_unknown_token(codec_of, byte_level):
    codec = codec_of(byte_level, None)
    first, *_ = codec.encode_text("\N{GOTHIC LETTER AHSA}")
    assert codec.token_text(first) == "\ufffd"
    assert codec.token_bytes(first) == "\N{GOTHIC LETTER AHSA}".encode()[: len(codec.token_bytes(first))]
    assert codec.token_bytes(codec.vocab_size) == b""
