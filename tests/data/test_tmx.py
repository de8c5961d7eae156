"""Translation memories: two languages are taken out of them; what would blow up is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.data.problems import Problems
from ptune.data.readers.tmx import Tmx
from ptune.errors import DataError

UNITS = """
<tu><tuv xml:lang="en-US"><seg>Press <bpt i="1">&lt;b&gt;</bpt>OK<ept i="1">&lt;/b&gt;</ept> &amp; go</seg></tuv>
    <tuv xml:lang="es"><seg>Pulse <hi>Aceptar</hi> y siga</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Only English</seg></tuv><tuv xml:lang="fr"><seg>Anglais</seg></tuv></tu>
<tu><tuv lang="en"><seg>Color</seg></tuv><tuv lang="en-GB"><seg>Colour</seg></tuv><tuv lang="es"><seg>Color</seg></tuv></tu>
<tu><tuv lang="en-GB"><seg>Bin</seg></tuv><tuv lang="en-US"><seg>Trash</seg></tuv><tuv lang="es"><seg>Papelera</seg></tuv></tu>
<tu><tuv><seg>no language</seg></tuv></tu>
"""
DOCUMENT = '<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx version="1.4"><header srclang="en"/><body>{}</body></tmx>'


def reader(path: Path, text: str, columns: tuple[str, str] | None = ("en", "es")) -> Tmx:
    path.write_text(text, encoding="utf-8")
    return Tmx(path, path.name, columns)


def test_two_languages_by_their_codes(tmp_path: Path) -> None:
    found, problems = reader(tmp_path / "x.tmx", DOCUMENT.format(UNITS)), Problems("x", "row")
    rows = [(row.number, row.value) for row in found.rows(problems)]
    assert rows == [
        (1, {"en": "Press OK & go", "es": "Pulse Aceptar y siga"}),
        (3, {"en": "Color", "es": "Color"}),  # the very code, though there is another English
    ]
    assert dict(found.left_out) == {"no text in es": 1, "several texts in en": 1}
    assert [(numbers, count) for _, numbers, count in problems.kinds()] == [((5,), 1)]
    british = [
        row.value["en-gb"]
        for row in reader(tmp_path / "y.tmx", DOCUMENT.format(UNITS), ("en-gb", "es")).rows(problems)
    ]
    assert british == ["Colour", "Bin"]


def test_languages_that_are_not_there_are_told(tmp_path: Path) -> None:
    found = reader(tmp_path / "x.tmx", DOCUMENT.format(UNITS), ("source", "target"))
    with pytest.raises(DataError, match=r"languages are en-US, es, en, fr, en-GB: .*--task.columns.source"):
        list(found.rows(Problems("x")))


def test_without_a_task_all_languages_come(tmp_path: Path) -> None:
    rows = list(reader(tmp_path / "x.tmx", DOCUMENT.format(UNITS), None).rows(Problems("x")))
    assert rows[1].value == {"en": "Only English", "fr": "Anglais"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('<!DOCTYPE tmx [<!ENTITY a "aaaa">]><tmx><body/></tmx>', "entity"),
        ('<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]><tmx><body/></tmx>', "entity"),
        ('<!DOCTYPE tmx [<!ENTITY % a SYSTEM "http://127.0.0.1:1/x"> %a;]><tmx><body/></tmx>', "entity"),
        ("<tmx><body><tu>", "not XML"),
        ("<xliff/>", "its first element is <xliff>"),
        ("<tmx>" + "<body>" * 40 + "</body>" * 40 + "</tmx>", "deep"),
    ],
)
def test_what_is_refused_as_a_whole(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        list(reader(tmp_path / "x.tmx", text).rows(Problems("x")))


def test_a_unit_that_is_too_large_is_a_problem(tmp_path: Path) -> None:
    large = f'<tu><tuv lang="en"><seg>{"x" * (1 << 20)}</seg></tuv><tuv lang="es"><seg>x</seg></tuv></tu>'
    problems = Problems("x")
    assert list(reader(tmp_path / "x.tmx", DOCUMENT.format(large)).rows(problems)) == []
    assert "1,048,577 characters" in problems.kinds()[0][0]
    variants = "".join(f'<tuv lang="a{at}"><seg>x</seg></tuv>' for at in range(1001))
    assert list(reader(tmp_path / "y.tmx", DOCUMENT.format(f"<tu>{variants}</tu>")).rows(problems)) == []
    assert problems.count == 2


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    unit = '<tu><tuv lang="en"><seg>{0} of the text</seg></tuv><tuv lang="es"><seg>{0} del texto</seg></tuv></tu>'
    path = tmp_path / "x.tmx"

    def peak(count: int) -> int:
        found = reader(path, DOCUMENT.format("".join(unit.format(at) for at in range(count))))
        tracemalloc.start()
        assert sum(1 for _ in found.rows(Problems("x"))) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20_000) < 2 * peak(2_000)
