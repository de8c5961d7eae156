"""Plain text as passages of one document."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.data.problems import Problems
from ptune.data.readers import plain_text
from ptune.data.readers.plain_text import PlainText
from ptune.errors import DataError


def rows_of(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problems = Problems("x.txt")
    rows = list(PlainText(path).rows(problems))
    problems.raise_if_any(len(rows) + problems.count)
    return rows


def test_passages_end_with_a_paragraph_and_only_the_last_ends_the_document(tmp_path):
    paragraphs = [f"Paragraph {number}. {'Words and more words. ' * 40}\n\n" for number in range(30)]
    rows = rows_of(tmp_path / "x.txt", "".join(paragraphs))
    assert "".join(row.value["text"] for row in rows) == "".join(paragraphs)
    assert len(rows) > 3
    assert all(row.value["text"].startswith("Paragraph ") for row in rows)
    assert [row.value["end_of_document"] for row in rows] == [False] * (len(rows) - 1) + [True]
    begun = [1 + 2 * int(row.value["text"].split()[1].rstrip(".")) for row in rows]
    assert [row.number for row in rows] == begun


@settings(max_examples=200)
@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from("\n \r"), min_size=1, max_size=300))
def test_no_character_is_lost(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "x.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_text, "_SHORTEST_BYTES", 8)
        rows = rows_of(path, text)
    read = "".join(row.value["text"] for row in rows)
    whole = text.removeprefix("\ufeff").replace("\r\n", "\n")
    assert whole.startswith(read)
    assert not whole[len(read) :].strip()
    for row in rows:
        assert len(row.value["text"]) < 32
    places = [
        read[: sum(len(r.value["text"]) for r in rows[:index])].count("\n") + 1 for index in range(len(rows))
    ]
    assert [row.number for row in rows] == places


def test_lines_end_with_line_feeds_alone_wherever_they_are_cut(tmp_path):
    text = "word " * 819 + "\r\n" + "a\rb\r\r\n" + "x" * 4095 + "\r\nlast\r"
    rows = rows_of(tmp_path / "x.txt", text)
    assert "".join(row.value["text"] for row in rows) == text.replace("\r\n", "\n")


def test_what_is_not_utf8_is_told_by_line(tmp_path):
    with pytest.raises(DataError, match=r"x\.txt:2: not UTF-8: byte 0xff at offset 2$"):
        rows_of(tmp_path / "x.txt", b"a\n\xffb\n")
