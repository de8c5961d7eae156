"""What an answer may be, in llguidance's Lark: JSON of a schema, a regular expression, one of some texts."""

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
WHITE_SPACE = r"( |\n {0,32})"
"""Between JSON's tokens: as much as pretty printing needs. Without a bound a model may write white space for ever."""

TEXT = r"/(.|\n)*/"

_EXACT = 1 << 53
_LARGEST = (1 << 63) - (1 << 10)


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer may be: an expression, and the rules that it names. The functions below write expressions."""

    expression: str
    rules: tuple[str, ...] = ()

    @classmethod
    def json(cls, schema: Any) -> Form:
        """JSON that a schema accepts. Raises: RequestError."""
        return cls(json_schema(schema))

    @classmethod
    def regex(cls, pattern: str) -> Form:
        """A text that a regular expression matches as a whole. Raises: RequestError."""
        return cls(regex(pattern))

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Form:
        """One of these texts."""
        return cls(choice(texts))

    def __or__(self, other: Form) -> Form:
        """This or the other; their rules must not share names."""
        return Form(f"({self.expression}) | ({other.expression})", self.rules + other.rules)

    def source(self, *, stripped: bool = False) -> str:
        """The whole grammar. stripped: decoding takes a space away from an answer's beginning."""
        start = 'start: " "? answer' if stripped else "start: answer"
        return "\n".join([start, f"answer: {self.expression}", *self.rules])


def json_schema(schema: Any, *, lenient: bool = False) -> str:
    """JSON that a schema accepts. lenient: keywords that cannot be enforced are ignored instead of refused.

    Raises: RequestError where it is no schema, accepts nothing or is nested too deeply.
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
    """A regular expression, in the syntax of Rust's `regex` without look-around, which matches the whole answer.

    Raises: RequestError for one that ends within an escape.
    """
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        raise RequestError("a regular expression must not end with a single \\", code="invalid_grammar")
    escaped = re.sub(r"\\(.)|(/)|(\n)", _escape, pattern, flags=re.DOTALL)
    return f"/{escaped}/"


def _escape(found: re.Match[str]) -> str:
    """What Lark's slashes and lines would take for their own."""
    if found[0] in ("/", "\\/"):
        return r"\/"
    return r"\n" if found[0] in ("\n", "\\\n") else found[0]


def choice(texts: Sequence[str]) -> str:
    """One of some texts."""
    return f"({' | '.join(map(literal, texts))})"


def literal(text: str) -> str:
    """A text as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") if text else '""'


def token(number: int) -> str:
    """One token by its number."""
    return f"<[{number}]>"


def _with_exact_numbers(value: Any, key: str = "") -> Any:
    """A schema whose numbers are what llguidance, which computes in floating point, makes of them.

    Whole bounds are drawn in to such a number. Raises: RequestError for a constant that is none.
    """
    if isinstance(value, Mapping):
        within = key if key in ("const", "enum") else None
        return {name: _with_exact_numbers(inner, within or name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_exact_numbers(inner, key) for inner in value]
    if key in ("const", "enum", "multipleOf") and not _is_exact(value):
        shown = f"{key}: {str(value)[:40]} has more digits than can be kept exactly"
        raise RequestError(shown, code="invalid_grammar")
    if type(value) is not int or abs(value) <= _EXACT or not key.endswith("imum"):
        return value
    return _drawn_in(value, up=key in ("minimum", "exclusiveMinimum"))


def _drawn_in(bound: int, *, up: bool) -> int:
    """The nearest number on that side that floating point has, among those of 64 bits."""
    if bound > _LARGEST if up else bound < -_LARGEST:
        raise RequestError(f"{str(bound)[:40]} is a bound of more than 64 bits", code="invalid_grammar")
    nearest = float(max(-_LARGEST, min(bound, _LARGEST)))
    beyond = int(nearest) < bound if up else int(nearest) > bound
    return int(math.nextafter(nearest, math.inf if up else -math.inf) if beyond else nearest)


def _is_exact(value: Any) -> bool:
    """Whether a constant is read as what it is: up to 2**53, a fraction of up to 15 digits and not below 1e-22 is."""
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
