"""A template that other programs read writes what the codec writes."""

from __future__ import annotations

import pytest
from support.tiny_tokenizers import CHATML, tokenizer
from tokenizers import Tokenizer

from ptune.codecs.chat import ChatCodec
from ptune.codecs.served_template import served_template
from ptune.codecs.template import ChatTemplate
from ptune.codecs.template_request import with_defaults
from ptune.formats.request_defaults import RequestDefaults

QUESTION = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("lead", ["", "\n", "\n\n  ", "  {% if true %}x{% endif %}", "{#- note #}\n"])
@pytest.mark.parametrize("system", [None, 'Say "no" {twice}.\n{% raw %}'])
def test_the_template_brings_the_system_message_of_the_training(system: str | None, lead: str) -> None:
    backend = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    defaults = RequestDefaults(chat_template_kwargs={"mood": "calm"})
    template = lead + "{{ mood }}" + CHATML
    codec = ChatCodec(backend, template, {"eos_token": "</s>"}, [2], 64, system, defaults)
    source = served_template(codec)
    assert source is not None
    assert codec.template is not None
    others = ChatTemplate(source, codec.special_tokens)
    own = [{"role": "system", "content": "Other."}, *QUESTION]
    first = [] if system is None else [{"role": "system", "content": system}]
    for asked, meant in ((QUESTION, [*first, *QUESTION]), (own, own)):
        assert others.render(asked) == codec.template.render(meant, mood="calm")


@pytest.mark.parametrize("written", ["\nnext{{ a }}", "  {% if a %}yes{% endif %}", " {{ a }}", "{{ a }}\n"])
def test_what_stands_before_a_template_does_not_move_its_blanks(written: str) -> None:
    plain = ChatTemplate(written).render(QUESTION, a=1)
    assert ChatTemplate(with_defaults(written, {"a": 1})).render(QUESTION) == plain
