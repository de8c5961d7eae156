"""Mapped files give their memory back, and read as before."""

from __future__ import annotations

import mmap
import sys
import threading
from pathlib import Path

import pytest

from ptune.engine.mapped_files import let_go

PAGES = 256
WHOLE_KIB = PAGES * mmap.PAGESIZE // 1024

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is given back")


def resident_kib(name: str) -> int:
    """Memory that this process holds of a file's mappings."""
    found, of_it = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ", 1)[0]:
            of_it = line.endswith(name)
        elif of_it and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def read(path: Path) -> mmap.mmap:
    """A file that is mapped, and all of it read."""
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    assert mapped[:] == path.read_bytes()
    return mapped


def written(path: Path, letter: bytes) -> Path:
    path.write_bytes(letter * mmap.PAGESIZE * PAGES)
    return path


def test_pages_go_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    paths = [written(folder / name, letter) for name, letter in (("one.data", b"1"), ("other", b"2"))]
    (tmp_path / "link").symlink_to(folder)
    with let_go(tmp_path / "link", "*.data"):
        mapped = [read(path) for path in paths]
        assert resident_kib("/one.data") == resident_kib("/other") == WHOLE_KIB
    assert (resident_kib("/one.data"), resident_kib("/other")) == (0, WHOLE_KIB)
    assert [one[:] for one in mapped] == [path.read_bytes() for path in paths]


def test_what_another_has_mapped_is_left_alone(tmp_path: Path) -> None:
    """It could be gone at any time, and other memory in its place would be emptied."""
    path = written(tmp_path / "shared.data", b"1")
    others = read(path)
    with let_go(tmp_path, "*.data"):
        own = read(path)
        assert resident_kib("/shared.data") == 2 * WHOLE_KIB
    assert resident_kib("/shared.data") == WHOLE_KIB
    assert own[:] == others[:]


def test_only_one_at_a_time_maps_the_files_of_a_folder(tmp_path: Path) -> None:
    began, ended = threading.Event(), threading.Event()

    def second() -> None:
        began.set()
        with let_go(tmp_path, "*.data"):
            ended.set()

    thread = threading.Thread(target=second)
    with let_go(tmp_path, "*.data"):
        thread.start()
        assert began.wait(10)
        with let_go(tmp_path / "elsewhere", "*.data"):
            assert not ended.wait(0.2)
    assert ended.wait(10)
    thread.join()


def test_files_that_are_not_there_are_nothing_to_do(tmp_path: Path) -> None:
    with let_go(tmp_path / "none", "*.data"):
        pass
