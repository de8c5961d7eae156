"""A codec on disk."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models

from ptune.codecs.chat import ChatCodec
from ptune.errors import FormatError


@pytest.mark.parametrize("template", ["smollm2", None])
def test_a_saved_codec_opens_as_it_was(codec_of, tmp_path, templates, byte_level, template):
    (tmp_path / "chat_template.jinja").write_text("of an earlier codec", encoding="utf-8")
    source = None if template is None else templates[template]
    codec = codec_of(byte_level, source, eos_ids=[5], context=64, system="Be “brief”.")
    codec.save(tmp_path)
    opened = ChatCodec.open(tmp_path)
    assert (opened.eos_ids, opened.context, opened.system) == (codec.eos_ids, 64, "Be “brief”.")
    assert (opened.special_tokens, opened.vocab_size) == (codec.special_tokens, codec.vocab_size)
    assert (None if opened.template is None else opened.template.source) == source
    assert opened.encode_text("Hello Paris") == codec.encode_text("Hello Paris")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("codec.json", None),
        ("codec.json", "{}"),
        ("codec.json", '{"format": 2, "special_tokens": {}, "eos_ids": []}'),
        ("tokenizer.json", None),
        ("tokenizer.json", "{"),
    ],
)
def test_a_damaged_codec_is_a_format_error(codec_of, tmp_path, templates, byte_level, file, content):
    codec_of(byte_level, templates["smollm2"]).save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(FormatError, match=file):
        ChatCodec.open(tmp_path)


def test_truncation_and_padding_of_a_tokenizer_are_switched_off(codec_of):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, "<unk>"))
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=8)
    assert codec_of(tokenizer, None).encode_text("a") == [0]
