"""Prompts to be answered, and the columns of their rows that rewards are computed from."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.recipe import Data
from ptune.config.reinforcement import Reinforcement
from ptune.data.read import open_file
from ptune.data.shapes.conversations import (
    Row,
    Shape,
    alpaca_prompt,
    led,
    messages_of,
    tools_of,
)
from ptune.data.shapes.json_text import messages_or_text, objects_of
from ptune.data.shapes.sharegpt import turn_of
from ptune.data.source import Source, hold_out, open_source
from ptune.errors import DataError, TemplateError
from ptune.progress import say

ANSWER = "answer"
"""The column of an answer that a conversation ends with."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Asked:
    """A prompt, and the row's other columns."""

    prompt: str | tuple[Row, ...]  # a text to be continued, or messages
    tools: tuple[Row, ...] | None = None
    columns: Row = field(default_factory=dict)

    def ids(self, codec: ChatCodec) -> list[int]:
        """Tokens of the prompt. Raises: TemplateError."""
        if isinstance(self.prompt, str):
            return codec.encode_text(self.prompt)
        return codec.encode_prompt(self.prompt, tools=self.tools)

    @property
    def question(self) -> str:
        """The prompt's text, or its last message's."""
        return self.prompt if isinstance(self.prompt, str) else str(self.prompt[-1].get("content") or "")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of a split. Its number and those of its tokens decide how its answers are sampled."""

    ids: tuple[int, ...]
    asked: Asked
    number: int  # in its split
    place: str  # file and row

    def __len__(self) -> int:
        return len(self.ids)

    def with_columns(self, names: Iterable[str]) -> Prompt:
        """With all of these columns: None for those that its row does not have."""
        columns = {name: self.asked.columns.get(name) for name in names}
        return replace(self, asked=replace(self.asked, columns=columns))

    @property
    def example(self) -> Example:
        """The prompt alone, all of whose tokens are targets: what exports and saved weights are compared on."""
        return Example(self.ids, (False, *[True] * (len(self) - 1)))


@dataclass
class PromptSplit:
    """The prompts of one split, and what became of the others."""

    prompts: list[Prompt] = field(default_factory=list)
    rows: int = 0
    overlong: list[tuple[int, str]] = field(default_factory=list)  # tokens and place

    @property
    def columns(self) -> list[str]:
        """Names of the columns that rewards are given."""
        return [*dict.fromkeys(name for prompt in self.prompts for name in prompt.asked.columns)]

    def described(self) -> dict[str, Any]:
        """The split for data.json; `sha256` is over the tokens."""
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(array("q", [len(prompt), *prompt.ids]).tobytes())
        return {
            "rows": self.rows,
            "examples": len(self.prompts),
            "tokens": sum(map(len, self.prompts)),
            "overlong": len(self.overlong),
            "sha256": digest.hexdigest(),
        }


@dataclass(frozen=True)
class PromptData:
    """See `ptune.training.work.TaskData`; its examples are prompts, all in memory."""

    splits: dict[str, PromptSplit]
    parts: tuple[int, ...]
    summary: dict[str, Any]

    @property
    def train(self) -> Sequence[Prompt]:
        return self.splits["train"].prompts

    @property
    def validation(self) -> Sequence[Prompt]:
        return self.splits["validation"].prompts

    @property
    def test(self) -> Sequence[Prompt]:
        return self.splits["test"].prompts


def read_prompts(data: Data, task: Reinforcement, codec: ChatCodec, seed: int) -> PromptData:
    """Reads a recipe's prompts. Without validation files a share of the training rows is held out.

    Raises: DataError that names file and line of unusable rows.
    """
    if not data.files:
        raise DataError("no prompts: pass --data.files PATH, for example --data.files sample:sums.train")
    named = {"train": data.files, "validation": data.validation, "test": data.test}
    holds_out, shapes = not data.validation, prompt_shapes(task)
    sources = [
        (split, open_source(open_file(path), seed if split == "train" and holds_out else None, shapes))
        for split, paths in named.items()
        for path in paths
    ]
    for _, source in sources:
        say(f"{source.file.path}: {source.shape.name}, {source.row_count} rows ({source.file.reader.format})")
    ranks = [np.frombuffer(source.ranks, np.uint64) for split, source in sources if split == "train"]
    held = iter(hold_out(np.concatenate(ranks), data.validation_share) if holds_out else ())
    splits = {name: PromptSplit() for name in SPLITS}
    described = []
    for name, source in sources:
        before = len(splits[name].prompts)
        for asked, place in _read(source):
            aside = name == "train" and holds_out and bool(next(held))
            split = splits["validation"] if aside else splits[name]
            if name != "train" or aside or data.limit is None or split.rows < data.limit:
                _add(split, asked, place, task, codec)
        counts = {"examples": len(splits[name].prompts) - before}
        described.append({"split": name, **source.described(), **counts})
    _refuse(splits, task)
    for names in (("train", "validation"), ("test",)) if holds_out else ((name,) for name in SPLITS):
        _give_all_columns([splits[name] for name in names])
    summary = {
        "files": described,
        "validation_share": data.validation_share if holds_out else None,
        "longest_tokens": task.prompt_tokens,
        "on_overlong": task.on_overlong,
        **{name: split.described() for name, split in splits.items()},
    }
    parts = tuple(file["examples"] for file in described if file["split"] == "train")
    return PromptData(splits, parts, summary)


def prompt_shapes(task: Reinforcement) -> tuple[Shape, ...]:
    """The possible shapes of rows. Columns that a shape does not name go to the rewards."""
    named = task.columns.prompt
    if named is not None:
        return (_shape("prompts", named, lambda row: _prompted(row, named)),)
    return (
        _shape("OpenAI messages", "messages", _messages),
        _shape("ShareGPT", "conversations", _sharegpt),
        _shape("prompts", "prompt", lambda row: _prompted(row, "prompt")),
        _shape("questions", "question", lambda row: _prompted(row, "question", asks=True)),
        _shape("Alpaca", "instruction", lambda row: _asked(row, alpaca_prompt(row), _ALPACA)),
    )


_ALPACA = ("instruction", "input", "history", "system")


def _shape(name: str, column: str, convert: Any) -> Shape:
    # A shape is one of conversations elsewhere; its reader hands on whatever `convert` makes.
    return Shape(name, (column,), convert)


def _messages(row: Row) -> Asked:
    return _asked(row, led(row, objects_of(row["messages"], "messages")), ("messages", "tools", "system"))


def _sharegpt(row: Row) -> Asked:
    turns = objects_of(row["conversations"], "conversations")
    messages = [turn_of(turn, f"conversations[{index}]") for index, turn in enumerate(turns)]
    return _asked(row, led(row, messages), ("conversations", "tools", "system"))


def _prompted(row: Row, column: str, *, asks: bool = False) -> Asked:
    """asks: whether a text is a user's message; else it is continued as it is."""
    prompt, read = messages_or_text(row[column], column), (column, "tools", "system")
    if not isinstance(prompt, str):
        return _asked(row, led(row, objects_of(prompt, column)), read)
    if asks:
        return _asked(row, led(row, [{"role": "user", "content": prompt}]), read)
    if not prompt:
        raise DataError(f"{column} is empty")
    return Asked(prompt, None, {name: value for name, value in row.items() if name != column})


