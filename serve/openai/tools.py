"""Tools of a chat request: what the template sees, what the answer must match, how calls are read from the answer."""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptune.codecs.tool_calls import PYTHON_TAG, ToolFormat, calls, text_or_calls, unknown_format
from ptune.codecs.tool_reader import Argued, Called, Said, ToolReader

from .structured_output import RequestedOutput, naming_field

if TYPE_CHECKING:
    from ptune.codecs.chat import ChatCodec

    from .schemas import ChatRequest

_MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", PYTHON_TAG)
_ALPHABET = string.ascii_letters + string.digits

Delta = dict[str, Any]


@dataclass(frozen=True)
class ToolUse:
    """How one request uses tools. tool_format: None if no calls are read."""

    offered: Sequence[Mapping[str, Any]] | None = None  # tools that the template sees
    tool_format: ToolFormat | None = None
    many: bool = True  # several calls may follow each other
    named: bool = False  # the request names the function to call
    marks: frozenset[int] = frozenset()  # special tokens that the reader needs to see

    def choice(self) -> Choice:
        """A reader for one answer."""
        return Choice(self)


NO_TOOLS = ToolUse()


def tool_use(body: ChatRequest, codec: ChatCodec) -> ToolUse:
    """Reads `tools` and `tool_choice`. With `none` the template does not see the tools, so that none is called.

    Raises: RequestError if the template writes calls in a format that is not known.
    """
    if not body.tools or body.tool_choice == "none":
        return NO_TOOLS
    tool_format = codec.tool_format
    if tool_format is None:
        raise unknown_format()
    return ToolUse(
        offered=body.tools,
        tool_format=tool_format,
        many=body.parallel_tool_calls and not body.tool_choice.startswith("="),
        named=body.tool_choice.startswith("="),
        marks=frozenset(token for token in map(codec.silent_mark, _MARKS) if token is not None),
    )


def output_with_calls(
    body: ChatRequest, codec: ChatCodec, use: ToolUse, requested: RequestedOutput | None
) -> RequestedOutput | None:
    """Combines tool calls with the structured output that a request asks for.

    A required call is the only output; a call to a strict tool must be valid; None if anything may be answered.
    Raises: RequestError if a function's parameters are not a JSON schema.
    """
    if use.tool_format is None:
        return requested
    functions = [tool["function"] for tool in body.tools]
    if use.named:
        functions = [function for function in functions if function["name"] == body.tool_choice[1:]]
    with naming_field("tools"):
        if use.named or body.tool_choice == "required":
            return RequestedOutput(calls(use.tool_format, functions, codec.mark, many=use.many), "tools")
        if requested is not None:
            called = calls(use.tool_format, functions, codec.mark, many=use.many)
            return RequestedOutput(called | requested.output, requested.param)
        if any(function.get("strict") for function in functions):
            output = text_or_calls(use.tool_format, functions, codec.mark, codec.silent_mark, many=use.many)
            return RequestedOutput(output, "tools")
    return None


class Choice:
    """Reads one answer piece by piece into OpenAI's deltas, and collects the whole message."""

    def __init__(self, use: ToolUse) -> None:
        self.content = ""
        self.calls: list[dict[str, Any]] = []
        self._use = use
        self._reader = None
        if use.tool_format is not None:
            names = {tool["function"]["name"] for tool in use.offered or ()}
            self._reader = ToolReader(use.tool_format, many=use.many, names=names)

    @property
    def done(self) -> bool:
        """Whether the only call allowed is complete, so that further text is ignored."""
        return self._reader is not None and self._reader.done

    @property
    def calling(self) -> bool:
        """Whether a call has begun that is not complete."""
        return self._reader is not None and self._reader.calling

    def read(self, text: str, *, last: bool) -> list[Delta]:
        """Reads more text and returns its deltas. last: no text follows."""
        if self._reader is None:
            self.content += text
            return [{"content": text}] if text else []
        events = self._reader.push(text)
        events += self._reader.finish() if last else []
        return [self._delta(event) for event in events]

    def finish_reason(self, finish: str) -> str:
        """OpenAI's finish_reason: `tool_calls` if the model chose to call, and its calls are whole.

        `stop` if the request named the function, or if the answer ended within a call, which no client should run.
        """
        whole = self.calls and not self.calling
        return "tool_calls" if whole and finish == "stop" and not self._use.named else finish

    def message(self) -> dict[str, Any]:
        """The whole answer as a message."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.calls:
            message |= {"content": self.content or None, "tool_calls": self.calls}
        return message

    def _delta(self, event: Said | Called | Argued) -> Delta:
        if isinstance(event, Said):
            self.content += event.text
            return {"content": event.text}
        if isinstance(event, Called):
            return {"tool_calls": [{"index": event.index, **self._begin_call(event.name)}]}
        self.calls[event.index]["function"]["arguments"] += event.text
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}

    def _begin_call(self, name: str) -> dict[str, Any]:
        assert self._use.tool_format is not None
        call_id = self._use.tool_format.new_id("".join(secrets.choice(_ALPHABET) for _ in range(32)))
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        self.calls.append({**call, "function": {"name": name, "arguments": ""}})
        return call
