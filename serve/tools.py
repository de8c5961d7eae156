"""Tools of a chat request: what its template is shown, what its answer may be, how calls are read out of it."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.codecs.tool_calls import PYTHON_TAG, ToolFormat, calls, text_or_calls, unknown_format
from ptune.codecs.tool_reader import Argued, Called, Said, ToolReader

from .structured_output import Asked, naming

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

    from .schemas import ChatRequest

_MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", PYTHON_TAG)
_ALPHABET = string.ascii_letters + string.digits

Delta = dict[str, Any]


@dataclass(frozen=True)
class ToolUse:
    """How one request uses tools; `form` is None where no calls are read."""

    shown: Sequence[Mapping[str, Any]] | None = None  # to the template
    form: ToolFormat | None = None
    many: bool = True
    named: bool = False
    marks: frozenset[int] = frozenset()  # special tokens that the reader has to see

    def choice(self) -> Choice:
        """Reads one answer."""
        return Choice(self)


NO_TOOLS = ToolUse()


def tool_use(body: ChatRequest, codec: ChatCodec) -> ToolUse:
    """What a request means by its tools. With `none` they are not even shown: what is not offered is not called.

    Raises: RequestError where the template writes no calls that can be told.
    """
    if not body.tools or body.tool_choice == "none":
        return NO_TOOLS
    form = codec.tool_format
    if form is None:
        raise unknown_format()
    return ToolUse(
        shown=body.tools,
        form=form,
        many=body.parallel_tool_calls and not body.tool_choice.startswith("="),
        named=body.tool_choice.startswith("="),
        marks=frozenset(token for token in map(codec.silent_mark, _MARKS) if token is not None),
    )


def form_with_calls(body: ChatRequest, codec: ChatCodec, use: ToolUse, asked: Asked | None) -> Asked | None:
    """What the answer may be: a call where one is asked for, a valid one where a tool is strict, or what was asked.

    Raises: RequestError where a function's parameters are no JSON schema.
    """
    if use.form is None:
        return asked
    functions = [tool["function"] for tool in body.tools]
    if use.named:
        functions = [function for function in functions if function["name"] == body.tool_choice[1:]]
    with naming("tools"):
        if use.named or body.tool_choice == "required":
            return Asked(calls(use.form, functions, codec.mark, many=use.many), "tools")
        if asked is not None:
            called = calls(use.form, functions, codec.mark, many=use.many)
            return Asked(called | asked.form, asked.param)
        if any(function.get("strict") for function in functions):
            form = text_or_calls(use.form, functions, codec.mark, codec.silent_mark, many=use.many)
            return Asked(form, "tools")
    return None


class Choice:
    """One answer, read as it comes, in the shape of OpenAI's deltas; and the whole of what was read."""

    def __init__(self, use: ToolUse) -> None:
        self.content = ""
        self.calls: list[dict[str, Any]] = []
        self._use = use
        self._reader = None if use.form is None else ToolReader(use.form, many=use.many)

    @property
    def done(self) -> bool:
        """Nothing that comes now counts: the one call that may be is complete."""
        return self._reader is not None and self._reader.done

    def read(self, text: str, *, last: bool) -> list[Delta]:
        """The deltas of more text."""
        if self._reader is None:
            self.content += text
            return [{"content": text}] if text else []
        events = self._reader.push(text)
        events += self._reader.finish() if last else []
        return [self._delta(event) for event in events]

    def finish_reason(self, finish: str) -> str:
        """OpenAI's word: `tool_calls` where the answer chose to call, `stop` where it was told which one."""
        return "tool_calls" if self.calls and finish == "stop" and not self._use.named else finish

    def message(self) -> dict[str, Any]:
        """The whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.calls:
            message |= {"content": self.content or None, "tool_calls": self.calls}
        return message

    def _delta(self, event: Said | Called | Argued) -> Delta:
        if isinstance(event, Said):
            self.content += event.text
            return {"content": event.text}
        if isinstance(event, Called):
            return {"tool_calls": [{"index": event.index, **self._called(event.name)}]}
        self.calls[event.index]["function"]["arguments"] += event.text
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}

    def _called(self, name: str) -> dict[str, Any]:
        assert self._use.form is not None
        call_id = self._use.form.new_id("".join(secrets.choice(_ALPHABET) for _ in range(32)))
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        self.calls.append({**call, "function": {"name": name, "arguments": ""}})
        return call
