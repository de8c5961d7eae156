"""Pairs of answers as texts, for models that read a prompt and an answer together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from ptune.config.columns import RewardColumns
from ptune.config.recipe import Data
from ptune.data.read import open_file
from ptune.data.shapes.by_task import with_columns
from ptune.data.shapes.conversations import Askable, Completion, Preferred, recognise
from ptune.data.shapes.named_columns import names_in
from ptune.data.shapes.pairs import Pair, PairFile, PairSplits, checked_text, read_splits
from ptune.data.shapes.preferences import PREFERENCES
from ptune.errors import DataError

MARGIN = "margin"


@dataclass(frozen=True)
class RewardPair(Pair):
    """A prompt, its better answer, and its worse one as the only negative. margin: by how much it is better."""

    margin: float = 0.0

    @property
    def answers(self) -> tuple[str, str]:
        """The better answer and the worse one."""
        return self.positive, self.negatives[0]


def read_reward_splits(data: Data, seed: int, named: RewardColumns) -> PairSplits:
    """Reads a recipe's files, whose rows become `RewardPair`s; rows of one prompt stay together. Raises: DataError."""
    return read_splits(
        data,
        seed,
        lambda path: open_rewards(path, named),
        "of chosen and rejected",
        "sample:bierce_pairs.train",
    )


def reward_rows(splits: PairSplits, split: str) -> list[RewardPair]:
    """The rows of a split."""
    return [row for row in splits.rows[split] if isinstance(row, RewardPair)]


def open_rewards(path: Path, named: RewardColumns) -> PairFile:
    """Reads a file of pairs of answers in any of their shapes. Raises: DataError if it cannot be read as a whole."""
    file = open_file(path)
    problems = file.problems()
    rows = list(file.rows(problems))
    if not rows:
        problems.raise_if_any(problems.count)
        raise DataError("the file holds no rows", file=str(path))
    columns = names_in([row.value for row in rows])
    own = {column: name for column, name in named.named.items() if column != MARGIN}
    try:
        shape = recognise(columns, with_columns(PREFERENCES, own))
    except DataError as error:
        raise DataError(str(error), file=str(path)) from None
    margin = named.margin or MARGIN
    pairs = PairFile(file, problems, tuple(name for name in shape.unread(columns) if name != margin))
    for row in rows:
        try:
            found = shape.converted(row.value)
            assert isinstance(found, Preferred)
            asked, better = texts_of(found.chosen)
            worse = texts_of(found.rejected)[1]
            texts = (("the prompt", asked), ("chosen", better), ("rejected", worse))
            asked, better, worse = (checked_text(text, name) for name, text in texts)
            by = _margin(row.value.get(margin), margin)
            pairs.rows.append(RewardPair(asked, better, (worse,), row.number, pairs, by))
        except DataError as error:
            problems.add(row.number, str(error))
    return pairs


def texts_of(conversation: Askable) -> tuple[str, str]:
    """The prompt and the answer: of one message its text, of several each after its role."""
    if isinstance(conversation, Completion):
        return conversation.question, conversation.answer
    messages = conversation.messages
    asked = list(takewhile(lambda message: message.get("train") is False, messages))
    return _joined(asked, "user"), _joined(messages[len(asked) :], "assistant")


def prompt_text(conversation: Askable) -> str:
    """The prompt of a conversation's last answer, as a reward model reads it."""
    if isinstance(conversation, Completion):
        return conversation.question
    return _joined(conversation.before_answer, "user")


def _joined(messages: Any, usual: str) -> str:
    if len(messages) == 1 and messages[0].get("role") == usual:
        return _content(messages[0])
    return "\n\n".join(f"{message.get('role')}: {_content(message)}" for message in messages)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    calls = message.get("tool_calls")
    parts = [
        content if isinstance(content, str) else "",
        json.dumps(calls, ensure_ascii=False) if calls else "",
    ]
    return "\n".join(filter(None, parts))


def _margin(value: Any, column: str) -> float:
    """A cell's number, 0 where there is none. Raises: DataError."""
    if value is None or value == "":
        return 0.0
    try:
        margin = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        margin = math.nan
    if not math.isfinite(margin):
        raise DataError(f"{column} is {value!r}: it must be a number")
    return margin
