"""Parses tool calls in an answer while it is generated. Text that turns out not to be a call is returned unchanged."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from pydantic_core import from_json

from ptune.codecs.tool_calls import PYTHON_TAG, ToolFormat, arguments_of


@dataclass(frozen=True, slots=True)
class Said:
    """Event: text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """Event: a call begins."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Argued:
    """Event: more of the latest call's arguments, as JSON text."""

    index: int
    text: str


Event = Said | Called | Argued


_AFTER_CALL = " \t\r\n}"


class _State(Enum):
    TEXT = auto()  # a call may begin
    OPENING = auto()  # after the mark, before the {
    CALL = auto()
    CLOSING = auto()  # the call is complete, its closing mark is expected
    OVER = auto()  # no further call may begin


class ToolReader:
    """Takes an answer's text piece by piece and returns its events: text and calls.

    form: the format in which the model's template writes calls.
    many: whether to allow several calls; if not, `done` is set after the first, and the rest is ignored.
    names: of the functions on offer, by which a call without a mark is told from an answer in JSON; None = any name calls.
    """

    def __init__(self, form: ToolFormat, *, many: bool = True, names: Collection[str] | None = None) -> None:
        self.done = False
        self.calls = 0
        self._form = form
        self._many = many
        self._names = names
        self._held = ""
        self._mark = ""  # the text that opened the call, kept in case it is not a call
        self._state = _State.TEXT if form.begin else _State.OPENING
        self._call = _Call()

    @property
    def calling(self) -> bool:
        """Whether a call has begun that is not complete."""
        return self._state is _State.CALL and self._call.told

    def push(self, text: str) -> list[Event]:
        """Adds text and returns the events that are certain now."""
        self._held += text
        return self._read()

    def finish(self) -> list[Event]:
        """Returns the text held back, which is not a call."""
        events = self._read()
        if self._state is _State.CALL and not self._call.named:
            events += self._say(self._mark + self._call.written)
        elif self._state in (_State.TEXT, _State.OPENING, _State.OVER):
            left = self._mark + self._held
            events += self._say(left) if left.strip() or not self.calls else []
        self._held = self._mark = ""
        return events

    def _read(self) -> list[Event]:
        events: list[Event] = []
        moved = True
        while moved and not self.done:
            moved = {
                _State.TEXT: self._text,
                _State.OPENING: self._opening,
                _State.CALL: self._in_call,
                _State.CLOSING: self._closing,
                _State.OVER: self._over,
            }[self._state](events)
        return events

    def _text(self, events: list[Event]) -> bool:
        """Text up to the mark of a call; white space before a mark belongs to it."""
        mark = self._form.begin
        before, found, after = self._held.partition(mark)
        if found:
            stripped = before.rstrip()
            events += self._say(stripped)
            self._mark, self._held, self._state = before[len(stripped) :] + mark, after, _State.OPENING
            return True
        keep = next((n for n in range(len(mark) - 1, 0, -1) if self._held.endswith(mark[:n])), 0)
        sure = self._held[: len(self._held) - keep].rstrip()
        events += self._say(sure)
        self._held = self._held[len(sure) :]
        return False

    def _opening(self, events: list[Event]) -> bool:
        """Expects white space, the list's [ if there is one, and a {."""
        brackets = r"\s*(\[\s*)?" if self._form.kind == "mistral" else r"\s*"
        tag = rf"\s*({re.escape(PYTHON_TAG)})?" if self._form.kind == "llama" and not self.calls else ""
        found = re.match(tag + brackets, self._held)
        opened = found.end() if found else 0
        rest = self._held[opened:]
        if rest.startswith("{"):
            self._mark += self._held[:opened]
            self._held, self._call, self._state = rest, _Call(), _State.CALL
            return True
        if rest and not (tag and not rest.isspace() and PYTHON_TAG.startswith(rest)):
            return self._no_call(events, self._held)
        return False

    def _in_call(self, events: list[Event]) -> bool:
        self._held = self._call.push(self._held)
        if self._call.named and not self._call.told:
            if self._is_answer(self._call.name):
                return self._no_call(events, self._call.written + self._held)
            self._call.told = True
            events.append(Called(self.calls, self._call.name))
            self.calls += 1
        if self._call.told and (more := self._call.taken()):
            events.append(Argued(self.calls - 1, more))
        if self._call.broken and not self._call.told:
            return self._no_call(events, self._call.written + self._held)
        if self._call.closed or self._call.broken:
            self._mark, self._state = "", _State.CLOSING
            self.done = not self._many
            return True
        return False

    def _is_answer(self, name: str) -> bool:
        """Whether an object with this name is an answer in JSON: nothing marks it as a call, and no function is called so."""
        marked = self._form.begin or PYTHON_TAG in self._mark
        return not marked and self._names is not None and name not in self._names

    def _closing(self, events: list[Event]) -> bool:
        """Expects the end of a call, perhaps after a brace too many, and perhaps another call."""
        kind, end = self._form.kind, self._form.end
        text = self._held.lstrip(_AFTER_CALL)
        if kind == "hermes":
            if text.startswith(end):
                self._held, self._state = text[len(end) :], _State.TEXT
                return True
            if text.startswith("{"):  # some models write several calls between two marks
                self._mark = self._held[: len(self._held) - len(text)]
                self._held, self._state = text, _State.OPENING
                return True
            if text and not end.startswith(text):
                self._state = _State.TEXT
                return True
            return False
        separator = text[:1]
        if separator and separator in ",;":
            if not text[1:].strip():
                return False
            self._mark, self._held, self._state = separator, text[1:], _State.OPENING
            return True
        if kind == "llama" and separator == "{":
            self._state = _State.OPENING
            return True
        if separator:
            self._held = text.removeprefix("]") if kind == "mistral" else text
            self._state = _State.OVER
            return True
        return False

    def _over(self, events: list[Event]) -> bool:
        """Passes on text, without white space at its end."""
        sure = self._held.rstrip()
        events += self._say(sure)
        self._held = self._held[len(sure) :]
        return False

    def _no_call(self, events: list[Event], text: str) -> bool:
        """Goes back to text: this was not a call."""
        mark, self._mark = self._mark, ""
        if self._form.begin:
            events += self._say(mark)
            self._held, self._state = text, _State.TEXT
        else:
            self._held, self._state = mark + text, _State.OVER
        return True

    def _say(self, text: str) -> list[Event]:
        return [Said(text)] if text else []


