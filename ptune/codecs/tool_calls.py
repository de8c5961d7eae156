"""Detects the format in which a chat template writes tool calls, by rendering some, so that nobody has to name it.

Known are the three usual ones: `<tool_call>{"name", "arguments"}</tool_call>` (Hermes, Qwen), `[TOOL_CALLS] [{…}]`
(Mistral), and a bare `{"name", "parameters"}` (Llama 3), after `<|python_tag|>` or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from ptune.codecs import structured_output as lark
from ptune.codecs.structured_output import StructuredOutput
from ptune.codecs.template import ChatTemplate
from ptune.errors import RequestError, TemplateError

PYTHON_TAG = "<|python_tag|>"
_NAMES = ("find_weather", "find_time")
_IDS = ("aBcDe1234", "fGhIj5678")  # Mistral's templates refuse all but nine letters and digits
_ARGUMENTS = r'\{\s*"place"\s*:\s*"Oslo"\s*\}'
_ID = r"/[a-zA-Z0-9]{9}/"

Mark = Callable[[str], int | None]
"""Returns the token of a text that is exactly one token, else None."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The texts that a template writes around the names and arguments of calls, starting with `begin`."""

    kind: Literal["hermes", "mistral", "llama"]
    begin: str  # marks a call or a list of calls; empty if a bare { does
    head: str  # between `begin` and the first name
    middle: str  # between a name and its arguments
    between: str | None  # between arguments and the next name; None if there can be only one call
    tail: str  # after the last arguments

    @property
    def end(self) -> str:
        """The mark at the end of a call; empty if its last } ends it."""
        return "</tool_call>" if self.kind == "hermes" else ""

    def new_id(self, random: str) -> str:
        """A call's id, made from 32 random letters and digits."""
        return random[:9] if self.kind == "mistral" else f"call_{random[:24]}"


def tool_format(template: ChatTemplate, special: re.Pattern[str]) -> ToolFormat | None:
    """The format of a template's tool calls; None if it is not a known one. special: matches end-of-turn tokens."""
    single = _written(template, 1)
    if single is None:
        return None
    begin = next((mark for mark in ("<tool_call>", "[TOOL_CALLS]") if mark in single), None)
    if begin is None:
        opening = re.search(rf"({re.escape(PYTHON_TAG)})?\s*\{{(?=[^{{}}]*{_NAMES[0]})", single)
        if opening is None:
            return None
        calls = single[opening.end() - 1 :]
    else:
        calls = single.rpartition(begin)[2]
    head, _, rest = calls.partition(_NAMES[0])
    around = re.split(_ARGUMENTS, rest, maxsplit=1)
    if len(around) != 2 or not re.search(r'"(arguments|parameters)"\s*:\s*$', around[0]):
        return None
    return ToolFormat(
        kind="llama" if begin is None else "hermes" if begin == "<tool_call>" else "mistral",
        begin=begin or "",
        head=head,
        middle=around[0],
        between=_between(template, around[0]),
        tail=around[1][: _end_of_turn(around[1], special)].rstrip(),
    )


def calls(
    form: ToolFormat, functions: Sequence[Mapping[str, Any]], mark: Mark, *, many: bool
) -> StructuredOutput:
    """A grammar for one call or, if allowed, several, as the template writes them.

    functions: name, parameters (a JSON schema) and strict of each. mark: maps a mark to its token, if it is one.
    Raises: RequestError where the parameters of a strict function cannot be enforced.
    """
    rules = [
        f"call_{number}: {lark.literal(function['name'] + form.middle)} {_parameters(function)}"
        for number, function in enumerate(functions)
    ]
    call = f"({' | '.join(f'call_{number}' for number in range(len(rules)))})"
    begin = [_text(form.begin, mark)] if form.begin else []
    parts = [*begin, *_pieces(form.head, mark), call]
    if many and form.between is not None:
        parts.append(f"({' '.join([*_pieces(form.between, mark), call])})*")
    return StructuredOutput(" ".join([*parts, *_pieces(form.tail, mark)]), tuple(rules))


def text_or_calls(
    form: ToolFormat, functions: Sequence[Mapping[str, Any]], mark: Mark, special: Mark, *, many: bool
) -> StructuredOutput:
    """A grammar for free text in which each call is valid. special: maps tokens that are not text. Otherwise like `calls`."""
    called = calls(form, functions, mark, many=many and form.kind != "hermes")
    if form.kind == "llama":
        return called | StructuredOutput(_NOT_A_CALL)
    token = special(form.begin)
    after_begin = called.expression.partition(" ")[2]
    if token is None:
        begun = [f"begun: opened {after_begin}", f"opened[lazy]: {lark.TEXT} {lark.literal(form.begin)}"]
    else:
        begun = [f"begun: TEXT {lark.token(token)} {after_begin}"]
    times = "*" if many and form.kind == "hermes" else "?"
    return StructuredOutput(f"begun{times} TEXT", (*called.rules, *begun, f"TEXT: {lark.TEXT}"))


_NOT_A_CALL = r"/([^{ \n](.|\n)*)?/"


def _parameters(function: Mapping[str, Any]) -> str:
    strict = bool(function.get("strict"))
    schema = function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}
    return lark.json_schema({"type": "object", **schema}, lenient=not strict)


def _pieces(text: str, mark: Mark) -> list[str]:
    """The template's text as expressions: marks as their tokens, the probe's ids as any id."""
    parts = re.split(rf"({'|'.join(map(re.escape, ('<tool_call>', '</tool_call>', *_IDS)))})", text)
    return [_ID if part in _IDS else _text(part, mark) for part in parts if part]


def _text(text: str, mark: Mark) -> str:
    token = mark(text)
    return lark.literal(text) if token is None else lark.token(token)


def _end_of_turn(text: str, special: re.Pattern[str]) -> int:
    ends = (found.start() for found in special.finditer(text) if found[0] != "</tool_call>")
    return next(ends, len(text))


def _between(template: ChatTemplate, middle: str) -> str | None:
    two = _written(template, 2)
    if two is None:
        return None
    match = re.search(f"{_ARGUMENTS}(.*){_NAMES[1]}{re.escape(middle)}", two, re.DOTALL)
    return None if match is None else match[1]


def _written(template: ChatTemplate, count: int) -> str | None:
    """The template's text for `count` calls; None if it refuses or omits them."""
    given = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": {"place": "Oslo"}}}
        for name, id_ in zip(_NAMES, _IDS, strict=True)
    ]
    tool = {"name": "other", "description": "", "parameters": {"type": "object", "properties": {}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": given[:count]},
    ]
    try:
        text = template.render(messages, tools=[{"type": "function", "function": tool}])
    except TemplateError:
        return None
    return text if all(name in text for name in _NAMES[:count]) else None


def unknown_format() -> RequestError:
    """The error for a request with tools if the template's calls have no known format."""
    return RequestError(
        "this model's chat template writes no tool calls of a known format (Hermes or Qwen, Mistral, Llama 3)",
        param="tools",
        code="unsupported_parameter",
    )


def arguments_of(text: str) -> str:
    """A call's arguments as JSON text, from the model's output; some models write JSON within a string."""
    if text.startswith('"'):
        try:
            return str(from_json(text))  # half of a surrogate pair could not be sent
        except ValueError:
            return text
    return text
