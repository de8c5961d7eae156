"""What a run's journal tells, whatever a crash or a disk has made of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.formats.run import Run

WHOLE = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]


@pytest.mark.parametrize(
    "rest", [b"", b'{"step": 3, "lo', '{"step": 3, "told": "é'.encode()[:-1], b"\xff\xfe\n{}\n", b"\0" * 9, b"[]\n{}\n", b"null\n"]
)  # fmt: skip
def test_entries_are_read_up_to_a_line_that_is_damaged(rest: bytes, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.metrics_path.write_bytes("".join(f"{json.dumps(one)}\n" for one in WHOLE).encode() + rest)
    assert run.metrics() == WHOLE


def test_a_text_may_hold_what_other_readers_take_for_an_end_of_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    entries = [{"step": 1, "answer": "a\u2028b\u0085c"}, {"step": 2, "answer": "d"}]
    lines = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in entries)
    run.samples_path.write_text(lines, encoding="utf-8")
    assert run.samples() == entries
