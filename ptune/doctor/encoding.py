"""Rules on the bytes of a text file, read piece by piece: encodings, NULs, differing columns."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ptune.data.read import resolve
from ptune.data.readers.columns import ARROW_MAGIC, ARROW_STREAM_MAGIC, PARQUET_MAGIC
from ptune.data.readers.not_text import COMPRESSED, DOCUMENTS
from ptune.data.readers.rows import BYTE_ORDER_MARK
from ptune.data.readers.windows_1252 import read_line
from ptune.doctor.finding import Finding, Place, Rule, Tally
from ptune.errors import DataError
from ptune.progress import Progress

_PIECE = 1 << 20  # bytes; a longer line comes in several pieces
_HEAD = 4096
_BINARY = (PARQUET_MAGIC, ARROW_MAGIC, ARROW_STREAM_MAGIC, *COMPRESSED, *DOCUMENTS)
_WIDE = (
    (b"\xff\xfe\x00\x00", "UTF-32LE"), (b"\x00\x00\xfe\xff", "UTF-32BE"),
    (b"\xff\xfe", "UTF-16LE"), (b"\xfe\xff", "UTF-16BE"),
)  # fmt: skip
_MOST_LAYOUTS = 1000  # different sets of columns to count


def utf_16(head: bytes) -> str | None:
    """A file in UTF-16 or UTF-32, as spreadsheets and PowerShell write it; ptune reads UTF-8."""
    marked = next((name for mark, name in _WIDE if head.startswith(mark)), None)
    name = marked or _wide_by_nuls(head)
    if name is None:
        return None
    # With a mark the name without an order takes the mark away; without one it would be read in this machine's order.
    asked = name.rstrip("BLE") if marked else name
    return f"the file is {name}, not UTF-8: convert it, for example with iconv -f {asked} -t UTF-8"


def byte_order_mark(line: bytes) -> str | None:
    """A UTF-8 byte-order mark. It is skipped at the start of a file, but spoils a line inside joined files."""
    if BYTE_ORDER_MARK not in line:
        return None
    return "a byte-order mark (bytes EF BB BF): save the file as UTF-8 without one, and join files without theirs"


def nul_byte(line: bytes) -> str | None:
    """NUL bytes in a text file: JSON forbids them, and a crash while writing leaves blocks of them."""
    if b"\0" not in line:
        return None
    return f"{line.count(0):,} NUL bytes, the first at byte {line.index(0) + 1} of the line: remove them, or fetch the file again"


def not_utf_8(line: bytes) -> str | None:
    """Bytes that are not UTF-8: mostly Windows-1252, a superset of Latin-1, recognised by how rare they are."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        start, end = error.start, error.start + 1
        while end < len(line) and line[end] >= 0x80:
            end += 1
        what = f"byte 0x{line[start]:02x} at byte {start + 1} of the line is not UTF-8"
        if end - start > 3:
            return f"{what}: find out the file's encoding and convert it, for example with iconv -f GB18030 -t UTF-8"
        name = "Latin-1" if min(line[start:end]) >= 0xA0 else "Windows-1252"
        if read_line(line) is None:
            return f"{what}: find out the file's encoding and convert it, for example with iconv -f ISO-8859-2 -t UTF-8"
        around = line[max(0, start - 12) : end + 12].decode("cp1252", errors="replace")
        return f"{what}; as {name} it reads {around!r}: convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8; a clean copy (--clean FOLDER) is converted, too"
    return None


