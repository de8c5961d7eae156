"""Messages as users write them: which are taken, and what is said of the others."""

from __future__ import annotations

import pytest

from ptune.errors import TemplateError

QUESTION = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "world!"}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        ("Hello", "must be a list, not text"),
        (["Hello"], r"messages\[0\] must be an object.*not text"),
        ([QUESTION, {"content": "x"}], r"messages\[1\].role is missing"),
        (
            [{"role": "bot", "content": "x"}],
            r"messages\[0\].role is 'bot'; it must be one of system, developer, user",
        ),
        ([{"role": ["user"], "content": "x"}], "role is "),
        ([{"role": "user"}], r"messages\[0\].content is missing"),
        ([{"role": "user", "content": None}], "content is missing"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "content is missing"),
        ([{"role": "user", "content": 7}], "must be text, not a number"),
        ([{"role": "user", "content": {"text": "x"}}], "must be text, not an object"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            r"content\[0\] is of type 'image_url'",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], r"content\[0\].text must be text"),
        ([{"role": "user", "content": ["x"]}], r"content\[0\] is of type None"),
        ([{"role": "user", "content": "\ud83d"}], r"\\ud83d, half of a surrogate pair"),
        ([{"role": "user", "content": "x", "name": "\udc00"}], "surrogate"),
        ([{"role": "assistant", "content": "x", "tool_calls": "y"}], "tool_calls must be a list"),
        ([{"role": "user", "content": "x", "when": object()}], r"messages\[0\].when must be JSON"),
    ],
)
def test_malformed_messages_are_told_by_place(codec_of, templates, byte_level, messages, reason):
    codec = codec_of(byte_level, templates["smollm2"])
    for encode in (codec.encode_prompt, codec.encode_example):
        with pytest.raises(TemplateError, match=reason):
            encode(messages)


def test_train_must_be_true_or_false(codec_of, templates, byte_level):
    with pytest.raises(TemplateError, match=r"messages\[1\].train must be true or false, not 'no'"):
        codec_of(byte_level, templates["smollm2"]).encode_example([QUESTION, {**ANSWER, "train": "no"}])


def test_text_that_is_not_unicode_is_refused(codec_of, byte_level):
    for encode in (
        lambda codec, text: codec.encode_text(text),
        lambda codec, text: codec.encode_completion("", text),
    ):
        with pytest.raises(TemplateError, match="surrogate"):
            encode(codec_of(byte_level, None), "\ud800")


def test_text_parts_are_one_text(codec_of, templates, byte_level):
    codec = codec_of(byte_level, templates["smollm2"])
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert codec.encode_prompt([{"role": "user", "content": parts}]) == codec.encode_prompt([QUESTION])


def test_a_developer_is_the_system_unless_the_template_knows_better(codec_of, byte_level, templates):
    codec = codec_of(byte_level, templates["smollm2"])
    prompts = [
        codec.encode_prompt([{"role": role, "content": "x"}, QUESTION]) for role in ("developer", "system")
    ]
    assert prompts[0] == prompts[1]
    knowing = codec.with_template("{% for m in messages %}{{ m.role == 'developer' }}{% endfor %}")
    assert knowing.decode(knowing.encode_prompt([{"role": "developer", "content": "x"}])) == "True"


def test_a_system_message_is_put_before_conversations_without_one(codec_of, templates, byte_level):
    codec = codec_of(byte_level, templates["smollm2"])
    strict = codec_of(byte_level, templates["smollm2"], system="Be brief.")
    system = {"role": "system", "content": "Be brief."}
    other = {"role": "system", "content": "Be kind."}
    assert strict.encode_prompt([QUESTION]) == codec.encode_prompt([system, QUESTION])
    assert strict.encode_prompt([other, QUESTION]) == codec.encode_prompt([other, QUESTION])
    assert strict.encode_example([QUESTION, ANSWER]) == codec.encode_example([system, QUESTION, ANSWER])


def test_without_a_template_only_plain_text_can_be_encoded(codec_of, byte_level):
    with pytest.raises(TemplateError, match=r"no chat template.*--task\.template"):
        codec_of(byte_level, None).encode_prompt([QUESTION])
