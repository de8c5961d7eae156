"""gettext catalogues: what is translated is read, the rest counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.data.problems import Problems
from ptune.data.read import open_file
from ptune.data.readers.po import Po
from ptune.errors import DataError

CATALOGUE = r"""
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\n"

#, python-format
msgid "Hello %s,\n"
"\"welcome\""
msgstr "Hola %s,\n"
"«bienvenido»"

#, fuzzy
msgid "maybe"
msgstr "quizás"

msgid "nothing yet"
msgstr ""

msgctxt "month"
msgid "May"
msgstr "Mayo"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d archivo"
msgstr[1] "%d archivos"

#~ msgid "gone"
#~ msgstr "ido"
"""


def read(
    path: Path, content: str, encoding: str = "utf-8"
) -> tuple[list[tuple[int, str, str]], dict[str, int]]:
    path.write_bytes(content.encode(encoding))
    reader = Po(path, path.name)
    rows = list(reader.rows(Problems(path.name)))
    return [(row.number, row.value["source"], row.value["target"]) for row in rows], dict(reader.left_out)


def test_what_is_translated_comes_with_its_line_and_the_rest_is_counted(tmp_path: Path) -> None:
    rows, left_out = read(tmp_path / "es.po", CATALOGUE)
    assert rows == [
        (7, 'Hello %s,\n"welcome"', "Hola %s,\n«bienvenido»"),
        (20, "May", "Mayo"),
        (24, "%d file", "%d archivo"),
        (24, "%d files", "%d archivos"),
    ]
    assert left_out == {"fuzzy": 1, "untranslated": 1, "obsolete": 1}


@pytest.mark.parametrize(
    ("forms", "expected", "between"),
    [
        (["fail"], [("files", "fail")], 0),
        (["plik", "pliki", "plików"], [("file", "plik"), ("files", "plików")], 1),
        (["plik", "pliki", ""], [], 0),  # as gettext has it: not translated
    ],
)
def test_plural_forms(
    tmp_path: Path, forms: list[str], expected: list[tuple[str, str]], between: int
) -> None:
    lines = "".join(f'msgstr[{at}] "{form}"\n' for at, form in enumerate(forms))
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    rows, left_out = read(tmp_path / "x.po", f'{header}msgid "file"\nmsgid_plural "files"\n{lines}')
    assert [row[1:] for row in rows] == expected
    assert sum(left_out.values()) == (between if expected else 1)


def test_the_encoding_is_the_headers(tmp_path: Path) -> None:
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=ISO-8859-1\\n"\n\n'
    rows, _ = read(tmp_path / "x.po", f'{header}msgid "year"\nmsgstr "año"\n', "iso-8859-1")
    assert rows[0][1:] == ("year", "año")
    with pytest.raises(DataError, match="encoding"):
        read(
            tmp_path / "y.po",
            header.replace("ISO-8859-1", "UTF-8") + 'msgid "y"\nmsgstr "año"\n',
            "iso-8859-1",
        )


@pytest.mark.parametrize("broken", ["what is this\n", 'msgid "a" b\n', 'msgstr "b"\nmsgid "a"\nmsgid "c"\n'])
def test_a_broken_catalogue_is_refused_with_its_line(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "x.po"
    path.write_text(broken)
    with pytest.raises(DataError, match=r"line \d") as caught:
        list(open_file(path).rows(Problems("x")))
    assert caught.value.file == str(path)
    assert str(tmp_path) not in str(caught.value).replace(str(path), "", 1)
