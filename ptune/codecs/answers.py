"""Which part of a rendered conversation each answer is.

An answer begins where the prompt for it ends: the messages before it, rendered with the generation prompt, as serving
renders them. It ends with the end-of-turn token that the template writes. So what is trained on is exactly what the
model will be asked to write. A template that marks answers itself ({% generation %}) must agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ptune.codecs.template import ChatTemplate, Tools
from ptune.codecs.text_encoder import shared_length
from ptune.errors import TemplateError

_NEXT_QUESTION = {"role": "user", "content": "?"}


@dataclass(frozen=True)
class Answer:
    """An answer in the rendered text: characters `start` to `end`."""

    start: int
    end: int
    ended: bool  # the last thing before `end` is an end-of-turn token


class RenderedConversation:
    """A conversation rendered as a whole, in which answers can be looked up.

    ends: matches the tokens that end a turn.

    Raises: TemplateError where the template cannot render the messages.
    """

    def __init__(
        self,
        template: ChatTemplate,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None,
        ends: re.Pattern[str],
    ) -> None:
        self._template = template
        self._messages = messages
        self._tools = tools
        self._ends = ends
        self._answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        self.text, self._marked = template.render_with_spans(messages, tools=tools)

    def answer(self, index: int) -> Answer:
        """Where messages[index], an assistant's, is in the text. Raises: TemplateError that says why it cannot be told."""
        start = self._start(index)
        answer = self._until_end(index, start)
        if self._marked:
            self._check_mark(index, answer)
        return answer

    def _start(self, index: int) -> int:
        prompt = self._template.render(self._messages[:index], add_generation_prompt=True, tools=self._tools)
        if self.text.startswith(prompt):
            return len(prompt)
        at = shared_length(prompt, self.text)
        raise TemplateError(
            f"{self._cannot_tell(index)} writes what comes before it differently when it asks for the answer"
            f" (…{_around(prompt, at)}) and when it shows the answer (…{_around(self.text, at)}). Train on the last answer"
            ' only (train_on: last), mark this one "train": false, or use another template.'
        )

    def _until_end(self, index: int, start: int) -> Answer:
        before = self._messages[: index + 1]
        until = self._rendered(before)
        # What stays the same whatever comes next is the answer's. Two tries: some templates write an answer differently
        # once another question follows, because they leave out its reasoning.
        for other in (until, self._rendered([*before, _NEXT_QUESTION])):
            shared = shared_length(self.text, other)
            end = self._ends.search(self.text, start, shared)
            if end is not None:
                return Answer(start, end.end(), ended=True)
        if until and self.text.startswith(until):
            return Answer(start, max(start, len(until.rstrip())), ended=False)
        raise TemplateError(
            f"{self._cannot_tell(index)} writes no end-of-turn token after it, and writes it differently when other"
            " messages follow"
        )

    def _rendered(self, messages: Sequence[dict[str, Any]]) -> str:
        """The text of other messages, or nothing where the template refuses them."""
        try:
            return self._template.render(messages, tools=self._tools)
        except TemplateError:
            return ""

    def _check_mark(self, index: int, answer: Answer) -> None:
        """Raises: TemplateError where the template's own mark is another; it may leave out the end-of-turn token."""
        if len(self._marked) != len(self._answers):
            raise TemplateError(
                f"the chat template marks {len(self._marked)} answers with {{% generation %}}, but the conversation has"
                f" {len(self._answers)}"
            )
        start, end = self._marked[self._answers.index(index)]
        between = self.text[min(end, answer.end) : max(end, answer.end)]
        if start != answer.start or self._ends.sub("", between).strip():
            raise TemplateError(
                f"the chat template contradicts itself: with {{% generation %}} it marks {self.text[start:end]!r} as an"
                f" answer, but what follows its generation prompt is {self.text[answer.start : answer.end]!r}"
            )

    def _cannot_tell(self, index: int) -> str:
        number = self._answers.index(index) + 1
        return f"the targets of answer {number} of {len(self._answers)} cannot be told: the chat template"


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 20) : at + 20])
