"""Locks of files and folders, which the system takes back when a process ends, however that happens."""

from __future__ import annotations

import fcntl
from typing import IO, Any


def take_lock(held: int | IO[Any]) -> bool:
    """Takes the lock of an open file or folder, until that is closed; False if another process holds it.

    A file system without locks lets everybody have it.
    """
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
