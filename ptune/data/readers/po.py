"""gettext catalogues (.po): one row per translated entry.

Format: https://www.gnu.org/software/gettext/manual/html_node/PO-Files.html, read by polib.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptune.data.problems import Problems
from ptune.data.readers.rows import Row, library
from ptune.errors import DataError

SUFFIXES = (".po",)
_MOST_BYTES = 64 << 20  # polib holds the whole catalogue in memory


@dataclass(frozen=True)
class Po:
    """A catalogue. columns: names for msgid and msgstr.

    Obsolete, fuzzy (unconfirmed) and untranslated entries are left out and counted. An entry with plural forms gives
    two rows: msgid with its first form, msgid_plural with its last; in a language with one form, only msgid_plural.
    Forms in between (in Slavic languages) have no source of their own and are left out, too.
    """

    path: Path
    file: str  # the user's name for it
    columns: tuple[str, str] = ("source", "target")
    left_out: Counter[str] = field(default_factory=Counter, compare=False)  # counted in the last reading
    format = "gettext PO"
    unit = "line"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`; a row's number is its entry's first line."""
        self.left_out.clear()
        for entry in self._entries():
            if entry.obsolete:
                self.left_out["obsolete"] += 1
            elif entry.fuzzy:
                self.left_out["fuzzy"] += 1
            elif not entry.translated():
                self.left_out["untranslated"] += 1
            else:
                for pair in self._pairs(entry):
                    yield Row(entry.linenum, dict(zip(self.columns, pair, strict=True)))

    def _pairs(self, entry: Any) -> Iterator[tuple[str, str]]:
        if not entry.msgid_plural:
            yield entry.msgid, entry.msgstr
            return
        forms = [entry.msgstr_plural[number] for number in sorted(entry.msgstr_plural)]
        if len(forms) > 1:
            yield entry.msgid, forms[0]
        yield entry.msgid_plural, forms[-1]
        if len(forms) > 2:
            self.left_out["plural forms between the first and the last"] += len(forms) - 2

    def _entries(self) -> Iterator[Any]:
        """Reads the entries. Raises: DataError if the file is not a catalogue."""
        polib = library("polib", "translation", self.file)
        if self.path.stat().st_size > _MOST_BYTES:
            raise DataError(f"is larger than {_MOST_BYTES >> 20} MiB: split the catalogue", file=self.file)
        try:
            yield from polib.pofile(str(self.path))
        except UnicodeDecodeError as error:
            raise DataError(
                f"is not in the encoding that its header names: {error}", file=self.file
            ) from None
        except (
            OSError,
            ValueError,
            LookupError,
        ) as error:  # polib: "Syntax error in po file PATH (line 7): why"
            reason = str(error).replace(f" {self.path}", "")
            raise DataError(f"cannot be read: {reason}", file=self.file) from None
