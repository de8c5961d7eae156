"""Structural tags as vLLM and SGLang take them, as a grammar: free text in which what stands between tags has a form.

The formats and their meanings are XGrammar's (https://xgrammar.mlc.ai/docs, "Structural Tag"), its older shape with `structures`
and `triggers` among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptune.codecs import structured_output as lark
from ptune.codecs.structured_output import StructuredOutput
from ptune.errors import RequestError

MAX_DEPTH = 16
MAX_TAGS = 256

Pieces = Callable[[str], Sequence[str | int]]
"""Cuts a text at special tokens, which are no text to a grammar: each is its id."""

_TEXT = "STRUCTURE_TEXT"


def structural_tag(value: Any, pieces: Pieces) -> StructuredOutput:
    """The grammar of a structural tag: `{"format": …}`, or `{"structures": […], "triggers": […]}`.

    Raises: RequestError that says which format cannot be enforced, or what is wrong with it.
    """
    if not isinstance(value, Mapping):
        raise _refusal("a structural tag must be an object")
    fields = {name: one for name, one in value.items() if name != "type" and one is not None}
    writer = _Writer(pieces)
    if "format" in fields:
        _check(fields, "a structural tag", {"format": dict})
        return writer.output(fields["format"])
    _check(fields, "a structural tag", {"structures": list, "triggers": list})
    tags = [_tag(one) for one in fields["structures"]]
    return writer.output({"type": "triggered_tags", "triggers": fields["triggers"], "tags": tags})


def _tag(structure: Any) -> dict[str, Any]:
    """An entry of `structures` as a tag."""
    _check(structure, "an entry of structures", {"begin": str, "schema": object, "end": str})
    content = {"type": "json_schema", "json_schema": structure["schema"]}
    return {"type": "tag", "begin": structure["begin"], "content": content, "end": structure["end"]}


class _Writer:
    """Writes a format as an expression, and collects the rules that it refers to."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._rules: list[str] = []
        self._writers: dict[str, Callable[[Mapping[str, Any], bool, int], str]] = {
            "any_text": self._any_text,
            "const_string": self._const_string,
            "json_schema": self._json_schema,
            "or": self._or,
            "regex": self._regex,
            "sequence": self._sequence,
            "tag": self._one_tag,
            "tags_with_separator": self._tags_with_separator,
            "triggered_tags": self._triggered_tags,
        }

    def output(self, value: Any) -> StructuredOutput:
        expression = self._written(value, last=True, depth=0)
        return StructuredOutput(expression, (*self._rules, f"{_TEXT}: {lark.TEXT}"))

    def _written(self, value: Any, *, last: bool, depth: int) -> str:
        """last: nothing follows in the answer, so that it may be free text."""
        kind = value.get("type") if isinstance(value, Mapping) else None
        if not isinstance(kind, str) or kind not in self._writers:
            raise _refusal(
                f"the format {str(kind)[:40]!r} is not supported; there are {', '.join(self._writers)}"
            )
        if depth > MAX_DEPTH:
            raise _refusal(f"a structural tag may be nested {MAX_DEPTH} deep")
        return self._writers[kind](value, last, depth)

    def _const_string(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        _check(value, "const_string", {"value": str})
        if not value["value"]:
            raise _refusal("the value of const_string must not be empty")
        return self._text(value["value"])

    def _json_schema(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        _check(value, "json_schema", {"json_schema": object})
        return lark.json_schema(value["json_schema"])

    def _regex(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        _check(value, "regex", {"pattern": str})
        if len(value["pattern"]) > lark.MAX_PATTERN:
            raise _refusal(f"a pattern may have at most {lark.MAX_PATTERN} characters")
        return lark.regex(value["pattern"])

    def _any_text(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        _check(value, "any_text", {})
        if not last:
            raise _refusal("any_text must be the content of a tag with an `end`, or the last of the answer")
        return _TEXT

    def _sequence(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        *earlier, final = _elements(value, "sequence")
        written = [self._written(one, last=False, depth=depth + 1) for one in earlier]
        return " ".join(f"({one})" for one in (*written, self._written(final, last=last, depth=depth + 1)))

    def _or(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        written = (self._written(one, last=last, depth=depth + 1) for one in _elements(value, "or"))
        return " | ".join(f"({one})" for one in written)

    def _one_tag(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        return self._within(value, value.get("begin", ""), last, depth)

    def _within(self, tag: Any, begin: str, last: bool, depth: int) -> str:
        """A tag whose beginning is `begin`, or what is left of it after a trigger."""
        _check(tag, "a tag", {"begin": str, "content": dict, "end": str})
        content, end = tag["content"], tag["end"]
        if tag.get("type", "tag") != "tag":
            raise _refusal(f"the type of a tag must be tag (is {tag['type'][:40]!r})")
        if content.get("type") == "any_text" and end:
            _check(content, "any_text", {})
            return f"{self._text(begin)} {self._until(end)}"
        inner = self._written(content, last=last and not end, depth=depth + 1)
        return f"{self._text(begin)} ({inner}) {self._text(end)}"

    def _tags_with_separator(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        _check(value, "tags_with_separator", {"tags": list, "separator": str}, _HOW_MANY)
        tag = self._rule(self._any_of(value, depth))
        more = "" if value.get("stop_after_first") else f" ({self._text(value['separator'])} {tag})*"
        return f"({tag}{more}){'' if value.get('at_least_one') else '?'}"

    def _triggered_tags(self, value: Mapping[str, Any], last: bool, depth: int) -> str:
        _check(value, "triggered_tags", {"tags": list, "triggers": list}, _HOW_MANY)
        once, needed = value.get("stop_after_first"), value.get("at_least_one")
        if not last and not (once and needed):
            raise _refusal("triggered_tags hold free text, so they must be the last of the answer")
        first = self._rule(self._any_of(value, depth)) if needed else ""
        if once and needed:
            return first
        begun = self._rule(" | ".join(self._triggered(value, depth)))
        return f"{begun} | {_TEXT}" if once else f"{first} {begun}* {_TEXT}"

    def _triggered(self, value: Mapping[str, Any], depth: int) -> list[str]:
        """For each trigger: free text up to it, and the rest of one of its tags."""
        triggers: list[Any] = value["triggers"]
        if not triggers or not all(isinstance(one, str) and one for one in triggers):
            raise _refusal("triggers must be texts, at least one of them, and none empty")
        rests: dict[str, list[str]] = {trigger: [] for trigger in triggers}
        for tag in _tags(value):
            begin = tag.get("begin") if isinstance(tag, Mapping) else None
            found = [one for one in rests if isinstance(begin, str) and begin.startswith(one)]
            if len(found) != 1:
                raise _refusal(
                    f"each tag must begin with one of the triggers, and {str(begin)[:40]!r} with {len(found)}"
                )
            rests[found[0]].append(
                self._within(tag, str(begin)[len(found[0]) :], last=False, depth=depth + 1)
            )
        written = {
            trigger: " | ".join(f"({rest})" for rest in some) for trigger, some in rests.items() if some
        }
        return [f"{self._until(trigger)} ({rest})" for trigger, rest in written.items()]

    def _any_of(self, value: Mapping[str, Any], depth: int) -> str:
        """One of the tags, as a whole."""
        tags = [self._one_tag(tag, False, depth + 1) for tag in _tags(value)]
        return " | ".join(f"({tag})" for tag in tags)

    def _until(self, end: str) -> str:
        """Free text up to the first `end`."""
        first, *rest = self._pieces(end)
        if isinstance(first, int):
            return " ".join([_TEXT, lark.token(first), *map(_piece, rest)])
        if rest:
            raise _refusal(
                f"a special token must stand at the beginning of a trigger or an end ({end[:40]!r})"
            )
        return self._rule(f"{lark.TEXT} {lark.literal(first)}", lazy=True)

    def _text(self, text: str) -> str:
        return " ".join(map(_piece, self._pieces(text)))

    def _rule(self, expression: str, *, lazy: bool = False) -> str:
        name = f"structure_{len(self._rules)}"
        self._rules.append(f"{name}{'[lazy]' if lazy else ''}: {expression}")
        return name


_HOW_MANY: dict[str, type] = {"at_least_one": bool, "stop_after_first": bool}


def _tags(value: Mapping[str, Any]) -> list[Any]:
    tags: list[Any] = value["tags"]
    if not 0 < len(tags) <= MAX_TAGS or not all(isinstance(tag, Mapping) for tag in tags):
        raise _refusal(f"tags must be 1 to {MAX_TAGS} objects")
    return tags


def _elements(value: Mapping[str, Any], kind: str) -> list[Any]:
    _check(value, kind, {"elements": list})
    elements: list[Any] = value["elements"]
    if not 0 < len(elements) <= MAX_TAGS:
        raise _refusal(f"{kind} takes 1 to {MAX_TAGS} elements")
    return elements


def _piece(piece: str | int) -> str:
    return lark.token(piece) if isinstance(piece, int) else lark.literal(piece)


def _check(value: Any, kind: str, needed: Mapping[str, type], more: Mapping[str, type] = {}) -> None:
    """Raises: RequestError where a field is missing, unknown or of another type."""
    if not isinstance(value, Mapping):
        raise _refusal(f"{kind} must be an object")
    for name, one in value.items():
        wanted = {**needed, **more, "type": str}.get(name)
        if wanted is None:
            raise _refusal(f"{kind} has no field {str(name)[:40]!r} here")
        if not isinstance(one, wanted):
            raise _refusal(f"{name} of {kind} is of the wrong type")
    if missing := [name for name in needed if name not in value]:
        raise _refusal(f"{kind} lacks {' and '.join(missing)}")


def _refusal(message: str) -> RequestError:
    return RequestError(message, code="invalid_grammar")
