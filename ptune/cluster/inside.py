"""What runs in a worker of the cluster: a function in a process of its own, in the driver's folder, with a log."""

from __future__ import annotations

import os
import socket
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import ray

from ptune.errors import PtuneError
from ptune.formats.file_lock import take_lock

CRASHED = 70  # exit code of an error that nobody expected
TRACE = " " * 4  # what the lines of its traceback begin with
_FREE_WITHIN_S = 60.0


def enter(folder: str) -> None:
    """Works in the driver's folder, so that relative paths mean the same. Raises: PtuneError if it is not here."""
    try:
        os.chdir(folder)
    except OSError:
        raise PtuneError(
            f"{socket.gethostname()} does not see {folder}: start the command in a folder that all machines share"
        ) from None


@ray.remote(max_calls=1)  # the process ends with the task and returns all its memory
def logged(
    run: Callable[[], int],
    folder: str,
    log: str,
    environment: Mapping[str, str],
    run_folder: str | None = None,
) -> int:
    """Calls `run` in the main thread, so that Ray's cancellation arrives as Ctrl-C. Returns its exit code.

    log: a file that the driver has made, to which all output is appended. run_folder: waits until nobody trains into it.
    Raises: PtuneError if this machine does not see the driver's files.
    """
    enter(folder)
    os.environ.update(environment)
    try:
        written = os.open(log, os.O_WRONLY | os.O_APPEND)
    except OSError:
        raise PtuneError(
            f"{socket.gethostname()} does not see {log}: take an --out in a folder that all machines share"
        ) from None
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.stdout = sys.stderr = os.fdopen(written, "w", buffering=1, encoding="utf-8")
    if run_folder is not None:
        _wait_for(Path(run_folder))
    try:
        return run()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        print(textwrap.indent(traceback.format_exc(), TRACE), flush=True)
        return CRASHED


def _wait_for(run_folder: Path) -> None:
    """Waits until a lost worker that was training into the folder is really gone."""
    if not run_folder.is_dir():
        return
    held = os.open(run_folder, os.O_RDONLY)
    deadline_s = time.monotonic() + _FREE_WITHIN_S
    try:
        while time.monotonic() < deadline_s and not take_lock(held):
            time.sleep(0.2)
    finally:
        os.close(held)
