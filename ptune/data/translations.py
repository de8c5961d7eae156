"""Converts pairs of source and target to conversations: the source is the question, the target the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ptune.config.chat import Chat
from ptune.config.translation import Translation
from ptune.data.conversations import SHAPES, SOURCE_AND_TARGET, Conversation, Row, Shape, text_of
from ptune.data.po import Po
from ptune.data.read import DataFile
from ptune.data.tmx import Tmx
from ptune.errors import DataError


def shapes_of(task: Chat) -> tuple[Shape, ...]:
    """The possible shapes of a task's rows. Raises: DataError if it names columns that belong to different shapes."""
    if not isinstance(task, Translation):
        return _with_columns(task.columns.named)
    source, target = columns = (task.source, task.target)

    def convert(row: Row) -> Conversation:
        return as_conversation(text_of(row, source), text_of(row, target))

    return (Shape(SOURCE_AND_TARGET, columns, convert),)


def _with_columns(named: Mapping[str, str]) -> tuple[Shape, ...]:
    """The shapes with all columns that are named. Raises: DataError."""
    if not named:
        return SHAPES
    shapes = [shape for shape in SHAPES if {*shape.columns, *shape.optional}.issuperset(named)]
    if not shapes:
        known = "; ".join(" and ".join(shape.columns) for shape in SHAPES)
        raise DataError(
            f"task.columns names {' and '.join(named)}, which do not belong together: a row has {known}"
        )
    return tuple(shape.renamed(named) for shape in shapes)


def as_conversation(source: str, target: str) -> Conversation:
    """Converts a pair to a conversation; the instruction comes from the codec, like any system message."""
    return Conversation(({"role": "user", "content": source}, {"role": "assistant", "content": target}))


def in_columns(file: DataFile, task: Chat) -> DataFile:
    """Sets the task's two columns on a file of a format without columns."""
    if isinstance(task, Translation) and isinstance(file.reader, Po | Tmx):
        return replace(file, reader=replace(file.reader, columns=(task.source, task.target)))
    return file
