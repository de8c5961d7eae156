"""Images in a column of their own beside a conversation, as TRL, LLaVA and LLaMA-Factory hold them.

`images` is a list of them, `image` one. They take the places that the questions keep for them, in order: parts
`{"type": "image"}` that name none, or marks `<image>` in the text. Without such places all stand before the first question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from ptune.errors import DataError

Row: TypeAlias = dict[str, Any]

COLUMNS = ("images", "image")
MARK = "<image>"


def pictured(row: Row, messages: Sequence[Row]) -> list[Row]:
    """The messages with the images of the row's own column in their places.

    Raises: DataError if the places are not as many as the images.
    """
    images = _images(row)
    if not images:
        return [*messages]
    places = sum(_places(message) for message in messages)
    if not places:
        return _before_the_first(images, messages)
    if places != len(images):
        column = next(name for name in COLUMNS if row.get(name))
        raise DataError(f"{column} holds {len(images)} images, and the questions have places for {places}")
    left = iter(images)
    return [
        {**message, "content": _filled(message["content"], left)} if _places(message) else message
        for message in messages
    ]


def _images(row: Row) -> list[Row]:
    """The row's images as parts. Raises: DataError for a column that holds something else."""
    column = next((name for name in COLUMNS if row.get(name)), None)
    if column is None:
        return []
    value = row[column]
    named = [*value] if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str | bytes | dict) for one in named):
        raise DataError(f"{column} must name images, by paths or as a data set holds them")
    return [{"type": "image", "image": one} for one in named]


def _before_the_first(images: Sequence[Row], messages: Sequence[Row]) -> list[Row]:
    first = next((at for at, message in enumerate(messages) if message.get("role") == "user"), None)
    if first is None:
        raise DataError("there are images, and no question that they could belong to")
    content = messages[first].get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [*(content or ())]
    return [*messages[:first], {**messages[first], "content": [*images, *parts]}, *messages[first + 1 :]]


def _places(message: Row) -> int:
    content = message.get("content")
    if message.get("role") != "user":
        return 0
    if isinstance(content, str):
        return content.count(MARK)
    return sum(_is_place(part) for part in content) if isinstance(content, list | tuple) else 0


def _is_place(part: Any) -> bool:
    """Whether a part is an image that names none."""
    empty = isinstance(part, dict) and part.get("type") == "image"
    return empty and not any(value for key, value in part.items() if key != "type")


def _filled(content: Any, images: Iterator[Row]) -> list[Any]:
    if not isinstance(content, str):
        return [next(images) if _is_place(part) else part for part in content]
    first, *others = content.split(MARK)
    parts: list[Any] = [{"type": "text", "text": first}] if first.strip() else []
    for text in others:
        parts.append(next(images))
        text = text.removeprefix("\n")  # which the chat template writes behind an image
        parts += [{"type": "text", "text": text}] if text.strip() else []
    return parts
