"""Locates each answer in a rendered conversation.

An answer is defined as in serving: render the conversation up to and including it; the answer is the part after its prompt
(the messages before it, rendered with the generation prompt), up to and including the template's end-of-turn token. So
training targets are exactly what the model will have to write. Many templates show an answer differently once others
follow: they leave out its reasoning, or move the tools to the last question. Then the conversation has several texts, and
each answer is taken from one that shows it as it was asked for. A template that marks answers itself ({% generation %})
must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptune.codecs.template import REASONING, ChatTemplate, Tools
from ptune.codecs.text_encoder import shared_length
from ptune.errors import TemplateError


@dataclass(frozen=True)
class Answer:
    """An answer in a text: characters `start` to `end`."""

    start: int
    end: int
    ended: bool  # whether the text up to `end` ends with an end-of-turn token


@dataclass(frozen=True)
class Shown:
    """A text that ends with an answer, and those of its answers, in order, that it shows as they were asked for."""

    text: str
    answers: tuple[Answer, ...]


class RenderedConversation:
    """A rendered conversation, with the positions of its answers.

    ends: matches the tokens that end a turn. variables: further ones of the template.
    """

    def __init__(
        self,
        template: ChatTemplate,
        messages: Sequence[dict[str, Any]],
        tools: Tools | None,
        ends: re.Pattern[str],
        variables: Mapping[str, Any],
    ) -> None:
        self._template = template
        self._messages = messages
        self._tools = tools
        self._ends = ends
        self._variables = variables
        self._answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]

    def shown(self, wanted: Sequence[int]) -> list[Shown]:
        """The fewest texts that show each wanted answer (indices of messages, in order) as it was asked for.

        Raises: TemplateError that says why an answer cannot be located.
        """
        texts = {index: self._until(index) for index in wanted}
        answers = {index: self._answer(index, *texts[index]) for index in wanted}
        remaining, located = list(wanted), []
        while remaining:
            whole, _ = texts[remaining[-1]]
            self._check_tools(whole)
            inside = [index for index in remaining if whole.startswith(texts[index][0][: answers[index].end])]
            located.append(Shown(whole, tuple(answers[index] for index in inside)))
            remaining = [index for index in remaining if index not in inside]
        return located[::-1]

    def _until(self, index: int) -> tuple[str, list[tuple[int, int]]]:
        """The conversation up to an answer, and the spans that the template marks."""
        return self._template.render_with_spans(
            self._messages[: index + 1], tools=self._tools, **self._variables
        )

    def _answer(self, index: int, text: str, marked: list[tuple[int, int]]) -> Answer:
        """The position of messages[index] in the text that ends with it. Raises: TemplateError if it cannot be located."""
        prompt = self._before(index, asking=True)
        if not text.startswith(prompt):
            at = shared_length(prompt, text)
            raise TemplateError(
                f"the targets of {self._numbered(index)} cannot be located: the chat template writes what comes before it"
                f" differently when it asks for the answer (…{_around(prompt, at)}) and when it shows the answer"
                f' (…{_around(text, at)}). Mark this answer "train": false, or use a template that shows what it asks'
                " for (--task.template FILE)."
            )
        end = self._ends.search(text, len(prompt))
        answer = Answer(len(prompt), max(len(prompt), len(text.rstrip())), ended=False)
        if end is not None:
            answer = Answer(len(prompt), end.end(), ended=True)
        self._check_complete(index, text[answer.start : answer.end])
        if marked:
            self._check_mark(index, answer, text, marked)
        return answer

    def _before(self, index: int, *, asking: bool) -> str:
        return self._template.render(
            self._messages[:index], add_generation_prompt=asking, tools=self._tools, **self._variables
        )

    def _check_complete(self, index: int, shown: str) -> None:
        """Raises: TemplateError if the template leaves out part of the answer."""
        shown = _squeezed(shown)
        for what, text in _parts(self._messages[index]):
            if _squeezed(text) not in shown:
                raise TemplateError(
                    f"the chat template leaves out the {what} of {self._numbered(index)}, so it cannot be learned: take"
                    ' it out of the data, mark the answer "train": false, or use a template that shows it'
                    " (--task.template FILE)"
                )

    def _check_tools(self, text: str) -> None:
        """Raises: TemplateError if the template leaves out a tool."""
        for tool in self._tools or ():
            name = _name_of(tool)
            if name is not None and name not in text:
                raise TemplateError(
                    f"the chat template leaves out the tool {name!r}, which is on offer: take it out of the data, or use"
                    " a template that shows tools (--task.template FILE)"
                )

    def _check_mark(self, index: int, answer: Answer, text: str, marked: list[tuple[int, int]]) -> None:
        """Raises: TemplateError if the template's own mark differs.

        The mark may leave out the end-of-turn token, and may start with the text of the generation prompt.
        """
        number = self._answers.index(index) + 1
        if len(marked) != number:
            raise TemplateError(
                f"the chat template marks {len(marked)} answers with {{% generation %}}, but up to"
                f" {self._numbered(index)} there are {number}"
            )
        start, end = marked[-1]
        opened = text[start : answer.start]
        if opened:
            asked = self._before(index, asking=True).removeprefix(self._before(index, asking=False))
            start = answer.start if asked.endswith(opened) else start
        between = text[min(end, answer.end) : max(end, answer.end)]
        if start != answer.start or self._ends.sub("", between).strip():
            raise TemplateError(
                f"the chat template contradicts itself: with {{% generation %}} it marks {text[start:end]!r} as an"
                f" answer, but what follows its generation prompt is {text[answer.start : answer.end]!r}"
            )

    def _numbered(self, index: int) -> str:
        return f"answer {self._answers.index(index) + 1} of {len(self._answers)}"


def _parts(message: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The parts of an answer that a template must show: name and text."""
    yield "content", message.get("content") or ""
    for name in REASONING:
        if isinstance(message.get(name), str):
            yield name, message[name]
    for called in map(_name_of, message.get("tool_calls") or ()):
        if called is not None:
            yield f"tool call {called!r}", called


def _name_of(tool: Mapping[str, Any]) -> str | None:
    """The function's name in a tool or a call."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else tool.get("name")
    return name if isinstance(name, str) else None


def _squeezed(text: str) -> str:
    """Text without white space, which templates trim and add freely."""
    return "".join(text.split())


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 20) : at + 20])
