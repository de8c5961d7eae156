"""The answers of trials that wait for somebody to say how good they are."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

MOST_WAITING = 100_000
"""Ids; the oldest beyond these are forgotten."""
_ANSWER = re.compile(r"(?:chatcmpl-|cmpl-|msg_|resp_)*(.+)")


class Judged(NamedTuple):
    """An answer that a trial waits to hear of, and whose it was."""

    alias: str
    adapter: str
    key: str


@dataclass(eq=False)
class Awaited:
    """An answer until it is judged, under whichever of its ids."""

    answer: Judged
    judged: bool = False
    names: list[tuple[str, str]] = field(default_factory=list)  # key and id


class Waiting:
    """The answers of trials by key and id, each until it is judged.

    Clients choose ids of requests, so a key may give one to two requests. Nobody can say which of them a score is for, so none
    counts under such an id, also where the first was judged before the second came.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str], Awaited | None] = OrderedDict()  # None = several have it

    def add(self, request_id: str, answer: Judged) -> Awaited:
        """Makes an answer wait under the id of its request."""
        awaited = Awaited(answer)
        self.call_also(awaited, request_id)
        return awaited

    def call_also(self, awaited: Awaited, answer_id: str) -> None:
        """Gives an answer that waits a further id."""
        name = awaited.answer.key, bare(answer_id)
        self._answers[name] = None if name in self._answers else awaited
        awaited.names.append(name)
        self._answers.move_to_end(name)
        if len(self._answers) > MOST_WAITING:
            self._answers.popitem(last=False)

    def forget(self, awaited: Awaited) -> None:
        """There is no answer: the request was refused, and may come again under its id."""
        for name in awaited.names:
            if self._answers.get(name) is awaited:
                del self._answers[name]

    def knows(self, answer_id: str, key: str) -> bool:
        """Whether a request of this key had the id, however many had."""
        return (key, bare(answer_id)) in self._answers

    def take(self, answer_id: str, key: str) -> Judged | None:
        """The answer, once; None where there is none that this key has got, or several."""
        awaited = self._answers.get((key, bare(answer_id)))
        if awaited is None or awaited.judged:
            return None
        awaited.judged = True
        return awaited.answer


def bare(answer_id: str) -> str:
    """The id of a request, of that of its answer. Of `5` and `cmpl-5` it is one: the second may be the answer to the first."""
    found = _ANSWER.fullmatch(answer_id)
    return answer_id if found is None else found[1]
