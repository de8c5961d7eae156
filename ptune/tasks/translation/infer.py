"""Prompts and length limits of a translation adapter. Torch-free."""

from __future__ import annotations

from typing import Any

from ptune.codecs.chat import ChatCodec

LONGER, MORE = 2, 32
"""A translation has at most LONGER times its source's tokens plus MORE, so that one that does not end is cut."""


def messages_of(source: str) -> list[dict[str, Any]]:
    """The messages for an adapter; its own instruction precedes them as a system message."""
    return [{"role": "user", "content": source}]


def most_tokens(codec: ChatCodec, source: str) -> int:
    """Default for the most tokens of a translation."""
    return LONGER * len(codec.encode_text(source, special=False)) + MORE
