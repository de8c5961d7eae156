"""Rendering: transformers is the reference."""

from __future__ import annotations

import datetime
import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError as JinjaError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ptune.codecs.template import ChatTemplate
from ptune.errors import TemplateError

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
many = settings(max_examples=60)
QUESTION = [{"role": "user", "content": 'Hello <you> & "me"'}]

transformers = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL_TOKENS)


def theirs(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    """What transformers renders; None where the template refuses."""
    try:
        return transformers.apply_chat_template(messages, chat_template=source, tokenize=False, **options)
    except (JinjaError, TypeError, KeyError, IndexError, AttributeError):
        return None


@functools.cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, SPECIAL_TOKENS)


def ours(source: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return compiled(source).render(messages, **options)
    except TemplateError:
        return None


@many
@given(data=st.data())
def test_renders_conversations_as_transformers_does(source, chats, data):
    messages, prompt = data.draw(chats), data.draw(st.booleans())
    expected = theirs(source, messages, add_generation_prompt=prompt)
    assert ours(source, messages, add_generation_prompt=prompt) == expected


@many
@given(data=st.data())
def test_renders_or_refuses_anything_as_transformers_does(source, wild_chats, tools, data):
    messages, offered = data.draw(wild_chats), data.draw(st.sampled_from([None, [], tools[:1], tools]))
    expected = theirs(source, messages, tools=offered, add_generation_prompt=True)
    assert ours(source, messages, tools=offered, add_generation_prompt=True) == expected


def test_renders_something_for_every_template(source, chats):
    assert 'Hello <you> & "me"' in (ours(source, QUESTION, add_generation_prompt=True) or "")


def test_passes_variables_on(templates):
    options = {"add_generation_prompt": True, "enable_thinking": False}
    rendered = ours(templates["qwen3"], QUESTION, **options)
    assert rendered == theirs(templates["qwen3"], QUESTION, **options)
    assert (rendered or "").endswith("<think>\n\n</think>\n\n")


def test_strftime_now_asks_the_clock(templates):
    clock = lambda: datetime.datetime(2024, 2, 29, 12)  # noqa: E731
    assert "Today Date: 29 Feb 2024" in ChatTemplate(templates["llama3"], SPECIAL_TOKENS, now=clock).render(
        QUESTION
    )


@many
@given(data=st.data())
def test_generation_spans_are_what_transformers_masks(templates, chats, data):
    source, messages = templates["chatml_generation"], data.draw(chats)
    text, spans = ChatTemplate(source).render_with_spans(messages)
    assert text == theirs(source, messages)
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert [text[start:end] for start, end in spans] == [answer + "<|im_end|>" for answer in answers]


def test_without_generation_blocks_there_are_no_spans(templates):
    assert ChatTemplate(templates["smollm2"]).render_with_spans(QUESTION)[1] == []


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        ("{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}", "nested"),
        ("{% set x %}{% generation %} a {% endgeneration %}{% endset %}{{ x | trim }}", "alters"),
    ],
)
def test_generation_spans_that_mark_nothing_are_refused(faulty, reason):
    with pytest.raises(TemplateError, match=reason):
        ChatTemplate(faulty).render_with_spans(QUESTION)


@pytest.mark.parametrize(
    "faulty",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({'role': 'user'}) }}",
        "{{ messages[0].update(content='x') }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__.items() }}",
        "{{ strftime_now.__closure__[0].cell_contents }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{{ undefined_function() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_or_leaves_its_sandbox_is_a_template_error(faulty):
    messages = [{"role": "user", "content": "Hello"}]
    with pytest.raises(TemplateError, match="cannot render"):
        ChatTemplate(faulty).render(messages)
    assert messages == [{"role": "user", "content": "Hello"}]


def test_what_a_user_writes_is_never_a_template(source):
    attack = "{{ 7 * 7 }}{% for i in range(9) %}x{% endfor %}{# gone #}"
    assert attack in (ours(source, [{"role": "user", "content": attack}]) or "")


def test_invalid_jinja_names_the_line():
    with pytest.raises(TemplateError, match="line 2"):
        ChatTemplate("{{ bos_token }}\n{% if messages %}")
