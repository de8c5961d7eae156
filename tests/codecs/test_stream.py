"""Streamed text is what decoding everything gives, and never half a character."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.codecs.chat import ChatCodec

many = settings(max_examples=150)
letters = st.text(st.sampled_from("aé世😀👍🏽\n ▁x") | st.characters(exclude_categories=["Cs"]), max_size=20)
CODES = [
    code for code in range(0x80, 0x110000, 64) if not 0xD800 <= code < 0xE000
]  # the last six bits come last
BEGUN = {chr(code).encode()[:count] for code in CODES for count in range(1, len(chr(code).encode()))}


def streamed(codec: ChatCodec, ids: list[int]) -> list[str]:
    stream = codec.stream()
    return [*(stream.push(token) for token in ids), stream.finish()]


def check(codec: ChatCodec, ids: list[int]) -> None:
    """Streamed and whole are the same: what the tokenizer says, but for what is left of a character at the end."""
    shown = [token for token in ids if not codec._vocabulary.is_silent(token)]
    expected = codec.tokenizer.decode(shown)
    if rest := cut_off(b"".join(map(codec.token_bytes, shown))):
        if (codec.tokenizer.id_to_token(shown[-1]) or "").startswith("<0x"):  # a token is a byte
            expected = codec.tokenizer.decode(shown[: -len(rest)])
        else:
            assert expected.endswith("\ufffd")
            expected = expected[:-1]
    assert "".join(streamed(codec, ids)) == expected
    assert codec.decode_answer(ids) == expected


def cut_off(written: bytes) -> bytes:
    """What the bytes end with where they end inside a character."""
    ends = (written[-count:] for count in (1, 2, 3))
    return next((end for end in ends if end in BEGUN), b"")


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


@many
@given(text=letters, data=st.data())
def test_an_answer_that_is_cut_inside_a_character_ends_before_it(
    codec_of, byte_level, sentencepiece, text, data
):
    """Wherever it is cut: the text so far is the beginning of the text, with no U+FFFD that is not its own."""
    text = "x" + text
    for codec in (codec_of(byte_level, None), codec_of(sentencepiece, None)):
        ids = codec.encode_text(text)
        cut = ids[: data.draw(st.integers(0, len(ids)))]
        said = "".join(streamed(codec, cut))
        assert text.startswith(said)
        assert said == codec.decode_answer(cut)


def test_what_is_no_character_stays_where_it_cannot_become_one(codec_of, byte_level, sentencepiece):
    level = codec_of(byte_level, None)
    of_byte = {level.token_bytes(token): token for token in range(level.vocab_size)}
    fallback = codec_of(sentencepiece, None)
    for codec, token in (
        (level, lambda byte: of_byte[bytes([byte])]),
        (fallback, lambda byte: fallback.tokenizer.token_to_id(f"<0x{byte:02X}>")),
    ):
        for written, said in (
            (b"\xef\xbf\xbd", "\ufffd"),  # U+FFFD itself
            (b"a\xff", "a\ufffd"),
            (b"\xe4\xbd", ""),
            (b"\xf0\x9f\x98", ""),
            (b"\xed\xa0", "\ufffd\ufffd"),  # half of a surrogate
            (b"\xe4\xbd\xa0\xe4", "\u4f60"),
            (b"\xf4\x90", "\ufffd\ufffd"),  # beyond the last character
        ):
            ids = [token(byte) for byte in written]
            if codec is fallback and written == b"a\xff":
                said = "\ufffd\ufffd"  # a run of bytes is one text or none
            assert "".join(streamed(codec, ids)) == codec.decode_answer(ids) == said


def test_half_a_character_before_a_mark_is_shown(codec_of, byte_level):
    """It is not the end of the text."""
    codec, mark = codec_of(byte_level, None), byte_level.token_to_id("<|im_end|>")
    first = codec.encode_text("\N{GOTHIC LETTER AHSA}")[0]
    stream = codec.stream({mark})
    assert [stream.push(first), stream.push(mark), stream.finish()] == ["", "\ufffd<|im_end|>", ""]


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
