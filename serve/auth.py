"""API keys: a file with one a line. Without a file the server answers everybody who can reach it."""

from __future__ import annotations

import hmac
from pathlib import Path

from ptune.errors import RequestError, UsageError


class ApiKeys:
    """The keys that are let in; none at all means that no key is asked for."""

    def __init__(self, keys: tuple[str, ...] = ()) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def first(self) -> str | None:
        """A key for the server's own chat page."""
        return self._keys[0].decode() if self._keys else None

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Reads one key a line; blank lines and lines that begin with # are skipped.

        Raises: UsageError where the file cannot be read or holds no key: an empty file must not open the door.
        """
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the API keys: {error}") from None
        keys = tuple(line for line in lines if line and not line.startswith("#"))
        if not keys:
            raise UsageError(f"{path} holds no API key: write one a line")
        return cls(keys)

    def check(self, authorization: str | None) -> None:
        """Compares an `Authorization: Bearer KEY` header in constant time. Raises: RequestError(401)."""
        if not self._keys:
            return
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise RequestError(
                "send a key as `Authorization: Bearer KEY`", code="missing_api_key", status=401
            )
        # Each key is compared, so that the time does not tell which one was close.
        matches = [hmac.compare_digest(given.strip().encode("latin-1"), key) for key in self._keys]
        if not any(matches):
            raise RequestError("this API key is not known here", code="invalid_api_key", status=401)
