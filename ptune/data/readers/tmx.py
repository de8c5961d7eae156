"""TMX, translation memories as XML: one row per translation unit.

Format: https://www.gala-global.org/tmx-14b. Read by defusedxml, which refuses entities.
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

SUFFIXES = (".tmx",)
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})  # in a segment: markup of its document
_DEEPEST = 32  # elements
_MOST_CHARACTERS = 1 << 20  # per unit
_MOST_VARIANTS = 1000  # per unit


@dataclass(frozen=True)
class Tmx:
    """A translation memory. columns: the two languages to read; without them a row has all, by their codes.

    A language is given by its code, "en-GB", or by its first part, "en", if only one variant of a unit has it. Units that
    lack one of the two, or have several, are left out and counted. A row's number is its unit's.
    """

    path: Path
    file: str  # the user's name for it
    columns: tuple[str, str] | None = None
    left_out: Counter[str] = field(default_factory=Counter, compare=False)  # counted in the last reading
    format = "TMX"
    unit = "row"

    def rows(self, problems: Problems) -> Iterator[Row]:
        """See `Reader.rows`."""
        self.left_out.clear()
        count, languages = 0, dict[str, None]()
        for number, unit in enumerate(self._units(problems), start=1):
            if unit is None:
                continue
            languages.update(dict.fromkeys(code for code, _ in unit))
            value = self._value(unit)
            if value is not None:
                count += 1
                yield Row(number, value)
        if self.columns and self.left_out and not count:
            source, target = self.columns
            raise DataError(
                f"has no unit in {source!r} and {target!r}; its languages are {', '.join(languages) or 'none'}:"
                " name two of them with --task.columns.source and --task.columns.target",
                file=self.file,
            )

    def _value(self, unit: list[tuple[str, str]]) -> dict[str, Any] | None:
        if self.columns is None:
            return dict(unit)
        value = {}
        for name in self.columns:
            texts = [text for code, text in unit if code.casefold() == name.casefold()]
            texts = texts or [text for code, text in unit if _first(code) == name.casefold()]
            if len(texts) != 1:
                self.left_out[f"{'several texts' if texts else 'no text'} in {name}"] += 1
                return None
            value[name] = texts[0]
        return value

    def _units(self, problems: Problems) -> Iterator[list[tuple[str, str]] | None]:
        """Yields code and text of each unit's variants; None for a problem. Raises: DataError."""
        etree = library("defusedxml.ElementTree", "translation", self.file)
        from defusedxml.common import DefusedXmlException

        depth, root, number = 0, None, 0
        try:
            for event, element in etree.iterparse(str(self.path), events=("start", "end")):
                depth += 1 if event == "start" else -1
                if root is None:
                    root = element
                    self._check(root)
                if depth > _DEEPEST:
                    raise DataError(f"has elements in elements more than {_DEEPEST} deep", file=self.file)
                if event == "end" and _tag(element) == "tu":
                    number += 1
                    try:
                        yield _variants(element)
                    except DataError as error:
                        problems.add(number, str(error))
                        yield None
                    element.clear()
                    _forget(root)
        except DefusedXmlException as error:
            raise DataError(
                f"declares an entity, which is refused: {type(error).__name__}", file=self.file
            ) from None
        except SyntaxError as error:  # includes ElementTree's ParseError
            raise DataError(f"is not XML: {error.msg}", file=self.file) from None

    def _check(self, root: Any) -> None:
        """Raises: DataError if the file is XML of another kind."""
        if _tag(root) != "tmx":
            raise DataError(f"is no TMX: its first element is <{_tag(root)}>, not <tmx>", file=self.file)


def _variants(unit: Any) -> list[tuple[str, str]]:
    """Code and text of a unit's variants. Raises: DataError if it is too large, or a variant has no language."""
    variants, characters = [], 0
    for variant in unit:
        if _tag(variant) != "tuv":
            continue
        code = variant.get(_LANGUAGE) or variant.get("lang")
        if not code:
            raise DataError("a <tuv> does not say its language (xml:lang)")
        segment = next((child for child in variant if _tag(child) == "seg"), None)
        text = "" if segment is None else "".join(_texts(segment))
        characters += len(text)
        variants.append((str(code).strip(), text))
    if characters > _MOST_CHARACTERS or len(variants) > _MOST_VARIANTS:
        raise DataError(
            f"has {len(variants):,} variants with {characters:,} characters; at most {_MOST_VARIANTS:,} and {_MOST_CHARACTERS:,}"
        )
    return variants


def _texts(element: Any) -> Iterator[str]:
    """Yields a segment's text, without its codes; `_DEEPEST` bounds the recursion."""
    yield element.text or ""
    for child in element:
        if _tag(child) not in _CODES:
            yield from _texts(child)
        yield child.tail or ""


def _forget(root: Any) -> None:
    """Frees the units that were read, children of <body>, the last child of <tmx>."""
    for body in root:
        if _tag(body) == "body":
            body.clear()


def _tag(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _first(code: str) -> str:
    return code.replace("_", "-").partition("-")[0].casefold()
