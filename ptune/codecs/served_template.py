"""A run's chat template for programs that know nothing of the run: with its variables and its system message in it."""

from __future__ import annotations

import json

from ptune.codecs.chat import ChatCodec
from ptune.codecs.template_request import with_defaults

_SYSTEM = (
    "{% if not messages or messages[0]['role'] != 'system' %}"
    "{% set messages = [{'role': 'system', 'content': SYSTEM}] + messages %}{% endif %}\n"
)


def served_template(codec: ChatCodec) -> str | None:
    """The chat template with what the run was trained with: variables, and its system message where a conversation has none."""
    if codec.template is None:
        return None
    source = with_defaults(codec.template.source, codec.defaults.chat_template_kwargs)
    if codec.system is None:
        return source
    content = [{"type": "text", "text": codec.system}] if codec.template.takes_parts else codec.system
    return _SYSTEM.replace("SYSTEM", json.dumps(content, ensure_ascii=False)) + source
