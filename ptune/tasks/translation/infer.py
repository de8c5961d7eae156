"""Texts -> the prompts and limits of an adapter that translates. Torch-free."""

from __future__ import annotations

from typing import Any

from ptune.codecs.chat import ChatCodec

LONGER, MORE = 2, 32
"""A translation has at most so many times its source's tokens, and so many more: one that does not end must not take for ever."""


def messages_of(source: str) -> list[dict[str, Any]]:
    """What an adapter is asked; its own instruction comes before it, as any system message does."""
    return [{"role": "user", "content": source}]


def most_tokens(codec: ChatCodec, source: str) -> int:
    """Most tokens of a translation, where nobody says how many."""
    return LONGER * len(codec.encode_text(source, special=False)) + MORE
