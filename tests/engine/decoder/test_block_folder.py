"""A folder of blocks: whole files, of bounded size, those used longest ago deleted first; what a killed server leaves is whole or ignored."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.engine.decoder.cache import block_folder
from ptune.engine.decoder.cache.block_folder import BlockFolder
from ptune.engine.decoder.cache.kv_blocks import Block

HEAD, TOKENS = 40, b"tokens  " * 4


def block(number: int) -> Block:
    return Block(number, f"{number:064x}", TOKENS)


def content(number: int, size: int = 1000) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, size, np.uint8)


def wait(folder: BlockFolder) -> None:
    with folder._changed:
        assert folder._changed.wait_for(lambda: not folder._queue, timeout=30)


@settings(max_examples=30, deadline=None)
@given(uses=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30), files=st.integers(0, 6))
def test_the_bytes_are_bounded_and_what_is_found_is_right(
    uses: list[tuple[int, bool]], files: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("blocks")
    limit = max(1, files * (1000 + HEAD + len(TOKENS)))
    with closing(BlockFolder(place, limit)) as folder:
        for number, writes in uses:
            if writes:
                folder.put(block(number), content(number))
                wait(folder)
            found = folder.get(block(number), 1000)
            assert (found is not None) == folder.has(block(number))
            assert found is None or np.array_equal(found, content(number))
            sizes = [file.stat().st_size for file in place.iterdir()]
            assert sum(sizes) == folder.stats().bytes <= limit
            assert not writes or found is not None or not files
        assert folder.stats().damaged == 0


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    with closing(BlockFolder(tmp_path, 3 * (1000 + HEAD + len(TOKENS)))) as folder:
        for number in (1, 2, 3):
            folder.put(block(number), content(number))
            wait(folder)
            time.sleep(0.02)
        assert folder.get(block(1), 1000) is not None
        folder.put(block(4), content(4))
        wait(folder)
        assert [folder.has(block(number)) for number in (1, 2, 3, 4)] == [True, False, True, True]


def test_of_one_text_the_end_goes_first(tmp_path: Path) -> None:
    """A block is no use without those before it."""
    with closing(BlockFolder(tmp_path, 4 * (1000 + HEAD + len(TOKENS)))) as folder:
        for number in (0, 40, 80, 120):
            folder.put(block(number), content(number))
        wait(folder)
        for number in (0, 40, 80, 120):
            assert folder.get(block(number), 1000) is not None
        folder.put(Block(0, f"{999:064x}", TOKENS), content(999))
        wait(folder)
        assert [folder.has(block(number)) for number in (0, 40, 80, 120)] == [True, True, True, False]


def test_what_waits_is_found_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk hangs: what is queued is read from there, and no more than so much is."""
    monkeypatch.setattr(block_folder, "KV_DISK_QUEUE_BYTES", 2500)
    folder = BlockFolder(tmp_path, 1 << 20)
    hangs = folder._changed
    with hangs:  # the thread cannot take anything out
        taken = [folder.put(block(number), content(number)) for number in range(4)]
        assert taken == [True, True, False, False]
        found = folder.get(block(1), 1000)
    assert found is not None
    assert np.array_equal(found, content(1))
    folder.close()
    assert len([*tmp_path.iterdir()]) == 2
    assert folder.stats().dropped_tokens == 2 * 4
    folder.close()


def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    with closing(BlockFolder(tmp_path, 1 << 20)) as one, closing(BlockFolder(tmp_path, 1 << 20)) as other:
        one.put(block(1), content(1))
        wait(one)
        assert other.has(block(1))
        assert other.get(block(1), 1000) is not None
        next(tmp_path.iterdir()).unlink()
        assert one.get(block(1), 1000) is None
        assert one.stats().damaged == 0


def test_what_a_dead_server_left_unfinished_is_deleted(tmp_path: Path) -> None:
    old, new = tmp_path / ".x.kv.abc.part", tmp_path / ".y.kv.abc.part"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    with closing(BlockFolder(tmp_path, 1 << 20)):
        assert [*tmp_path.iterdir()] == [new], "another server may be writing it"


_WRITES = """
import sys
from pathlib import Path
import numpy as np
from ptune.engine.decoder.cache.block_folder import BlockFolder
from ptune.engine.decoder.cache.kv_blocks import Block

folder = BlockFolder(Path(sys.argv[1]), 1 << 30)
for number in range(10_000):
    content = np.random.default_rng(number).integers(0, 256, 200_000, np.uint8)
    folder.put(Block(number, f"{number:064x}", b"tokens  " * 4), content, wait=True)
    if number == 5:
        print("begun", flush=True)
"""


def test_a_server_that_is_killed_leaves_whole_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITES, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writing:
        assert writing.stdout is not None
        assert writing.stdout.readline() == "begun\n"
        time.sleep(0.3)
        writing.send_signal(signal.SIGKILL)
    files = [*tmp_path.glob("*.kv")]
    assert files
    with closing(BlockFolder(tmp_path, 1 << 30)) as folder:
        for file in files:
            number = int(file.stem, 16)
            found = folder.get(block(number), 200_000)
            assert found is not None
            assert np.array_equal(found, content(number, 200_000))
        assert folder.stats().damaged == 0


def test_on_a_disk_that_fails_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network folder that is gone, and a damaged file on a disk that can only be read: the engine's thread asks there."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with closing(BlockFolder(tmp_path, 1 << 20)) as folder:
        folder.put(block(1), content(1))
        wait(folder)
        [file] = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-1] + b"?")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", fails)
            assert folder.get(block(1), 1000) is None
            patch.setattr(Path, "stat", fails)
            assert not folder.has(block(1))
        assert folder.stats().bytes == file.stat().st_size
        assert folder.get(block(1), 1000) is None
        assert folder.stats().bytes == 0
