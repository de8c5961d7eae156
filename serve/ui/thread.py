"""A conversation of the page, as it is kept in the browser: a tree of turns, so that what was edited keeps what it was.

A turn is a question and its answers, one of each column. Another question at the same place, or the same one asked again,
is another turn after the same one. The last turn that is shown is `at`; what is shown is the way from the root to it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MOST_TURNS = 2000
TITLE = 60
"""Characters of a question that become the title."""
IN_ONE_LINE = 300


DataUri = Annotated[str, Field(pattern=r"^data:image/(png|jpeg|webp|gif|bmp);base64,[A-Za-z0-9+/]*=*$")]


class _Kept(BaseModel):
    """A part of a conversation. What another version wrote more is ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)


class Call(_Kept):
    """A function that the model calls, with its arguments as JSON."""

    id: str
    name: str
    arguments: str


class Answer(_Kept):
    """What one model answered to a question."""

    model: str
    system: str = ""  # the system prompt that it had
    text: str = ""
    thought: str = ""
    thought_s: float = 0.0
    thinking: bool = False  # still
    calls: tuple[Call, ...] = ()
    tools: str = ""  # the tools on offer, as JSON
    liked: bool | None = None
    correction: str | None = None  # what it should have said

    @field_validator("tools")
    @classmethod
    def _is_a_list_of_objects(cls, tools: str) -> str:
        listed = json.loads(tools) if tools else []
        if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
            raise ValueError("tools must be a list of objects")
        return tools

    @property
    def said(self) -> str:
        """What the conversation goes on with."""
        return self.text if self.correction is None else self.correction


class Turn(_Kept):
    """A question and its answers, one of each column; None where there is none."""

    after: int | None  # the turn before it
    question: str
    images: tuple[DataUri, ...] = ()
    answers: tuple[Answer | None, ...]


class Thread(_Kept):
    """A conversation. Turns come after those that they follow."""

    id: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern=r"^[0-9a-f]{32}$")
    title: Annotated[str, Field(max_length=IN_ONE_LINE)] = ""
    changed_s: float = 0.0  # since 1970
    turns: tuple[Turn, ...] = Field(default=(), max_length=MOST_TURNS)
    at: int | None = None

    @model_validator(mode="after")
    def _is_a_tree(self) -> Thread:
        places = range(len(self.turns))
        if not all(turn.after is None or 0 <= turn.after < place for place, turn in enumerate(self.turns)):
            raise ValueError("a turn must come after the one that it follows")
        if len({len(turn.answers) for turn in self.turns}) > 1:
            raise ValueError("all turns must have the same number of columns")
        if (self.at is None) != (not self.turns) or (self.at is not None and self.at not in places):
            raise ValueError("at must be one of the turns")
        return self

    @property
    def columns(self) -> int:
        """How many models answer; 0 before the first question."""
        return len(self.turns[0].answers) if self.turns else 0

    @property
    def path(self) -> tuple[int, ...]:
        """The turns that are shown, from the first to the last."""
        return self.way_to(self.at)

    def way_to(self, place: int | None) -> tuple[int, ...]:
        """The turns from the root to this one."""
        way = []
        while place is not None:
            way.append(place)
            place = self.turns[place].after
        return tuple(reversed(way))

    @property
    def branches(self) -> tuple[int, ...]:
        """The last turns of all branches."""
        followed = {turn.after for turn in self.turns}
        return tuple(place for place in range(len(self.turns)) if place not in followed)

    @property
    def branch(self) -> int:
        """Which of the branches is shown, from 0; of those that pass here the newest."""
        passing = [number for number, last in enumerate(self.branches) if self.at in self.way_to(last)]
        return max(passing, default=0)

    def asked(
        self, question: str, images: Sequence[str] = (), *, columns: int, instead_of: int | None = None
    ) -> Thread:
        """With a new turn after the last one, or beside the one that it is asked instead of."""
        before = self._answered_before(self.at) if instead_of is None else self.turns[instead_of].after
        turn = Turn(after=before, question=question, images=tuple(images), answers=(None,) * columns)
        named: dict[str, Any] = (
            {} if self.turns else {"id": uuid.uuid4().hex}
        )  # what is empty may be shown to many
        named["title"] = self.title or first_words(question)
        return self._with(turns=(*self.turns, turn), at=len(self.turns), **named)

    def asked_again(self) -> Thread:
        """With the last question once more, beside itself. A turn that has no answer at all is asked itself."""
        assert self.at is not None
        last = self.turns[self.at]
        if not any(last.answers):
            return self._with()
        return self.asked(last.question, last.images, columns=len(last.answers), instead_of=self.at)

    def answered(self, answers: Sequence[Answer | None]) -> Thread:
        """With these answers of the last turn."""
        assert self.at is not None
        return self._with_turn(self.at, self.turns[self.at].model_copy(update={"answers": tuple(answers)}))

    def judged(self, place: int, column: int, **verdict: Any) -> Thread:
        """With `liked` or `correction` of an answer changed."""
        turn = self.turns[place]
        answers = list(turn.answers)
        answer = answers[column]
        if answer is None:
            return self
        answers[column] = answer.model_copy(update=verdict)
        return self._with_turn(place, turn.model_copy(update={"answers": tuple(answers)}))

    def titled(self, title: str) -> Thread:
        """With another title, unless that is empty."""
        line = " ".join(title.split())[:IN_ONE_LINE]
        return self.model_copy(update={"title": line}) if line else self

    def settled(self) -> Thread:
        """With nothing under way: what was thought is done, although no answer came of it."""
        if self.at is None:
            return self
        answers = tuple(
            answer and answer.model_copy(update={"thinking": False}) for answer in self.turns[self.at].answers
        )
        return self.answered(answers)

    def stepped(self, steps: int) -> Thread:
        """With another branch shown."""
        branches = self.branches
        if not branches:
            return self
        return self.model_copy(update={"at": branches[(self.branch + steps) % len(branches)]})

    def _answered_before(self, place: int | None) -> int | None:
        """The turn that a new question follows: one without any answer is passed by, as many templates need both."""
        while place is not None and not any(self.turns[place].answers):
            place = self.turns[place].after
        return place

    def _with_turn(self, place: int, turn: Turn) -> Thread:
        return self._with(turns=(*self.turns[:place], turn, *self.turns[place + 1 :]))

    def _with(self, **fields: Any) -> Thread:
        return self.model_copy(update={"changed_s": time.time(), **fields})

    def shown_turns(self, column: int) -> Iterator[tuple[int, Turn, Answer | None]]:
        """The turns that a column shows: those that it answered, and the last one."""
        for place in self.path:
            answer = self.turns[place].answers[column]
            if answer is not None or place == self.at:
                yield place, self.turns[place], answer


def first_words(question: str) -> str:
    """The beginning of a question in one line."""
    line = " ".join(question.split())
    return line if len(line) <= TITLE else line[:TITLE].rsplit(" ", 1)[0].rstrip(",.;:") + " …"


def read(text: str | None) -> Thread | None:
    """A conversation as the browser kept it; None if it is none."""
    try:
        return Thread.model_validate_json(text or "")
    except ValidationError:
        return None
