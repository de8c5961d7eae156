"""Converts pairs of source and target to conversations: the source is the question, the target the answer."""

from __future__ import annotations

from dataclasses import replace

from ptune.config.chat import Chat
from ptune.config.translation import Translation
from ptune.data.read import DataFile
from ptune.data.readers.po import Po
from ptune.data.readers.tmx import Tmx
from ptune.data.shapes.conversations import SOURCE_AND_TARGET, Conversation, Row, Shape, text_of


def translation_shape(task: Translation) -> Shape:
    """The shape of rows with the task's two columns."""
    source, target = columns = (task.source, task.target)

    def convert(row: Row) -> Conversation:
        return as_conversation(text_of(row, source), text_of(row, target))

    return Shape(SOURCE_AND_TARGET, columns, convert)


def as_conversation(source: str, target: str) -> Conversation:
    """Converts a pair to a conversation; the instruction comes from the codec, like any system message."""
    return Conversation(({"role": "user", "content": source}, {"role": "assistant", "content": target}))


def in_columns(file: DataFile, task: Chat) -> DataFile:
    """Sets the task's two columns on a file of a format without columns."""
    if isinstance(task, Translation) and isinstance(file.reader, Po | Tmx):
        return replace(file, reader=replace(file.reader, columns=(task.source, task.target)))
    return file
