"""A recipe in the making, and what has become of each field of the file that it is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

How = Literal["taken", "look", "left", "needless"]
"""taken: means the same here. look: taken, and means something else here. left: not taken. needless: changes nothing here."""

_LARGEST = 1e15  # beyond it a number is a slip, and products of such would have no end
_LONGEST = 60  # characters of a value that is shown


@dataclass(frozen=True)
class Note:
    """What has become of one field, or of several that have a meaning together."""

    field: str
    value: Any
    how: How
    path: str = ""  # of the recipe's field, where there is one
    now: Any = None  # its value there
    said: str = ""

    def document(self) -> dict[str, Any]:
        """As plain values."""
        kept = {"field": self.field, "value": shown(self.value), "how": self.how, "path": self.path}
        return {**kept, "now": shown(self.now), "said": self.said}


@dataclass
class Draft:
    """Values of a recipe by their paths ("train.lr"), and notes. config: the file's fields, nested ones with dots in their names."""

    tool: str
    file: Path
    config: Mapping[str, Any]
    devices: int = 1
    task: str = "Chat"
    method: str = "Lora"
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    done: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        """Whether the file says something in this field."""
        return name != "" and not is_empty(self.config.get(name))

    def get(self, name: str, default: Any = None) -> Any:
        """What the file says, or `default` where it says nothing."""
        return self.config[name] if self.has(name) else default

    def on(self, name: str, default: bool = False) -> bool:
        """Whether a switch is on."""
        return is_on(self.get(name, default))

    def count(self, name: str, default: int) -> int:
        """A whole number of at least 1; a field that holds none is left, and `default` returned."""
        value = number(self.get(name, default))
        if value is None or value < 1 or value != int(value):
            self.leave(name, f"it must be a whole number of at least 1; {default} was taken")
            return default
        return int(value)

    def set(self, name: str, path: str, value: Any, look: str = "") -> None:
        """Takes field `name` over. look: what to look at, where it means something else here."""
        self.values[path] = value
        self._note(Note(name, self._said_by(name), "look" if look else "taken", path, value, look))

    def default(self, path: str, value: Any, look: str = "") -> None:
        """What the tool does where the file says nothing, and ptune would do otherwise."""
        if path not in self.values:
            self.values[path] = value
            said = look or f"{self.tool}'s default"
            self.notes.append(Note("", None, "look" if look else "taken", path, value, said))

    def usual(self, name: str, path: str, value: Any) -> None:
        """The tool's default, where the file says nothing in `name`."""
        if not self.has(name):
            self.default(path, value)

    def look(self, name: str, said: str) -> None:
        """A field that sets nothing here and should be looked at."""
        self._note(Note(name, self._said_by(name), "look", said=said))

    def leave(self, name: str, said: str) -> None:
        """A field without a counterpart. said: why, and what to use."""
        self._note(Note(name, self._said_by(name), "left", said=said))

    def needless(self, name: str, said: str) -> None:
        """A field that a training here does not need."""
        self._note(Note(name, self._said_by(name), "needless", said=said))

    def refuse(self, path: str, said: str, how: How = "left") -> None:
        """A value that a recipe cannot have: its field was not taken after all."""
        del self.values[path]
        self.notes = [
            replace(note, how=how, path="", now=None, said=said) if note.path == path else note
            for note in self.notes
            if note.path != path or note.field
        ]

    def _note(self, note: Note) -> None:
        self.done.update([note.field] if note.field in self.config else note.field.split(" × "))
        self.notes.append(note)

    def _said_by(self, name: str) -> Any:
        values = [self.config.get(one) for one in name.split(" × ")]
        return values[0] if len(values) == 1 else " × ".join(shown(value) for value in values)


def is_empty(value: Any) -> bool:
    """Whether a field says nothing: no value, or nothing in it."""
    return value is None or value in ("", [], {})


def is_on(value: Any) -> bool:
    """Whether a switch is on, written as YAML, JSON or a command line has it."""
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)


def is_off(value: Any) -> bool:
    """Whether a value says that something is not done."""
    return value is False or (
        isinstance(value, str) and value.strip().lower() in ("false", "no", "none", "off")
    )


def number(value: Any) -> float | None:
    """A number, also one that YAML takes for text (1e-4); None for what is none, or is beyond measure."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and abs(found) <= _LARGEST else None


def shown(value: Any) -> str:
    """A value in one short line that any terminal and any comment can hold."""
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def printable(text: str) -> str:
    """Text for one line of a terminal or a comment."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def names(value: Any) -> list[str]:
    """Names as a list: YAML has one, a command line commas or spaces."""
    words = value if isinstance(value, list) else str(value).replace(",", " ").split()
    return [str(word).strip(" ,\"'") for word in words]