def _asked(row: Row, messages: list[Row], read: Sequence[str]) -> Asked:
    """A prompt of messages. An answer that they end with is no part of it, but a column, if there is none of that name."""
    found = list(messages_of(messages, "messages"))
    columns = {name: value for name, value in row.items() if name not in read}
    if found and found[-1].get("role") == "assistant":
        columns = {ANSWER: str(found.pop().get("content") or ""), **columns}
    if not found:
        raise DataError("has no message to answer")
    return Asked(tuple(found), tools_of(row), columns)


def _read(source: Source) -> Iterator[tuple[Asked, str]]:
    """Raises: DataError for the rows of a file that cannot be used, all at once."""
    problems = source.file.problems()
    for sample in source.samples(problems):
        yield cast(Asked, sample.conversation), sample.place
    problems.raise_if_any(source.row_count)


def _add(split: PromptSplit, asked: Asked, place: str, task: Reinforcement, codec: ChatCodec) -> None:
    split.rows += 1
    try:
        ids = asked.ids(codec)
    except TemplateError as error:
        raise DataError(f"{place}: {error}") from None
    if len(ids) > min(task.prompt_tokens, (codec.context or task.max_length) - task.answer_tokens):
        split.overlong.append((len(ids), place))
        return
    split.prompts.append(Prompt(tuple(ids), asked, len(split.prompts), place))


def _give_all_columns(splits: Sequence[PromptSplit]) -> None:
    """To rows of the same files: a reward is called with some of them, and none is to lack a column that others have."""
    names = dict.fromkeys(name for split in splits for name in split.columns)
    for split in splits:
        split.prompts = [prompt.with_columns(names) for prompt in split.prompts]


def _refuse(splits: dict[str, PromptSplit], task: Reinforcement) -> None:
    """Raises: DataError for prompts that are too long, unless the recipe drops them, and for a split that none is left of."""
    overlong = [one for split in splits.values() for one in split.overlong]
    if overlong and task.on_overlong == "error":
        length, place = max(overlong)
        raise DataError(
            f"{len(overlong)} of {sum(split.rows for split in splits.values())} prompts have more than {task.prompt_tokens}"
            f" tokens (longest {length}, {place}), which is what task.answer_tokens leaves of task.max_length; use"
            " --task.on-overlong drop, or raise --task.max-length up to the model's context"
        )
    for name, split in splits.items():
        if split.rows and not split.prompts:
            raise DataError(f"no {name} prompt is left: all have more than {task.prompt_tokens} tokens")
