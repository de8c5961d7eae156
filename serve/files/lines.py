"""The lines of a batch's input: one request each, as {"custom_id", "method": "POST", "url", "body"}."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import ConfigDict, Field, ValidationError

from ptune.errors import RequestError

from ..fields.message import Body, Text
from ..http.errors import invalid

MAX_LINES = 50_000
"""Of one batch, as at OpenAI."""
_BOM = b"\xef\xbb\xbf"


class LineBody(Body):
    """What a line holds."""

    model_config = ConfigDict(extra="forbid")

    custom_id: Annotated[Text, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A request. number: of its line, from 1 on."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]


class LineError(RequestError):
    """A line that is no request. number: of the line, from 1 on."""

    def __init__(
        self, number: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(f"line {number}: {message}", param=param, code=code)
        self.number = number


class InputLines:
    """Reads the lines of a file for one server. endpoints: what a line may ask. limit_bytes: of a line's length."""

    def __init__(self, endpoints: Collection[str], limit_bytes: int) -> None:
        self.endpoints = endpoints
        self._limit_bytes = limit_bytes

    def read(self, file: BinaryIO) -> Iterator[Line | LineError]:
        """Each line as a request, or what is wrong with it. Empty lines are passed over."""
        number = 0
        while raw := file.readline(self._limit_bytes + 2):
            number += 1
            if len(raw) > self._limit_bytes + 1 or (len(raw) > self._limit_bytes and raw[-1:] != b"\n"):
                yield LineError(number, f"it is over {self._limit_bytes} bytes", code="line_too_large")
                return
            line = _line(number, raw)
            if isinstance(line, Line) and line.url not in self.endpoints:
                known = ", ".join(sorted(self.endpoints))
                message = f"url {line.url[:60]!r} is not one that batches are for here: {known}"
                line = LineError(number, message, param="url", code="invalid_url")
            if line is not None:
                yield line

    def check(self, file: BinaryIO) -> None:
        """Checks a whole file. Raises: RequestError(400) that names the first line which cannot be used."""
        seen: dict[str, int] = {}
        for line in self.read(file):
            if isinstance(line, LineError):
                raise line
            first = seen.setdefault(line.custom_id, line.number)
            if first != line.number:
                message = f"custom_id {line.custom_id[:40]!r} is that of line {first}; each line needs one of its own"
                raise LineError(line.number, message, param="custom_id", code="duplicate_custom_id")
            if len(seen) > MAX_LINES:
                message = f"a batch has at most {MAX_LINES} requests; send several files"
                raise LineError(line.number, message, param="file", code="too_many_requests")
        if not seen:
            message = "the file is empty; write one JSON object a line: custom_id, method, url, body"
            raise RequestError(message, param="file", code="empty_file")


def read_again(file: BinaryIO) -> Iterator[Line]:
    """The requests of a file that was checked when its batch began, also those that this server would not take by now: it may
    have been started again with other models or limits, which then answer for themselves.
    """
    for number, raw in enumerate(file, 1):
        line = _line(number, raw)
        if isinstance(line, Line):
            yield line


def _line(number: int, raw: bytes) -> Line | LineError | None:
    """A line as a request, or what is wrong with it; None if it is empty."""
    if number == 1:
        raw = raw.removeprefix(_BOM)
    if not raw.strip():
        return None
    try:
        entry = LineBody.model_validate_json(raw)
    except ValidationError as error:
        told = invalid(error)
        message = str(told).replace("the body is not valid JSON", "not valid JSON")
        code = "invalid_json" if told.code == "invalid_json" else "invalid_value"
        return LineError(number, message.replace("the body:", "the line:"), param=told.param, code=code)
    if entry.body.get("stream"):
        return LineError(
            number, "a batch has no streams; leave stream out", param="body.stream", code="invalid_value"
        )
    return Line(number, entry.custom_id, entry.url, entry.body)


def json_line(entry: dict[str, Any]) -> bytes:
    """An object as a line. ASCII only: some clients split lines at U+2028 and similar characters, too."""
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"
