"""Rules on one row: its messages and its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptune.codecs.chat import ChatCodec, Example
from ptune.data.shapes.conversations import Askable, Completion, Conversation, Document, Judged, Preferred
from ptune.data.source import Sample
from ptune.doctor.finding import Place, Rule

# Turn markers in the templates of the large families. In a message they mean that the text was already rendered.
FOREIGN = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|begin_of_text|>", "<start_of_turn>", "<end_of_turn>", "<|start|>", "<|channel|>", "<|end|>", "[INST]", "[/INST]",
)  # fmt: skip
# UTF-8 that was read as Windows-1252 or Latin-1 ("Ã©" for "é", "â€™" for "’"), or replacement characters.
_MANGLED = re.compile("[ÂÃ][\x80-\xbf]|Ã[€ƒ„‡ˆ‰ŠŒŽšœžŸ]|â€[\x80-\xbf™œžšŸ¢¦“”˜€]|\N{REPLACEMENT CHARACTER}")
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True)
class Row:
    """One row in the form for rules; made by `row_of`."""

    sample: Sample
    example: Example  # before it is cut to length
    codec: ChatCodec
    control: re.Pattern[str]  # see `control_pattern`
    messages: Sequence[Mapping[str, Any]]  # () if the row is plain text
    texts: Sequence[tuple[str, str]]  # all texts of the row with their names
    targets: bytes  # the example's, one byte each
    ends: Sequence[int]  # the last target token of each answer
    answers_something: bool  # whether it has an answer to a question; not for raw text

    @property
    def place(self) -> Place:
        """The row's place."""
        return Place(self.sample.problems.file, self.sample.number, self.sample.problems.unit)


def row_of(sample: Sample, example: Example, codec: ChatCodec, control: re.Pattern[str]) -> Row:
    """Makes a row for the rules."""
    conversation = sample.conversation
    more: list[tuple[str, str]] = []
    if isinstance(conversation, Preferred):
        more = [(f"rejected: {name}", text) for name, text in _texts(conversation.rejected)]
        conversation = conversation.chosen
    elif isinstance(conversation, Judged):
        conversation = conversation.answered
    messages: Sequence[Mapping[str, Any]] = (
        conversation.messages if isinstance(conversation, Conversation) else ()
    )
    texts = [*_texts(conversation), *more]
    asks = isinstance(conversation, Conversation) or (
        isinstance(conversation, Completion) and bool(conversation.question)
    )
    targets = bytes(example.targets)
    ends = [example.ids[at] for at in _last_of_each_run(targets)]
    return Row(sample, example, codec, control, messages, texts, targets, ends, asks)


def control_pattern(codec: ChatCodec) -> re.Pattern[str]:
    """Matches this model's control tokens and those of the large families."""
    added = codec.tokenizer.get_added_tokens_decoder().values()
    own = {token.content for token in added if token.special} | set(codec.special_tokens.values())
    longest_first = sorted({*own, *FOREIGN} - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def role_order(row: Row) -> str | None:
    """Roles out of order: serving uses the order system, user, assistant, user, …"""
    before = ""
    for index, message in enumerate(row.messages):
        role = message["role"]
        if fault := _out_of_order(role, before, index, message):
            return f"messages[{index}] ({role}) {fault}: check how the conversation was put together"
        before = role
    return None


def empty_answer(row: Row) -> str | None:
    """An answer without text: it teaches the model to answer with nothing, unless it is called undesirable, or the worse one."""
    conversation = row.sample.conversation
    if isinstance(conversation, Preferred):
        conversation = conversation.chosen
    if isinstance(conversation, Judged):
        if not conversation.desirable:
            return None
        conversation = conversation.answered
    for index, message in enumerate(row.messages):
        bare = message["role"] == "assistant" and not message.get("tool_calls")
        if bare and message.get("train", True) and not _text(message).strip():
            return f'messages[{index}] is an empty answer: fill it, remove the row, or mark it "train": false'
    if isinstance(conversation, Completion) and conversation.question and not conversation.answer.strip():
        return "the completion is empty: fill it or remove the row"
    return None


def empty_question(row: Row) -> str | None:
    """A question without text: the answer is learned as an answer to nothing."""
    for index, message in enumerate(row.messages):
        if message["role"] == "user" and not _text(message).strip():
            return f"messages[{index}] is an empty question: fill it or remove the row"
    return None


def nul_character(row: Row) -> str | None:
    """NUL in a text: some programs lose the text after it. Often binary data or misread UTF-16."""
    for name, text in row.texts:
        if "\0" in text:
            at = text.index("\0")
            return f"{name} holds NUL after {_before(text, at)}: remove it, or convert the file it comes from to UTF-8"
    return None


def control_tokens(row: Row) -> str | None:
    """Control tokens inside a text: it was already rendered with a chat template, and would be rendered twice.

    The tokens are safe, because the codec encodes them as ordinary text, but the model would learn to write them.
    """
    for name, text in row.texts:
        if match := row.control.search(text):
            return (
                f"{name} holds the control token {match[0]!r}, which is encoded as ordinary text: remove it;"
                " a text that was rendered with a chat template must be taken apart into messages again"
            )
    return None


def mangled_text(row: Row) -> str | None:
    """Text that was decoded wrongly earlier: UTF-8 read as Windows-1252 ('Ã©' for 'é'), or U+FFFD for lost characters."""
    for name, text in row.texts:
        if match := _MANGLED.search(text):
            around = text[max(0, match.start() - 10) : match.end() + 10]
            return (
                f"{name} was decoded wrongly: {around!r}: read its source again as what it is, mostly UTF-8"
            )
    return None


RULES = (
    Rule("role-order", "warning", role_order),
    Rule("empty-answer", "error", empty_answer),
    Rule("empty-question", "warning", empty_question),
    Rule("nul-character", "error", nul_character),
    Rule("control-tokens", "warning", control_tokens),
    Rule("mangled-text", "warning", mangled_text),
)


def _out_of_order(role: str, before: str, index: int, message: Mapping[str, Any]) -> str | None:
    """The fault of a role after the role `before` it ("" at the start); None if it is right."""
    if role in ("system", "developer"):
        return None if before in ("", "system", "developer") else "comes after the conversation began"
    if role == "tool":
        return None if before in ("tool", "assistant") else "answers no call of a tool"
    if role == "assistant" and before in ("", "system", "developer"):
        return "answers before anything is asked"
    if role == before == "user" or (role == before == "assistant"):
        return f"follows another {role}"
    return None


def _text(message: Mapping[str, Any]) -> str:
    """A message's text, or its parts' texts joined."""
    content = message.get("content")
    if isinstance(content, list | tuple):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _texts(conversation: Askable | Document) -> list[tuple[str, str]]:
    """All texts with their names."""
    if isinstance(conversation, Conversation):
        return list(_texts_of_messages(conversation.messages))
    if isinstance(conversation, Completion):
        return [("prompt", conversation.question), ("completion", conversation.answer)]
    return [("text", conversation.text)]


def _texts_of_messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for index, message in enumerate(messages):
        yield f"messages[{index}].content", _text(message)
        for name in _REASONING:
            if isinstance(message.get(name), str):
                yield f"messages[{index}].{name}", message[name]


def _last_of_each_run(targets: bytes) -> Iterator[int]:
    """Indices of targets that are followed by no target."""
    at = targets.find(b"\1\0")
    while at >= 0:
        yield at
        at = targets.find(b"\1\0", at + 1)
    if targets.endswith(b"\1"):
        yield len(targets) - 1


def _before(text: str, at: int) -> str:
    return repr(text[max(0, at - 20) : at])
