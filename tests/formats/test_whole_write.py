"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.errors import FormatError, PtuneError
from ptune.formats.whole_write import (
    read_json,
    read_json_lines,
    whole_file,
    whole_folder,
    write_json,
    write_json_lines,
    write_text,
)


def test_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "a.json", {"b": "ü"})
    assert json.loads((tmp_path / "deep" / "a.json").read_text(encoding="utf-8")) == {"b": "ü"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "before")
    with pytest.raises(PtuneError, match="cable pulled"), whole_file(path) as part:  # noqa: PT012
        part.write_text("half")
        raise OSError(errno.EIO, "cable pulled")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PtuneError, match=r"disk is full.*a\.txt"), whole_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_real_full_device_is_one_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(PtuneError, match="disk is full"), whole_file(Path("/tmp") / "ptune-full-test"):
        Path("/dev/full").write_text("x")
    with pytest.raises(PtuneError, match="disk is full"), whole_folder(tmp_path / "bundle"):
        np.ones(100_000).tofile("/dev/full")  # its error has no number
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": NaN'])
def test_damaged_json_names_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"manifest\.json is damaged"):
        read_json(path)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="missing"):
        read_json(tmp_path / "x.json")


@given(st.lists(st.dictionaries(st.text(), st.text() | st.none())))
def test_json_lines_come_back_whatever_is_in_them(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, str | None]]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "values.jsonl"
    write_json_lines(path, values)
    assert read_json_lines(path) == values


def test_line_separators_of_other_programs_stay_in_their_line(tmp_path: Path) -> None:
    value = {"text": "one\u2028two\x85three\x0bfour\nfive"}
    write_json_lines(tmp_path / "values.jsonl", [value, value])
    assert (tmp_path / "values.jsonl").read_bytes().count(b"\n") == 2
    assert read_json_lines(tmp_path / "values.jsonl") == [value, value]
