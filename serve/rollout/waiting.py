"""The answers of trials that wait for somebody to say how good they are."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

MOST_WAITING = 100_000
"""The oldest beyond these are forgotten."""


class Judged(NamedTuple):
    """An answer that a trial waits to hear of, and whose it was."""

    alias: str
    adapter: str
    key: str


class Waiting:
    """The answers of trials by request id, each until it is judged."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Judged] = OrderedDict()
        self._requests: OrderedDict[str, str] = OrderedDict()  # by the second ids of answers

    def add(self, request_id: str, answer: Judged) -> None:
        self._answers[request_id] = answer
        self._answers.move_to_end(request_id)
        if len(self._answers) > MOST_WAITING:
            self._answers.popitem(last=False)

    def call_also(self, request_id: str, answer_id: str) -> None:
        """Gives an answer that waits a second id."""
        if request_id in self._answers:
            self._requests[answer_id] = request_id
            if len(self._requests) > MOST_WAITING:
                self._requests.popitem(last=False)

    def take(self, answer_id: str, key: str) -> Judged | None:
        """The answer, once; None where there is none that this key has got."""
        request_id = self._requests.get(answer_id, answer_id)
        answer = self._answers.get(request_id)
        if answer is None or answer.key != key:
            return None
        self._requests.pop(answer_id, None)
        return self._answers.pop(request_id)