class ColumnsDiffer:
    """Columns that differ by row: a misspelt field, or two joined files of different origin."""

    def __init__(self) -> None:
        self._layouts: Counter[frozenset[str]] = Counter()
        self._first: dict[frozenset[str], int] = {}  # first line with these columns

    def add(self, number: int, line: bytes) -> None:
        """Counts the columns of one line of JSONL. The reader reports lines that are not JSON."""
        try:
            value = json.loads(line.removeprefix(BYTE_ORDER_MARK))
        except (ValueError, RecursionError):
            return
        columns = frozenset(value) if isinstance(value, dict) else None
        if columns is not None and (columns in self._first or len(self._first) < _MOST_LAYOUTS):
            self._layouts[columns] += 1
            self._first.setdefault(columns, number)

    def findings(self, named: str) -> Iterator[Finding]:
        """Findings on the whole file. named: the user's name for it."""
        if len(self._layouts) < 2:
            return
        [(usual, count)] = self._layouts.most_common(1)
        odd = min((layout for layout in self._layouts if layout != usual), key=self._first.__getitem__)
        differences = [
            f"{verb} {', '.join(map(repr, sorted(names)))}"
            for verb, names in (("lacks", usual - odd), ("has besides", odd - usual))
            if names
        ]
        others, total = self._layouts.total() - count, self._layouts.total()
        yield Finding(
            "columns-differ",
            "warning",
            f"{others:,} of {total:,} rows have other columns than most; this one {' and '.join(differences)}:"
            " check the spelling, and that the rows belong together",
            Place(named, self._first[odd]),
            others,
        )


HEAD_RULES = (Rule("utf-16", "error", utf_16),)
LINE_RULES = (
    Rule("byte-order-mark", "warning", byte_order_mark),
    Rule("nul-byte", "error", nul_byte),
    Rule("not-utf-8", "error", not_utf_8),
)
TABLE_RULES = (Rule("columns-differ", "warning", ColumnsDiffer),)
RULES = (*HEAD_RULES, *LINE_RULES, *TABLE_RULES)


def of_file(path: Path) -> list[Finding]:
    """Findings on the bytes of a file, by the user's name for it.

    None for files that cannot be opened, which the reader reports, and for pipes, which can be read only once.
    """
    with contextlib.suppress(DataError, OSError):
        resolved = resolve(path)
        if resolved.is_file():
            return list(examine(resolved, str(path)))
    return []


def examine(path: Path, named: str) -> Iterator[Finding]:
    """Findings on the bytes of a file. named: the user's name for it. Raises: OSError."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_BINARY):
        return
    for rule in HEAD_RULES:
        message = rule.check(head)
        if message is not None:  # other rules do not apply to these bytes
            yield Finding(rule.id, rule.severity, message, Place(named, 1))
            return
    is_json_lines = head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{")
    tables = [rule.check() for rule in TABLE_RULES if is_json_lines]
    tally = Tally()
    with Progress(f"examining {named}", path.stat().st_size, unit="bytes") as progress:
        for number, line in lines(path):
            for rule in LINE_RULES:
                message = rule.check(line)
                if message is not None:
                    tally.add(rule, Place(named, number), message)
            for table in tables:
                table.add(number, line)
            progress.advance(len(line))
    yield from tally.findings()
    for table in tables:
        yield from table.findings(named)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; very long ones in pieces of whole characters. Raises: OSError."""
    with path.open("rb") as file:
        number, rest = 1, b""
        while piece := file.readline(_PIECE):
            line, rest = _whole_characters(rest + piece)
            yield number, line
            number += line.endswith(b"\n")
        if rest:
            yield number, rest


def _whole_characters(piece: bytes) -> tuple[bytes, bytes]:
    """Splits off the beginning of a UTF-8 character that is cut at the end of a piece."""
    for length in range(1, min(3, len(piece)) + 1):
        byte = piece[-length]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return (piece[:-length], piece[-length:]) if needed > length else (piece, b"")
        if byte < 0x80:
            break
    return piece, b""


def _wide_by_nuls(head: bytes) -> str | None:
    """The kind of UTF-16 of a text without a byte-order mark: in Western text, every other byte is NUL."""
    half = len(head) // 2
    if half < 2:
        return None
    even, odd = head[0 : 2 * half : 2].count(0), head[1 : 2 * half : 2].count(0)
    if odd > 0.6 * half and even < 0.1 * half:
        return "UTF-16LE"
    return "UTF-16BE" if even > 0.6 * half and odd < 0.1 * half else None
