"""What the tokenizer and the chat template of another engine are held to, and the hop that says whether they are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ptune.codecs.chat import ChatCodec
from ptune.errors import TemplateError
from ptune.formats.bundle import Hop

Messages = Sequence[Mapping[str, Any]]

OURS: tuple[Messages, ...] = (
    ({"role": "user", "content": "What is the capital of France?"},),
    (
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Is  the sky blue?\n\n- yes\n- no"},
    ),
    (
        {"role": "user", "content": "Name a river. 🙂"},
        {"role": "assistant", "content": "The Nile:\n\n1. long\n2. old"},
        {"role": "user", "content": "And a sea?"},
    ),
    (
        {"role": "system", "content": "You are kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Who wrote \"Hamlet\" & 'Emma'?"},
    ),
)
"""Conversations with and without a system message, of one turn and several."""


def renderable(codec: ChatCodec, conversations: Iterable[Messages]) -> Iterator[tuple[Messages, list[int]]]:
    """Conversations that the codec's template takes, and their tokens; some take no system message."""
    for messages in conversations:
        try:
            yield messages, codec.encode_prompt(messages)
        except TemplateError:
            continue


def same(
    name: str,
    count: int,
    wrong: int,
    notes: Sequence[str],
    *,
    passed: bool,
    limit: str = "the same tokens",
) -> Hop:
    """A hop of `count` texts, `wrong` of which are not the same there."""
    return Hop(
        name=name,
        prompts=count,
        positions=count,
        top1=1 - wrong / max(count, 1),
        limit=limit,
        passed=passed,
        note="; ".join(notes),
    )
