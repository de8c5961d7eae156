"""Mapped files give their memory back, and read as before."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from ptune.engine.mapped_files import let_go

PAGES = 256

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


def test_pages_go_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    content = {name: bytes([number]) * mmap.PAGESIZE * PAGES for number, name in enumerate(("one", "other"))}
    mapped = {}
    for name, held in content.items():
        (folder / name).write_bytes(held)
        with (folder / name).open("rb") as file:
            mapped[name] = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        assert mapped[name][:] == held
        assert resident_kib(f"/{name}") == PAGES * mmap.PAGESIZE // 1024

    (tmp_path / "link").symlink_to(folder)
    let_go(tmp_path / "link" / "one")

    assert resident_kib("/one") == 0
    assert resident_kib("/other") == PAGES * mmap.PAGESIZE // 1024
    assert all(mapped[name][:] == held for name, held in content.items())


def test_a_file_that_is_not_mapped_is_nothing_to_do(tmp_path: Path) -> None:
    let_go(tmp_path / "none")
