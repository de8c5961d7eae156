"""A copy of a data file without the rows that cannot be used, and with one of those that are the same."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ptune.codecs.messages import answers_to_train, normalise
from ptune.codecs.vision import is_image
from ptune.config.chat import Chat
from ptune.config.classification import TextClassification
from ptune.config.reinforcement import Reinforcement
from ptune.config.task_spec import TaskSpec
from ptune.data.label_splits import problem_asked
from ptune.data.read import DataFile, open_file, resolve
from ptune.data.readers.columns import ARROW_MAGIC, ARROW_STREAM_MAGIC, PARQUET_MAGIC
from ptune.data.readers.delimited import Delimited
from ptune.data.readers.hub import PREFIX as HUB
from ptune.data.readers.rows import Row
from ptune.data.readers.windows_1252 import converted
from ptune.data.shapes.by_task import shapes_of
from ptune.data.shapes.conversations import (
    Completion,
    Conversation,
    Convertible,
    Judged,
    Preferred,
    recognise,
)
from ptune.data.shapes.label_values import Known, kind_of_lists, labels_of
from ptune.data.shapes.labelled import LabelledFile, TextTask, open_labelled
from ptune.data.shapes.row_weights import weight_of
from ptune.data.shapes.translations import in_columns
from ptune.errors import DataError, TemplateError
from ptune.formats.whole_write import whole_file

Content: TypeAlias = Callable[[Row], Any]
"""What is learned from a row, comparable by its JSON. Raises: DataError if the row cannot be used."""


@dataclass(frozen=True)
class Cleaned:
    """What became of a file's rows, in numbers."""

    file: str
    copy: str
    kept: int
    unusable: int
    copies: int
    encoding: str = "UTF-8"  # of the file; the copy is UTF-8

    def described(self) -> dict[str, Any]:
        """In JSON types."""
        return asdict(self)


def write_clean_copies(paths: Sequence[Path], task: TaskSpec, folder: Path) -> list[Cleaned]:
    """Writes a clean copy of each file into a folder: none in the place of one of the files, or of another's copy."""
    made, taken = list[Cleaned](), {path.resolve() for path in paths}
    for path in paths:
        made.append(write_clean(path, task, folder, taken))
        taken.add(Path(made[-1].copy).resolve())
    return made


def write_clean(path: Path, task: TaskSpec, folder: Path, taken: Collection[Path] = ()) -> Cleaned:
    """Writes the usable rows of a file into a folder; of rows that teach the same, the first.

    CSV and TSV stay what they are, with their columns and delimiter, as NAME.clean.csv; all else becomes NAME.clean.jsonl. Where
    that place is `taken`, NAME.clean-2.csv, and so on.

    A file in Windows-1252 is read as such, where that is sure.

    Raises: DataError if the file as a whole cannot be used, has no usable row, or holds what JSONL cannot.
    """
    with tempfile.TemporaryDirectory(prefix="ptune-") as place:
        source = _in_utf_8(path, Path(place))
        if source is None:
            return _written(path, path, task, folder, taken)
        try:
            made = _written(source, path, task, folder, taken)
        except DataError as error:
            raise DataError(str(error).replace(str(source), str(path))) from None
        return replace(made, encoding="Windows-1252")


def _in_utf_8(path: Path, place: Path) -> Path | None:
    """A copy of a text in Windows-1252; None of other files. A pipe can be read only once, and the hub not here."""
    if str(path).startswith(HUB) or not (file := resolve(path)).is_file():
        return None
    with file.open("rb") as opened:
        head = opened.read(len(ARROW_STREAM_MAGIC) + len(ARROW_MAGIC))
    binary = head.startswith((PARQUET_MAGIC, ARROW_MAGIC, ARROW_STREAM_MAGIC))
    return None if binary else converted(file, place)


def _written(source: Path, path: Path, task: TaskSpec, folder: Path, taken: Collection[Path]) -> Cleaned:
    """Writes the usable rows of a source. path: the user's name for it."""
    file, content = _opened(source, task)
    delimited = file.reader if isinstance(file.reader, Delimited) else None
    suffix = ".jsonl" if delimited is None else f".{delimited.suffix}"
    stem = f"{path.stem.replace(':', '-')}.clean"
    names = (f"{stem}{'' if at == 1 else f'-{at}'}{suffix}" for at in itertools.count(1))
    target = next(folder / name for name in names if (folder / name).resolve() not in taken)
    seen, kept, unusable, copies, problems = set[bytes](), 0, 0, 0, file.problems()
    with whole_file(target) as part, part.open("wb") as out:
        for row in file.rows(problems):
            try:
                learned = _hash(content(row))
            except DataError:
                unusable += 1
                continue
            if learned in seen:
                copies += 1
                continue
            seen.add(learned)
            out.write(_line(row, path) if delimited is None else delimited.lines(row, header=not kept))
            kept += 1
        if not kept:
            raise DataError("has no row that can be used: there is nothing to copy", file=str(path))
    return Cleaned(str(path), str(target), kept, problems.count + unusable, copies)


