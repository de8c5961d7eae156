"""Who may ask: API keys, from a file that is read again when it changes. Without keys the server answers everybody."""

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
from .limits import Clock, Meter

LOOK_AGAIN_S = 1.0
"""How often, at most, the file is looked at."""

_log = logging.getLogger("ptune.serve")
_Stamp = tuple[int, int, int]


class ApiKeys:
    """The keys that are let in, and what each has used; none at all means that no key is asked for."""

    def __init__(self, keys: Sequence[str | Key] = (), *, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._file: Path | None = None
        self._stamp: _Stamp | None = None
        self._looked_s = clock()
        self._keys: tuple[Key, ...] = ()
        self._meters: dict[str, Meter] = {ANYBODY.name: Meter(ANYBODY, clock)}
        self._use(tuple(plain(key) if isinstance(key, str) else key for key in keys))

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def read(cls, path: Path, *, clock: Clock = time.monotonic) -> ApiKeys:
        """The keys of a file, in any form that `keys` describes. Raises: UsageError."""
        stamp = _stamp(path)
        found = read(path)
        made = cls(found.keys, clock=clock)
        made._file, made._stamp = path, stamp
        _warn(found)
        return made

    def check(self, authorization: str | None) -> Key:
        """Whose key an `Authorization: Bearer KEY` header holds. Raises: RequestError(401)."""
        self._look()
        if not self:
            return ANYBODY
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise RequestError(
                "send a key as `Authorization: Bearer KEY`", code="missing_api_key", status=401
            )
        # Hashes are compared, and all of them: time tells neither how near a guess came nor whose key it was.
        digest = hashlib.sha256(given.strip().encode("latin-1", "replace")).digest()
        matches = [key for key in self._keys if hmac.compare_digest(digest, key.digest)]
        if not matches:
            raise RequestError("this API key is not known here", code="invalid_api_key", status=401)
        return matches[0]

    def permit(self, authorization: str | None, *scopes: Scope) -> Key:
        """As `check`, for something that takes one of these scopes. Raises: RequestError (401, 403)."""
        key = self.check(authorization)
        if not key.scopes & set(scopes):
            message = f"key {key.name!r} lacks the scope {' or '.join(scopes)} that this takes"
            raise RequestError(message, code="insufficient_scope", status=403)
        return key

    def meter(self, key: Key) -> Meter:
        """What the key has used and may use."""
        return self._meters.get(key.name) or Meter(key, self._clock)  # it may just have left the file

    def reload(self) -> None:
        """Reads the file again. One that is damaged or gone changes nothing, and the log says so."""
        if self._file is None:
            return
        self._stamp = _stamp(self._file)
        try:
            found = read(self._file)
        except UsageError as error:
            _log.error("the API keys stay as they were: %s", error)
            return
        self._use(found.keys)
        _warn(found)
        _log.info("%d API keys read from %s", len(found.keys), self._file)

    def _look(self) -> None:
        """Reads the file again where it has changed."""
        if self._file is None or self._clock() - self._looked_s < LOOK_AGAIN_S:
            return
        self._looked_s = self._clock()
        if _stamp(self._file) != self._stamp:
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


def warn_of_open_door(host: str) -> None:
    """For a server without keys that others than this machine's users can reach."""
    _log.warning(
        "Warning: %s can be reached from other machines, and no API key is asked for: whoever reaches it may use it. "
        "Give it --api-key-file, or leave out --host.",
        host,
    )


def _stamp(path: Path) -> _Stamp | None:
    """By what a changed file is told; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _warn(found: KeyFile) -> None:
    for warning in found.warnings:
        _log.warning("%s", warning)
