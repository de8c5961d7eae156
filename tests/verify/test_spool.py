"""What a proof keeps in files: the same numbers, no name left, and memory where no file takes them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ptune.verify.spool import spooled


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def own_kib() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0])


def test_numbers_are_the_same_and_no_file_is_left(cache: Path) -> None:
    values = np.random.default_rng(0).standard_normal((7, 11)).astype(np.float32)
    kept = spooled(values[:, ::2])  # not one piece of memory
    np.testing.assert_array_equal(kept, values[:, ::2])
    assert not kept.flags.writeable
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells what memory is a process's own"
)
def test_they_are_not_in_memory_of_its_own(cache: Path) -> None:
    before = own_kib()
    kept = [spooled(np.full((64, 1 << 16), number, np.float32)) for number in range(8)]  # 16 MiB each
    assert own_kib() - before < 32 << 10
    assert [one[-1, -1] for one in kept] == list(range(8))


def test_without_a_file_they_stay_in_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> object:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    values = np.ones((2, 3), np.float32)
    assert spooled(values) is values
