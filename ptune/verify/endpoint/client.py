"""An OpenAI-compatible endpoint that somebody else runs, asked carefully: its address is the user's, its answers are not trusted.

No redirect is followed, no proxy or password of the environment is used, every answer has a limit in seconds and in bytes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from ptune.errors import ParityError, UsageError

LARGEST = 8 << 20  # bytes of an answer
ANSWER_S, CONNECT_S, SILENT_S = 300.0, 10.0, 120.0


class RefusedError(ParityError):
    """The endpoint answered with a status that is not 200."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    """The server at `url`, with or without its /v1.

    key: sent as a bearer token. Raises: UsageError where `url` is no http address.
    """

    def __init__(self, url: str, key: str | None = None) -> None:
        try:
            parsed = httpx.URL(url.strip().rstrip("/"))
        except (httpx.InvalidURL, ValueError) as error:
            raise UsageError(f"--url {url!r} is not an address: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
            raise UsageError(f"--url {url!r} is not an address: expected e.g. http://127.0.0.1:8000/v1")
        self.url = str(parsed).rstrip("/").removesuffix("/v1")
        self._unknown: set[str] = set()  # extensions that this server refuses
        if key is not None and not (key.isascii() and key.isprintable()):
            raise UsageError("the key holds characters that a header cannot: is the variable the right one?")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
        timeout = httpx.Timeout(SILENT_S, connect=CONNECT_S)
        self._client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path below the address. Raises: RefusedError, ParityError."""
        return self._ask("GET", path, None)

    def post(
        self, path: str, body: Mapping[str, Any], extensions: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The answer to a JSON object. Raises: RefusedError, ParityError.

        extensions: fields that not every server knows; one that a server refuses by name is not sent to it again.
        """
        sent = {name: value for name, value in (extensions or {}).items() if name not in self._unknown}
        try:
            return self._ask("POST", path, {**body, **sent})
        except RefusedError as error:
            refused = {name for name in sent if error.status in (400, 422) and name in str(error)}
            if not refused:
                raise
            self._unknown |= refused
            return self.post(path, body, extensions)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        place, end_s = self.url + path, time.monotonic() + ANSWER_S
        text = bytearray()
        try:
            with self._client.stream(method, place, json=body) as response:
                for piece in response.iter_raw():
                    text += piece
                    if len(text) > LARGEST:
                        raise ParityError(f"{place} answers with more than {LARGEST:,} bytes")
                    if time.monotonic() > end_s:
                        raise ParityError(f"{place} gave no whole answer within {ANSWER_S:g} s")
        except httpx.HTTPError as error:
            raise ParityError(f"{place} gave no answer: {type(error).__name__}: {error}") from None
        if 300 <= response.status_code < 400:
            raise RefusedError(
                f"{place} redirects to {response.headers.get('location', '?')[:200]!r}, which is not followed: name that"
                " address with --url if it is the right one",
                response.status_code,
            )
        if response.status_code != 200:
            said = printable(text.decode(errors="replace"))[:300]
            raise RefusedError(f"{place} answered {response.status_code}: {said}", response.status_code)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ParityError(f"{place} answered something that is no JSON object")
        return value


def printable(text: str) -> str:
    """A server's words without what would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def log_prob(value: Any) -> float | None:
    """A log-probability as a server sent it; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return min(number, 0.0) if math.isfinite(number) and number <= 1e-3 else None
