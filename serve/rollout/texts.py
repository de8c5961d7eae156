"""Held-out texts: a JSONL file of conversations in any shape that `ptune train` reads, below the root that the operator allows."""

from __future__ import annotations

import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path

from ptune.data.readers.jsonl import parse
from ptune.data.readers.rows import BYTE_ORDER_MARK
from ptune.data.shapes.conversations import Convertible, recognise
from ptune.errors import DataError, RequestError

MOST_BYTES = 32 * 2**20
MOST_TEXTS = 10_000
MOST_TOLD = 400  # characters of what is wrong with a line
PARAM = "canary.decide.loss.texts"


@dataclass(frozen=True)
class Text:
    """A line of the file, from 1 on. It is parsed when it is needed: parsed, a file takes several times its memory."""

    number: int
    raw: bytes

    def conversation(self) -> Convertible:
        """Raises: RequestError(400) that names the line."""
        try:
            value = parse(self.raw, 0)
            if not isinstance(value, dict):
                raise DataError(f"not a JSON object but {type(value).__name__}")
            return recognise(value).converted(value)
        except DataError as error:
            raise self.unusable(str(error)) from None

    def unusable(self, reason: str) -> RequestError:
        """The error for a text that cannot be compared. reason: told in one line, and not all of it if it is long."""
        readable = reason.encode(errors="replace").decode()  # JSON may spell halves of characters
        return wrong(f"line {self.number}: {textwrap.shorten(readable, MOST_TOLD, placeholder=' …')}")


def read_texts(root: Path | None, path: str) -> list[Text]:
    """The texts of a file, in an order that only their contents decide, so that no part of the file comes first.

    Raises: RequestError: 403 if the file is not below the root; 400 if it holds no text, 413 if it holds too many.
    """
    if root is None:
        raise _forbidden("this server has no --adapter-root, below which texts would have to lie")
    top = root.resolve()
    try:
        file = (top / path).resolve(strict=True)
        if not file.is_relative_to(top) or not file.is_file():
            raise OSError
        with file.open("rb") as opened:
            raw = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError, RuntimeError):  # not there or not readable; has a NUL; links in a circle
        raise _forbidden("must name a file below this server's --adapter-root") from None
    if len(raw) > MOST_BYTES:
        raise _too_large(f"the file is over {MOST_BYTES // 2**20} MB")
    lines = raw.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    texts = [Text(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise wrong("the file is empty; write one conversation a line")
    if len(texts) > MOST_TEXTS:
        raise _too_large(f"the file has {len(texts)} lines, and at most {MOST_TEXTS} texts are compared")
    return sorted(texts, key=lambda text: hashlib.sha256(text.raw).digest())


def wrong(message: str) -> RequestError:
    """The error for a file of texts that cannot be used."""
    return RequestError(f"{PARAM}: {message}", param=PARAM, code="invalid_texts")


def _too_large(message: str) -> RequestError:
    return RequestError(f"{PARAM}: {message}", param=PARAM, code="texts_too_large", status=413)


def _forbidden(message: str) -> RequestError:
    return RequestError(f"{PARAM}: {message}", param=PARAM, code="forbidden_path", status=403)
