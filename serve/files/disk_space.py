"""Counts the bytes that stored files take, of each key and of all."""

from __future__ import annotations

import threading
from collections import Counter

from ptune.errors import RequestError

from ..access.keys import ANYBODY

NO_ROOM = "no_room"


class DiskSpace:
    """Bounded bytes. Where there are keys, one key gets half of them at most, so that nobody can fill the disk alone."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._of_file: dict[str, tuple[str, int]] = {}
        self._of_key: Counter[str] = Counter()
        self._counting = threading.Lock()

    def take(self, key: str, file_id: str, size_bytes: int) -> None:
        """Counts a file as `size_bytes` long, in place of what it was. Raises: RequestError(507) if there is no room for more."""
        with self._counting:
            more = size_bytes - self._of_file.get(file_id, (key, 0))[1]
            of_key = self._most_bytes if key == ANYBODY.name else self._most_bytes // 2
            left = min(of_key - self._of_key[key], self._most_bytes - self._of_key.total())
            if more > max(left, 0):
                message = (
                    f"{more} bytes more do not fit: {max(left, 0)} are left of the {of_key} that files may take here"
                    " (--files-bytes); delete files that you no longer need"
                )
                raise RequestError(message, code=NO_ROOM, status=507)
            self._set(key, file_id, size_bytes)

    def count(self, key: str, file_id: str, size_bytes: int) -> None:
        """Counts a file that is there already, whether there is room for it or not."""
        with self._counting:
            self._set(key, file_id, size_bytes)

    def free(self, file_id: str) -> None:
        """Forgets a file."""
        with self._counting:
            key, size_bytes = self._of_file.pop(file_id, ("", 0))
            self._of_key[key] -= size_bytes

    def _set(self, key: str, file_id: str, size_bytes: int) -> None:
        self._of_key[key] += size_bytes - self._of_file.get(file_id, (key, 0))[1]
        self._of_file[file_id] = key, size_bytes
