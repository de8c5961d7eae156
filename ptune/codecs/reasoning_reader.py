"""Splits an answer into what was thought and what is said, while it is generated. All pieces together are the text."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ptune.codecs.held_back import held_back
from ptune.codecs.reasoning import ReasoningFormat
from ptune.codecs.tool_reader import Said


@dataclass(frozen=True, slots=True)
class Thought:
    """Event: text that was thought."""

    text: str


@dataclass(frozen=True, slots=True)
class Marked:
    """Event: a mark, with the white space that the template writes around it."""

    text: str


Event = Thought | Said | Marked


class _State(Enum):
    BEFORE = auto()  # reasoning may begin
    BEGUN = auto()  # after its mark, where white space may follow
    THINKING = auto()
    ENDED = auto()  # after its second mark, where white space may follow
    SAYING = auto()


class ReasoningReader:
    """Takes an answer's text piece by piece. However the text is cut, the same characters are thought and said.

    Reasoning is what stands at the beginning, between the marks; an answer that ends before the second mark is all reasoning.
    begun: the prompt ends with the first mark.
    """

    def __init__(self, form: ReasoningFormat, *, begun: bool) -> None:
        self.begun = begun
        """Whether there is reasoning."""
        self._form = form
        self._held = ""
        self._state = _State.THINKING if begun else _State.BEFORE
        self._white = ""  # what may follow the mark just read and belongs to it
        # Of the white space before the second mark, as much belongs to it as the template writes there.
        space = form.end[: len(form.end) - len(form.end.lstrip())]
        self._spaces = tuple(space[start:] for start in range(len(space) + 1))
        self._ends = tuple(white + form.closing for white in self._spaces)

    @property
    def over(self) -> bool:
        """Whether everything that follows is said."""
        return self._state in (_State.ENDED, _State.SAYING)

    def push(self, text: str) -> list[Event]:
        """Adds text and returns the events that are certain now."""
        self._held += text
        events: list[Event] = []
        read = {
            _State.BEFORE: self._before,
            _State.BEGUN: self._begun,
            _State.THINKING: self._thinking,
            _State.ENDED: self._ended,
            _State.SAYING: self._saying,
        }
        while self._held and read[self._state](events):
            pass
        return events

    def finish(self) -> list[Event]:
        """Returns the text held back, which is no mark."""
        left, self._held = self._held, ""
        if not left:
            return []
        return [Thought(left) if self._state is _State.THINKING else Said(left)]

    def _before(self, events: list[Event]) -> bool:
        """Expects a mark, perhaps after white space."""
        text, opening, plain = self._held.lstrip(), self._form.opening, self._form.plain.strip()
        space = len(self._held) - len(text)
        if text.startswith(opening):
            self.begun, self._state = True, _State.BEGUN
            self._white = self._form.begin[len(self._form.begin.rstrip()) :]
            return self._mark(events, space + len(opening))
        if plain and text.startswith(plain):
            self._state = _State.SAYING
            return self._mark(events, space + len(plain))
        if opening.startswith(text) or plain.startswith(text):
            return False
        self._state = _State.SAYING
        return True

    def _begun(self, events: list[Event]) -> bool:
        return self._skip_white(events, _State.THINKING)

    def _thinking(self, events: list[Event]) -> bool:
        """Text up to the second mark."""
        at = self._held.find(self._form.closing)
        if at < 0:
            sure = len(self._held) - held_back(self._held, self._ends)
            self._think(events, sure)
            return False
        white = next(white for white in self._spaces if self._held[:at].endswith(white))
        self._think(events, at - len(white))
        self._state = _State.ENDED
        self._white = self._form.end[len(self._form.end.rstrip()) :]
        return self._mark(events, len(white) + len(self._form.closing))

    def _ended(self, events: list[Event]) -> bool:
        return self._skip_white(events, _State.SAYING)

    def _saying(self, events: list[Event]) -> bool:
        events.append(Said(self._held))
        self._held = ""
        return False

    def _skip_white(self, events: list[Event], state: _State) -> bool:
        """Passes over as much white space as the template writes here."""
        pairs = zip(self._held, self._white, strict=False)
        same = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(self._held), len(self._white)))
        self._white = self._white[same:]
        self._mark(events, same)
        if self._held or not self._white:
            self._state = state
        return True

    def _think(self, events: list[Event], characters: int) -> None:
        if characters:
            events.append(Thought(self._held[:characters]))
            self._held = self._held[characters:]

    def _mark(self, events: list[Event], characters: int) -> bool:
        if characters:
            events.append(Marked(self._held[:characters]))
            self._held = self._held[characters:]
        return True
