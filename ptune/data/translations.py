"""Pairs of source and target, as conversations: the source is asked, the target answers."""

from __future__ import annotations

from dataclasses import replace

from ptune.config.chat import Chat
from ptune.config.translation import Translation
from ptune.data.conversations import SHAPES, Conversation, Row, Shape, text_of
from ptune.data.po import Po
from ptune.data.read import DataFile
from ptune.data.tmx import Tmx


def shapes_of(task: Chat) -> tuple[Shape, ...]:
    """The shapes that a task's rows may have."""
    if not isinstance(task, Translation):
        return SHAPES
    source, target = columns = (task.source, task.target)

    def convert(row: Row) -> Conversation:
        return as_conversation(text_of(row, source), text_of(row, target))

    return (Shape("source and target", columns, convert),)


def as_conversation(source: str, target: str) -> Conversation:
    """A pair as a conversation; the instruction comes from the codec, as any system message."""
    return Conversation(({"role": "user", "content": source}, {"role": "assistant", "content": target}))


def in_columns(file: DataFile, task: Chat) -> DataFile:
    """A file of a format that knows no columns with the two that the task names."""
    if isinstance(task, Translation) and isinstance(file.reader, Po | Tmx):
        return replace(file, reader=replace(file.reader, columns=(task.source, task.target)))
    return file
