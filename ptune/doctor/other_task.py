"""Data that is read as conversations, and looks as if another task was meant."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.config.chat import Chat
from ptune.data.problems import Problems
from ptune.data.read import reader_of
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import RAW_TEXT, recognise
from ptune.data.shapes.named_columns import names_in
from ptune.doctor.finding import Finding, Place, Rule
from ptune.errors import DataError

LABELS = ("label", "labels", "class", "category", "sentiment", "intent")
RECIPE = "sentiment_lora"
_LOOKED_AT = 100  # rows


def looks_like_classification(task: Chat, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Texts with labels, read as raw text: the texts are learnt by heart, and the labels not at all."""
    columns = names_in(rows)
    try:
        shape = recognise(columns, shapes_of(task))
    except DataError:
        return None  # the reader says so
    label = next((name for name in shape.unread(columns) if name.casefold() in LABELS), None)
    if shape.name != RAW_TEXT or label is None:
        return None
    named = "" if label in ("label", "labels") else f" --task.columns.label {label}"
    return (
        f"looks like classification: the texts alone would be learnt, without the column {label!r};"
        f" to learn a label for a text, train {RECIPE}{named}"
    )


RULES = (Rule("looks-like-classification", "warning", looks_like_classification),)


def of_file(path: Path, task: Chat) -> Iterator[Finding]:
    """Findings on a file's first rows. None for files that cannot be read, which the reader reports."""
    with contextlib.suppress(DataError, OSError):
        reader = reader_of(path)
        if reader is None:
            return
        read = itertools.islice(reader.rows(Problems(str(path), reader.unit)), _LOOKED_AT)
        rows = [row.value for row in read]
        for rule in RULES:
            message = rule.check(task, rows) if rows else None
            if message is not None:
                yield Finding(rule.id, rule.severity, message, Place(str(path)))
