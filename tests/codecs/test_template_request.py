"""Variables of a template and continued answers, against transformers; what a template cannot be asked is refused."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ptune.errors import RequestError, TemplateError

QUESTION = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "The capital"}

many = settings(max_examples=60)


@many
@given(data=st.data())
def test_a_continued_answer_has_the_ids_that_transformers_gives(
    source, chats, byte_level, byte_codec, reference, data
):
    messages, codec = data.draw(chats), byte_codec(source)
    assume(messages[-1]["role"] == "assistant")
    try:
        expected = reference(byte_level).apply_chat_template(
            messages, chat_template=source, continue_final_message=True, return_dict=False
        )
    except Exception:
        with pytest.raises((RequestError, TemplateError)):
            codec.encode_prompt(messages, continued=True)
        return
    assert codec.encode_prompt(messages, continued=True) == expected


@pytest.mark.parametrize(
    "text", ["The capital", "The capital ", " The capital\n\n", "<think>\nHm", "Hello Hello"]
)
def test_a_continued_answer_is_open_at_its_end(source, byte_level, byte_codec, reference, text):
    messages, codec = [QUESTION, {**ANSWER, "content": text}], byte_codec(source)
    expected = reference(byte_level).apply_chat_template(
        messages, chat_template=source, continue_final_message=True, return_dict=False
    )
    found = codec.encode_prompt(messages, continued=True)
    assert found == expected
    assert codec.spell(found).rstrip().endswith(text.strip())


def test_control_tokens_in_a_continued_answer_stay_text(byte_codec, templates):
    codec = byte_codec(templates["qwen2_5"])
    end = codec.tokenizer.token_to_id("<|im_end|>")
    ids = codec.encode_prompt([QUESTION, {**ANSWER, "content": "a<|im_end|>b"}], continued=True)
    closed = codec.encode_prompt([QUESTION])
    assert ids.count(end) == closed.count(end)


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION],
        [QUESTION, {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f"}}]}],
    ],
)
def test_only_an_answer_can_be_continued(byte_codec, templates, messages):
    with pytest.raises(RequestError, match="role assistant, with text"):
        byte_codec(templates["qwen2_5"]).encode_prompt(messages, continued=True)


def test_a_template_that_leaves_the_answer_out_cannot_continue_it(byte_codec):
    codec = byte_codec("{% for message in messages %}{{ message['role'] }}{% endfor %}")
    with pytest.raises(RequestError, match="does not show the last message"):
        codec.encode_prompt([QUESTION, ANSWER], continued=True)


@pytest.mark.parametrize("thinking", [True, False])
def test_variables_give_the_ids_that_transformers_gives(
    byte_level, byte_codec, templates, reference, thinking
):
    codec, source = byte_codec(templates["qwen3"]), templates["qwen3"]
    expected = reference(byte_level).apply_chat_template(
        [QUESTION],
        chat_template=source,
        add_generation_prompt=True,
        enable_thinking=thinking,
        return_dict=False,
    )
    assert codec.encode_prompt([QUESTION], variables={"enable_thinking": thinking}) == expected
    assert (expected == codec.encode_prompt([QUESTION])) == thinking


def test_control_tokens_in_variables_stay_text(byte_codec):
    codec = byte_codec("{{ date_string }}{{ messages[0].content }}<|im_end|>")
    ids = codec.encode_prompt([QUESTION], variables={"date_string": "<|im_end|>"})
    assert ids.count(codec.tokenizer.token_to_id("<|im_end|>")) == 1
    assert codec.spell(ids) == "<|im_end|>Hello<|im_end|>"


@pytest.mark.parametrize(
    ("variables", "message", "param"),
    [
        ({"messages": "x"}, "field of its own", "chat_template_kwargs"),
        ({"add_generation_prompt": False}, "field of its own", "chat_template_kwargs"),
        ({"bos_token": "x"}, "set by the model", "chat_template_kwargs"),
        ({"_generation_marks": "ab"}, "set by the model", "chat_template_kwargs"),
        ({"enable_thinkin": True}, "reads content, enable_thinking", "chat_template_kwargs"),
        ({"reasoning_effort": "low"}, "does not read 'reasoning_effort'", "reasoning_effort"),
        ({"enable_thinking": [True]}, "must be a text, a number", "chat_template_kwargs"),
        ({"enable_thinking": float("inf")}, "must be finite", "chat_template_kwargs"),
        ({"enable_thinking": "x" * 5000}, "over 4096", "chat_template_kwargs"),
        ({f"v{number}": 1 for number in range(33)}, "at most 32", "chat_template_kwargs"),
    ],
)
def test_what_a_template_cannot_be_given_is_named(byte_codec, templates, variables, message, param):
    with pytest.raises(RequestError, match=message) as refused:
        byte_codec(templates["qwen3"]).encode_prompt([QUESTION], variables=variables)
    assert refused.value.param == param


def test_the_space_after_a_continued_text_is_kept(codec_of, templates, sentencepiece):
    """A SentencePiece decoder drops the first space of a text; that of a continuation belongs to it."""
    codec = codec_of(sentencepiece, templates["zephyr"])
    [first, second] = (
        codec.tokenizer.encode(text, add_special_tokens=False).ids for text in ("The", "The capital")
    )
    stream = codec.stream((), first[-1])
    text = "".join(map(stream.push, second[len(first) :])) + stream.finish()
    assert text == " capital"
