"""Which task a file's rows are for, and which columns it means where they have names of their own.

All ways to begin ask here, so that they agree: `ptune init`, and the studio's first look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.begin.recognise import fits, likely_task
from ptune.begin.starts import Word
from ptune.data.shapes.named_columns import proposed

LONGEST_LABEL = 40  # characters
_USUAL: Mapping[Word, tuple[str, ...]] = {
    "chat": ("prompt", "completion"),
    "classify": ("text", "label"),
    "tag": ("tokens", "tags"),
    "embed": ("anchor", "positive"),
    "rerank": ("anchor", "positive"),
    "translate": ("source", "target"),
    "preferences": ("prompt", "chosen", "rejected"),
    "thumbs": ("prompt", "completion", "label"),
    "rewards": ("prompt", "chosen", "rejected"),
}


_ASKED, _ANSWERED = "question", "answer"


def task_meant(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Word | None:
    """The task that a file is most likely for; None where it has to be asked for."""
    task = likely_task(path, columns)
    if task is None and label_and_text(rows, columns) is not None:
        return "classify"
    if task == "embed" and {_ASKED, _ANSWERED}.issubset(columns):
        return "chat"  # such pairs are for search, too, but mostly meant to be answered
    return task


def columns_known(word: Word, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """The names in the file of a task's columns, where names or values leave no doubt; else empty, as where they are the
    usual ones."""
    if fits(word, columns):
        return {}
    if word == "chat" and {_ASKED, _ANSWERED}.issubset(columns):
        return {"prompt": _ASKED, "completion": _ANSWERED}
    return (label_and_text(rows, columns) or {}) if word == "classify" else {}


def columns_meant(word: Word, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str]:
    """The same, or a guess for somebody to correct; empty where they are the usual ones, or that cannot be told."""
    if word not in _USUAL or fits(word, columns):
        return {}
    return columns_known(word, rows, columns) or proposed(_USUAL[word], rows)


def label_and_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, str] | None:
    """Which column is a text's label and which the text, by their values: labels are short and recur, and the text is what is
    longest and does not. None where that cannot be told."""
    labels, text = recurring(rows, columns), longest(rows, columns)
    return None if len(labels) != 1 or text is None else {"text": text, "label": labels[0]}


def recurring(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """The columns that may be labels: their values are few and short."""
    return [column for column in columns if _recurs([row.get(column) for row in rows])]


def longest(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str | None:
    """The column with the longest texts among those that cannot be labels; None without one."""
    labels = recurring(rows, columns)
    lengths = {
        column: sum(len(value) for row in rows if isinstance(value := row.get(column), str))
        for column in columns
        if column not in labels
    }
    text = max(lengths, key=lambda column: lengths[column], default=None)
    return text if text is not None and lengths[text] else None


def _recurs(values: Sequence[Any]) -> bool:
    """Whether values are few and short; empty cells, which doctor reports, say nothing."""
    filled = [value for value in values if value is not None and value != ""]
    plain = [value for value in filled if isinstance(value, str | int)]
    if len(plain) < len(filled) or any(len(str(value)) > LONGEST_LABEL for value in plain):
        return False
    distinct = len(set(plain))
    return 2 <= distinct < len(plain) >= len(values) / 2 and distinct <= max(2, len(plain) // 3)
