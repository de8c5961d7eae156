"""Images in a chat: what stands for one in a prompt, and where its features go. Torch-free: shared by training and serving.

A model that sees turns an image into a few rows of features, which take the place of embeddings. In ptune's tokens each of
these rows has a number of its own, from FIRST_ROW on: a table says what is in it. So an example, a prompt and the cache of
prefixes hold text and images as one list of numbers, and two images never have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from ptune.codecs.example import Example
from ptune.codecs.image import Preprocessing
from ptune.errors import TemplateError

FIRST_ROW = 1 << 30
"""Tokens from here on are rows of images: no vocabulary is as large."""
KINDS = ("image", "image_url")
"""Types of the parts of a message that are images: transformers' and OpenAI's."""
ROW = "first_row"
"""Key of an image part: the token of its first row."""


class Vision(BaseModel):
    """How a model's prompts show an image. Every image has as many rows as any other."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    preprocessing: Preprocessing
    token: int  # what the chat template writes for an image
    written: tuple[int, ...]  # what the model reads in its place, with `token` for each row
    tiled: bool = (
        False  # whether the model takes images as [images, tiles, 3, height, width], with one tile each
    )

    @property
    def rows(self) -> int:
        """Rows of features of an image."""
        return self.written.count(self.token)

    def prompt(self, ids: Sequence[int], first_rows: Sequence[int]) -> list[int]:
        """A prompt with its images written out. Raises: TemplateError if the template does not show each once."""
        self._check(ids, len(first_rows))
        return self._spread(ids, first_rows)[0]

    def examples(self, examples: Sequence[Example], first_rows: Sequence[int]) -> list[Example]:
        """The examples of a conversation, the longest last, with their images written out.

        first_rows: of the images before the last answer. Raises: TemplateError if the template does not show each once.
        """
        self._check(examples[-1].ids, len(first_rows))
        seen = []
        for example in examples:
            if example.ids.count(self.token) > len(first_rows):  # shown once, and left out where more follows
                self._check(example.ids, len(first_rows))
            ids, places = self._spread(example.ids, first_rows)
            seen.append(Example(tuple(ids), tuple(example.targets[place] for place in places)))
        return seen

    def plain(self, ids: Sequence[int]) -> list[int]:
        """The tokens as transformers has them, where every row of every image is the same token."""
        return [self.token if token >= FIRST_ROW else token for token in ids]

    def _spread(self, ids: Sequence[int], first_rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Tokens with each image written out, and for each of them its index in `ids`.

        first_rows: the token of the first row of each image, in order; those behind the last one shown are not used.
        """
        spread: list[int] = []
        places: list[int] = []
        images = iter(first_rows)
        for place, token in enumerate(ids):
            written = [token]
            if token == self.token:
                first = next(images)
                rows = iter(range(first, first + self.rows))
                written = [next(rows) if one == self.token else one for one in self.written]
            spread += written
            places += [place] * len(written)
        return spread, places

    def _check(self, ids: Sequence[int], count: int) -> None:
        shown = sum(token == self.token for token in ids)
        if shown != count:
            raise TemplateError(
                f"the chat template shows {shown} of {count} images: use one that writes the model's token for images once for"
                " each part of type image (--task.template FILE)"
            )


def with_rows(
    messages: Sequence[Mapping[str, Any]], place: Callable[[Mapping[str, Any]], int]
) -> list[Mapping[str, Any]]:
    """Messages in which each part that is an image names its first row. place: a part -> that row.

    Whatever is malformed stays as it is, for `normalise` to refuse.
    """

    def placed(part: Any) -> Any:
        return {"type": "image", ROW: place(part)} if is_image(part) else part

    return [
        {**message, "content": [placed(part) for part in message["content"]]}
        if isinstance(message, Mapping) and isinstance(message.get("content"), list | tuple)
        else message
        for message in messages
    ]


def is_image(part: Any) -> bool:
    """Whether a part of a message is an image."""
    return isinstance(part, Mapping) and part.get("type") in KINDS


def has_images(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part of some message is an image."""
    return next(_images(messages), None) is not None


def first_rows(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The first row of each image of checked messages, in order."""
    return [part[ROW] for part in _images(messages)]


def _images(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        yield from filter(is_image, content if isinstance(content, list | tuple) else ())
