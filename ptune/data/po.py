"""gettext catalogues (.po): a row a translated entry.

Format: https://www.gnu.org/software/gettext/manual/html_node/PO-Files.html, read by polib.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptune.data.problems import Problems
from ptune.data.rows import Row, library
from ptune.errors import DataError

SUFFIXES = (".po",)
_MOST_BYTES = 64 << 20  # polib holds a catalogue as a whole


@dataclass(frozen=True)
class Po:
    """A catalogue; `columns` are the names under which msgid and msgstr come.

    Left out and counted: entries that are obsolete, fuzzy (not confirmed by a translator) or untranslated. An entry with
    plural forms gives two rows: msgid with its first form, msgid_plural with its last; a language of one form gives one, of
    msgid_plural. What lies between (a few, in Slavic languages) has no source of its own and is left out, too.
    """

    path: Path
    file: str  # as the user named it
    columns: tuple[str, str] = ("source", "target")
    left_out: Counter[str] = field(default_factory=Counter, compare=False)  # of the reading before
    format = "gettext PO"
    unit = "line"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`; a row's number is the line that its entry begins in."""
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
        """Raises: DataError where the file is no catalogue."""
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
