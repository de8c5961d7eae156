"""API keys, from a file that is read again when it changes. Without keys the server answers everybody."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ptune.errors import RequestError, UsageError

from .keys import ANYBODY, Key, KeyFile, Scope, plain, read
from .limits import Account, Clock, Meter

CHECK_INTERVAL_S = 1.0
"""Shortest time between two checks whether the file has changed."""

_log = logging.getLogger("ptune.serve")
_Fingerprint = tuple[int, int, int]


class ApiKeys:
    """The keys that are accepted, and what each has used. Without keys, every request is accepted."""

    def __init__(self, keys: Sequence[str | Key] = (), *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._file: Path | None = None
        self._fingerprint: _Fingerprint | None = None
        self._checked_s = clock()
        self._keys: tuple[Key, ...] = ()
        self._meters: dict[str, Meter] = {ANYBODY.name: Meter(ANYBODY, clock)}
        self._use(tuple(plain(key) if isinstance(key, str) else key for key in keys))

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def read(cls, path: Path, *, clock: Clock = time.monotonic) -> ApiKeys:
        """The keys of a file, in any format that `keys` describes. Raises: UsageError."""
        fingerprint = _fingerprint(path)  # before the content: a change in between is noticed later
        content = read(path)
        keys = cls(content.keys, clock=clock)
        keys._file, keys._fingerprint = path, fingerprint
        _warn(content)
        return keys

    def check(self, authorization: str | None) -> Key:
        """The key in an `Authorization: Bearer KEY` header. Raises: RequestError(401)."""
        self._reload_if_changed()
        if not self:
            return ANYBODY
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise RequestError(
                "send a key as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
                code="missing_api_key",
                status=401,
            )
        # All hashes are compared, so that the time reveals neither how close a guess is nor whose key it is.
        digest = hashlib.sha256(given.strip().encode("latin-1", "replace")).digest()
        matches = [key for key in self._keys if hmac.compare_digest(digest, key.digest)]
        if not matches:
            raise RequestError("this API key is not known here", code="invalid_api_key", status=401)
        return matches[0]

    def check_named(self, name: str) -> Key:
        """As `check`, for work that a key has left here. Raises: RequestError(401) if the key is no more."""
        self._reload_if_changed()
        if (key := self.named(name)) is None:
            raise RequestError(f"key {name!r} is no longer known here", code="invalid_api_key", status=401)
        return key

    def named(self, name: str) -> Key | None:
        """The key of this name; None if the file has lost it."""
        return next((key for key in self._keys or (ANYBODY,) if key.name == name), None)

    def meter(self, key: Key) -> Account:
        """The meter of a key."""
        return self._meters.get(key.name) or Meter(key, self._clock)  # the file may have lost it just now

    def reload(self) -> None:
        """Reads the file again. If it is damaged or missing, logs that and keeps the keys."""
        if self._file is None:
            return
        self._fingerprint = _fingerprint(self._file)
        try:
            content = read(self._file)
        except UsageError as error:
            _log.error("the API keys stay as they were: %s", error)
            return
        self._use(content.keys)
        _warn(content)
        _log.info("%d API keys read from %s", len(content.keys), self._file)

    def _reload_if_changed(self) -> None:
        """Reads the file again if it has changed."""
        if self._file is None or self._clock() - self._checked_s < CHECK_INTERVAL_S:
            return
        self._checked_s = self._clock()
        if _fingerprint(self._file) != self._fingerprint:
            self.reload()

    def _use(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        meters = {ANYBODY.name: self._meters[ANYBODY.name]}
        for key in self._keys:
            meter = self._meters.get(key.name)
            if meter is None:
                meter = Meter(key, self._clock)
            else:
                meter.adopt(key)
            meters[key.name] = meter
        self._meters = meters


def check_scope(key: Key, *scopes: Scope) -> None:
    """Raises: RequestError(403) if the key has none of these scopes."""
    if not key.scopes & set(scopes):
        message = f"key {key.name!r} lacks the scope {' or '.join(scopes)} that this requires"
        raise RequestError(message, code="insufficient_scope", status=403)


def warn_of_open_door(host: str) -> None:
    """Warns about a server without keys that other machines can reach."""
    _log.warning(
        "Warning: other machines can reach %s, and no API key is required: anyone who reaches it can use it. "
        "Pass --api-key-file, or leave out --host.",
        host,
    )


def _fingerprint(path: Path) -> _Fingerprint | None:
    """Changes when the file does; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _warn(content: KeyFile) -> None:
    for warning in content.warnings:
        _log.warning("%s", warning)
