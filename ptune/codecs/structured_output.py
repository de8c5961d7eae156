"""Structured output as a Lark grammar for llguidance: JSON of a schema, a regular expression, a choice, or another grammar."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ptune.errors import RequestError

MAX_DEPTH = 64
MAX_PATTERN = 4096  # characters of a regular expression in a request
WHITE_SPACE = r"( |\n {0,32})"
"""White space between JSON's tokens: enough for pretty printing, and bounded, or a model could write it for ever."""

TEXT = r"/(.|\n)*/"

_EXACT = 1 << 53
_LARGEST = (1 << 63) - (1 << 10)


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A grammar for an answer: an expression, and the rules it refers to. The functions below write expressions."""

    expression: str
    rules: tuple[str, ...] = ()

    @classmethod
    def json(cls, schema: Any) -> StructuredOutput:
        """JSON that the schema accepts. Raises: RequestError if the schema cannot be enforced."""
        return cls(json_schema(schema))

    @classmethod
    def regex(cls, pattern: str) -> StructuredOutput:
        """Text that the regular expression matches as a whole. Raises: RequestError if it ends within an escape."""
        return cls(regex(pattern))

    @classmethod
    def choice(cls, texts: Sequence[str]) -> StructuredOutput:
        """One of these texts."""
        return cls(choice(texts))

    @classmethod
    def lark(cls, source: str) -> StructuredOutput:
        """Text of a grammar in Lark's syntax with llguidance's additions; its rule `start` is the whole answer.

        Raises: RequestError for llama.cpp's syntax, GBNF.
        """
        if "::=" in source:
            message = "is read as Lark, not as GBNF: write `start: …` for `root ::= …`"
            raise RequestError(message, code="invalid_grammar")
        return cls(f"%lark {{\n{source}\n}}")

    def __or__(self, other: StructuredOutput) -> StructuredOutput:
        """Either one; their rules must have different names."""
        return StructuredOutput(f"({self.expression}) | ({other.expression})", self.rules + other.rules)

    def source(self, *, stripped: bool = False) -> str:
        """The complete grammar. stripped: decoding removes a space at the beginning of an answer."""
        start = 'start: " "? answer' if stripped else "start: answer"
        return "\n".join([start, f"answer: {self.expression}", *self.rules])


def json_schema(schema: Any, *, lenient: bool = False) -> str:
    """JSON that a schema accepts. lenient: ignore keywords that cannot be enforced, instead of refusing them.

    Raises: RequestError if it is not a schema, accepts nothing, or is nested too deeply.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        raise RequestError("a JSON schema must be an object", code="invalid_grammar")
    if _deeper_than(schema, MAX_DEPTH):
        raise RequestError(f"a JSON schema may be nested {MAX_DEPTH} deep", code="invalid_grammar")
    options = {"whitespace_pattern": WHITE_SPACE, "lenient": lenient}
    return f"%json {json.dumps({**_with_exact_numbers(schema), 'x-guidance': options})}"


def regex(pattern: str) -> str:
    """A regular expression that must match the whole answer, in the syntax of Rust's `regex`, without look-around.

    Raises: RequestError if it ends within an escape.
    """
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise RequestError("a regular expression must not end with a single \\", code="invalid_grammar")
    escaped = re.sub(r"\\(.)|(/)|(\n)", _escape, pattern, flags=re.DOTALL)
    return f"/{escaped}/"


def _escape(match: re.Match[str]) -> str:
    """Escapes slashes and line ends, which mean something else in Lark."""
    if match[0] in ("/", "\\/"):
        return r"\/"
    return r"\n" if match[0] in ("\n", "\\\n") else match[0]


def choice(texts: Sequence[str]) -> str:
    """One of the texts."""
    return f"({' | '.join(map(literal, texts))})"


def literal(text: str) -> str:
    """The text itself, quoted."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if text else '""'


def token(number: int) -> str:
    """One token, by its id."""
    return f"<[{number}]>"


def _with_exact_numbers(value: Any, key: str = "") -> Any:
    """Makes every number of a schema exact in floating point, in which llguidance computes.

    Integer bounds move inwards to the nearest exact number. Raises: RequestError for a constant that is not exact, and for
    what is no number: Python reads 1e400 as infinity.
    """
    if isinstance(value, Mapping):
        within = key if key in ("const", "enum") else None
        return {name: _with_exact_numbers(inner, within or name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_exact_numbers(inner, key) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"{key[:40]}: a number must be finite (is {value})", code="invalid_grammar")
    if key in ("const", "enum", "multipleOf") and not _is_exact(value):
        shown = f"{key}: {str(value)[:40]} has more digits than can be kept exactly"
        raise RequestError(shown, code="invalid_grammar")
    if type(value) is not int or abs(value) <= _EXACT or not key.endswith("imum"):
        return value
    return _drawn_in(value, up=key in ("minimum", "exclusiveMinimum"))


def _drawn_in(bound: int, *, up: bool) -> int:
    """The nearest integer on that side, within 64 bits, that is exact in floating point."""
    if bound > _LARGEST if up else bound < -_LARGEST:
        raise RequestError(f"{str(bound)[:40]} is a bound of more than 64 bits", code="invalid_grammar")
    nearest = float(max(-_LARGEST, min(bound, _LARGEST)))
    beyond = int(nearest) < bound if up else int(nearest) > bound
    return int(math.nextafter(nearest, math.inf if up else -math.inf) if beyond else nearest)


def _is_exact(value: Any) -> bool:
    """Whether floating point keeps a constant exactly: up to 2**53; a fraction has up to 15 digits, none below 1e-22."""
    if type(value) not in (int, float):
        return True
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    short = isinstance(value, int) or (len(digits) <= 15 and int(exponent) >= -22)
    return short and abs(value) <= _EXACT


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
        if not level:
            return False
    return True