def _opened(path: Path, task: TaskSpec) -> tuple[DataFile, Content]:
    """A file, and what its rows teach."""
    if isinstance(task, TextTask):
        labelled = open_labelled(path, task)
        if isinstance(task, TextClassification) and kind_of_lists(labelled.written) == "flags":
            labelled = labelled.with_flags_read()
        rows = _labelled_rows(labelled, task)

        def written(row: Row) -> Any:
            if row.number in rows:
                return rows[row.number]
            if weight_of(row.value, labelled.weights.column, text=labelled.file.text_only) == 0:
                return row.value  # left out of training as its writer wanted; it stays
            raise DataError("it cannot be used")

        return labelled.file, written
    if not isinstance(task, Chat) or isinstance(task, Reinforcement):
        raise DataError(
            f"a clean copy is for chat, preferences, translation, and texts, words and steps with labels, not for {type(task).__name__}"
        )
    file = in_columns(open_file(path), task)
    shape = recognise(dict.fromkeys(_columns(file)), shapes_of(task))

    def taught(row: Row) -> Any:
        counts = shape.weight_of(row.value, text=file.text_only) > 0  # one that does not stands for no other
        conversation = _taught(shape.converted(row.value))
        if counts:
            _check_messages(conversation, task)
        return counts, asdict(conversation)

    return file, taught


def _taught(conversation: Convertible) -> Convertible:
    """The conversation. Raises: DataError if it has an empty answer or two equal ones, which doctor calls errors."""
    answered: object = conversation
    if isinstance(conversation, Preferred):
        if conversation.chosen == conversation.rejected:
            raise DataError("chosen and rejected are the same answer")
        answered = conversation.chosen
    elif isinstance(conversation, Judged):
        answered = conversation.answered if conversation.desirable else None
    if isinstance(answered, Completion) and answered.question and not answered.answer.strip():
        raise DataError("has an empty answer")
    for message in answered.messages if isinstance(answered, Conversation) else ():
        learned = message.get("role") == "assistant" and message.get("train", True)
        content = message.get("content") or ""
        if learned and not message.get("tool_calls") and isinstance(content, str) and not content.strip():
            raise DataError("has an empty answer")
    return conversation


def _check_messages(conversation: Convertible, task: Chat) -> None:
    """Raises: DataError for what training refuses whatever the model is: a malformed message, and nothing to learn."""
    sides = (
        (conversation.chosen, conversation.rejected)
        if isinstance(conversation, Preferred)
        else (conversation.answered if isinstance(conversation, Judged) else conversation,)
    )
    for side in sides:
        if not isinstance(side, Conversation) or any(map(_pictured, side.messages)):
            continue
        try:
            normalise(side.messages)
            learned = answers_to_train(side.messages, task.train_on)
        except TemplateError as error:
            raise DataError(str(error)) from None
        if not any(index > 0 or task.system for index in learned):
            raise DataError("nothing to train on")


def _pictured(message: Any) -> bool:
    """Whether a message holds images, which are checked when they are read."""
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(is_image(part) for part in content)


def _labelled_rows(file: LabelledFile, task: TextTask) -> dict[int, Any]:
    """What each row teaches, by its number; rows whose label is empty or unknown are missing, as training refuses them."""
    if not file.rows:
        return {}
    known = Known(
        labels_of(file.written, problem_asked(task, file.written), task.labels), named=bool(task.labels)
    )
    return {number: (row.input, row.label) for row, number in file.looked_up(known)}


def _columns(file: DataFile) -> Iterator[str]:
    problems, known = file.problems(), set[str]()
    for row in file.rows(problems):
        new: Sequence[str] = [name for name in row.value if name not in known]
        known.update(new)
        yield from new
    if not known:
        problems.raise_if_any(problems.count)
        raise DataError("the file holds no rows", file=str(file.path))


def _hash(content: Any) -> bytes:
    return hashlib.blake2b(
        json.dumps(content, sort_keys=True, default=str).encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def _line(row: Row, path: Path) -> bytes:
    try:
        return json.dumps(row.value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise DataError(f"row {row.number} holds what JSONL cannot: {error}", file=str(path)) from None