class _At(Enum):
    START = auto()
    KEY = auto()
    IN_KEY = auto()
    COLON = auto()
    VALUE = auto()
    IN_VALUE = auto()
    COMMA = auto()


_ARGUMENTS = ("arguments", "parameters")
_KEYS = ("name", *_ARGUMENTS, "id", "type")


class _Call:
    """Parses one call, a JSON object with `name` and `arguments` or `parameters`, character by character."""

    def __init__(self) -> None:
        self.name = ""
        self.named = False  # the name is known, and that arguments begin or that there are none
        self.told = False
        self.closed = False
        self.broken = False
        self.written = ""
        self._at = _At.START
        self._key = ""
        self._value = ""
        self._depth = 0
        self._quoted = self._escaped = False
        self._arguments = ""  # not taken yet
        self._has_arguments = False
        self._arguments_end = False  # further ones are left out: two values side by side are no JSON

    def push(self, text: str) -> str:
        """Reads up to the end of the object, or up to what is no JSON; returns the text from there on."""
        for place, letter in enumerate(text):
            if not self._letter(letter):
                self.broken = True
                return text[place:]
            self.written += letter
            if self.closed:
                return text[place + 1 :]
        return ""

    def taken(self) -> str:
        """Takes the new text of the arguments."""
        taken, self._arguments = self._arguments, ""
        return taken

    def _letter(self, letter: str) -> bool:
        """Reads one character; returns whether it is valid JSON here."""
        if self._at is _At.IN_KEY:
            return self._in_key(letter)
        if self._at is _At.IN_VALUE:
            return self._in_value(letter)
        if letter.isspace():
            return True
        if self._at is _At.START:
            self._at = _At.KEY
            return letter == "{"
        if self._at is _At.KEY:
            self._key, self._at = "", _At.IN_KEY
            return letter == '"'
        if self._at is _At.COLON:
            self._at = _At.VALUE
            return letter == ":"
        if self._at is _At.VALUE:
            self._value, self._depth, self._quoted, self._at = "", 0, False, _At.IN_VALUE
            return letter not in ",}]:" and self._in_value(letter)
        self._at = _At.KEY
        if letter == "}":
            return self._close()
        return letter == ","

    def _in_key(self, letter: str) -> bool:
        if letter == '"':
            self._at = _At.COLON
            return self.named or self._key in _KEYS
        self._key += letter
        return True

    def _in_value(self, letter: str) -> bool:
        if not self._quoted and not self._depth and (letter in ",}" or letter.isspace()):
            return self._end_value() and (letter.isspace() or self._letter(letter))
        if letter == "<" and not self._quoted:
            return False  # a mark, which comes before all braces are closed
        self._value += letter
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif letter == "\\":
                self._escaped = True
            elif letter == '"':
                self._quoted = False
        elif letter == '"':
            self._quoted = True
        elif letter in "{[":
            self._depth += 1
        elif letter in "}]":
            self._depth -= 1
        whole = not self._quoted and not self._depth and letter in '"}]'
        self._pass_on(letter, whole=whole)
        return self._end_value() if whole else True

    def _pass_on(self, letter: str, *, whole: bool) -> None:
        """Passes arguments on as they are written; a string of JSON only when it is complete."""
        if self._key not in _ARGUMENTS or self._arguments_end:
            return
        self._has_arguments = True
        if not self._value.startswith('"'):
            self._arguments += letter
        elif whole:
            self._arguments += arguments_of(self._value)
        self.named = self.named or bool(self.name)

    def _end_value(self) -> bool:
        self._at = _At.COMMA
        self._arguments_end = self._arguments_end or self._key in _ARGUMENTS
        if self._key != "name":
            return True
        try:
            name = from_json(self._value)
        except ValueError:
            return False
        if not isinstance(name, str) or not name or self.name:
            return False
        self.name = name
        self.named = self._has_arguments
        return True

    def _close(self) -> bool:
        self.closed = True
        if self.name and not self._has_arguments:
            self._arguments, self._has_arguments = "{}", True
        self.named = bool(self.name)
        return self.named
