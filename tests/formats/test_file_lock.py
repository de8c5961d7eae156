"""A lock that one process has, and another gets when the first is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptune.errors import FormatError
from ptune.formats.file_lock import take_lock
from ptune.formats.run import Run
from ptune.training.folder import locked

HOLDS = """
import os, sys
from ptune.formats.file_lock import take_lock
assert take_lock(os.open(sys.argv[1], os.O_RDONLY))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_process_that_is_killed_gives_it_up(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    held = os.open(tmp_path, os.O_RDONLY)
    assert not take_lock(held)
    with pytest.raises(FormatError, match="another process is training into"), locked(Run(tmp_path)):
        pass
    other.kill()
    other.communicate()
    assert take_lock(held)
    os.close(held)


def test_a_file_system_without_locks_lets_everybody_have_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fcntl

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with (tmp_path / "file").open("w") as file:
        assert take_lock(file)
