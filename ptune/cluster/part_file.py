"""A file of lines that grows in order and survives a kill at any moment: what is complete is never written again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ptune.errors import PtuneError
from ptune.formats.file_lock import take_lock
from ptune.formats.whole_write import disk_errors, sync
from ptune.progress import say

_BLOCK_BYTES = 1 << 20


class PartFile:
    """The beginning of `output`, in a file beside it until it is whole. `lines`: how many are complete."""

    def __init__(self, output: Path, path: Path, file: IO[bytes], lines: int) -> None:
        self.output, self.path, self.lines = output, path, lines
        self._file = file

    def append(self, lines: Sequence[str]) -> None:
        """Adds complete lines, on the disk before this returns. Raises: PtuneError if the disk is full."""
        with disk_errors(self.path):
            self._file.write("".join(f"{line}\n" for line in lines).encode("utf-8"))
            self._file.flush()
            os.fsync(self._file.fileno())
        self.lines += len(lines)

    def complete(self) -> None:
        """Moves the file to its place."""
        with disk_errors(self.output):
            self.path.replace(self.output)
            sync(self.output.parent)


@contextlib.contextmanager
def part_file(output: Path, key: str) -> Iterator[PartFile]:
    """Opens the part of `output` that an earlier command left, or an empty one.

    key: a hash of everything that the lines depend on: other lines are never continued.
    Raises: PtuneError if another process writes it, or it cannot be written.
    """
    path = output.with_name(f"{output.name}.{key[:12]}.part")
    with disk_errors(path):
        output.parent.mkdir(parents=True, exist_ok=True)
        for other in sorted(output.parent.glob(f"{output.name}.*.part")):
            if other != path:
                say(f"{other} was begun with other rows or options, and is left as it is")
        file = path.open("a+b")
    with file:
        if not take_lock(file):
            raise PtuneError(f"another process is writing {path}: wait for it or stop it")
        lines, end = _complete(file)
        with disk_errors(path):
            file.truncate(end)
        part = PartFile(output, path, file, lines)
        try:
            yield part
        finally:
            if part.lines == 0:
                path.unlink(missing_ok=True)


def _complete(file: IO[bytes]) -> tuple[int, int]:
    """How many lines are complete, and where the last of them ends, in bytes."""
    file.seek(0)
    lines = end = place = 0
    while block := file.read(_BLOCK_BYTES):
        lines += block.count(b"\n")
        if (newline := block.rfind(b"\n")) >= 0:
            end = place + newline + 1
        place += len(block)
    return lines, end
