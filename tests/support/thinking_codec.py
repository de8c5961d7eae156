"""A codec whose template reads `enable_thinking`, and an answer with what was thought before it."""

from __future__ import annotations

from ptune.codecs.reasoning import ReasoningFormat
from ptune.codecs.template import ChatTemplate
from support.byte_codec import ByteCodec

FORM = ReasoningFormat("<think>\n", "\n</think>\n\n")
ANSWER = "<think>\nSix times seven.\n</think>\n\nIt is 42."


class Thinks(ByteCodec):
    template = ChatTemplate("{{ enable_thinking }}")  # type: ignore[assignment]
