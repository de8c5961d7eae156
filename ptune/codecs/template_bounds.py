"""Limits on the cost of a chat template. Jinja's sandbox keeps third-party templates from Python, but not from endless work.

A call inserted into the body of each loop, macro and block counts them. Output, and operations that make texts or lists
longer, are charged by the size of their result *before* it is created. So a template ends within `LIMIT_S` and holds at
most `TOTAL` characters; both are far more than a conversation can need.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jinja2.ext
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from ptune.errors import TemplateError

LIMIT_S = 10.0
LONGEST = 1 << 24  # most characters of one text, or of all contents of a list
TOTAL = 1 << 29  # most characters created by one rendering
MAX_BITS = 1 << 16  # of an integer

_WIDTH = re.compile(r"\d{5}|\*")  # of a field in a format, as in %99999d
_MEASURED = ("format", "indent", "join", "replace", "string", "tojson", "list")
_MULTIPLYING = ("batch", "center", "pprint", "slice", "sum", "urlize", "wordwrap", "xmlattr")
"""Jinja filters whose result can be much larger than their input."""


@dataclass
class _Spent:
    """The cost of a rendering so far."""

    end_s: float
    characters: int = 0

    def charge(self, characters: int) -> None:
        if time.monotonic() > self.end_s:
            raise TemplateError(f"it takes longer than {LIMIT_S:g} s")
        self.characters += characters
        if characters > LONGEST or self.characters > TOTAL:
            raise TemplateError("it makes texts that are too long")


_SPENT: ContextVar[_Spent | None] = ContextVar("spent", default=None)


@contextmanager
def bounded() -> Iterator[None]:
    """Limits the rendering in the block. Raises: TemplateError beyond the limits."""
    token = _SPENT.set(_Spent(time.monotonic() + LIMIT_S))
    try:
        yield
    finally:
        _SPENT.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox with limits. Compile its templates with `bound`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *, to_json: Callable[..., str], **options: Any) -> None:
        super().__init__(finalize=_charged, **options)
        self.add_extension(_Bounds)
        self.filters["tojson"] = to_json
        self.globals.pop("lipsum")
        for name in (*_MEASURED, *_MULTIPLYING):
            self.filters[name] = _filter(name, self.filters[name])

    def bound(self, tree: nodes.Template) -> jinja2.Template:
        """Compiles a parsed template with built-in limits."""
        with bounded():  # filters of constants run during compilation
            return self.from_string(_Counting().visit(tree))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _charge(_grown(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 (as Jinja has it)
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            name = method.__name__
            if name == "join" and args:
                args = (list(args[0]),)
            _charge(_made(name, owner, args, kwargs))
        return super().call(__context, __obj, *args, **kwargs)


class _Bounds(jinja2.ext.Extension):
    """The functions that compiled templates call."""

    def _tick(self, characters: int) -> str:
        _charge(characters)
        return ""

    def _joined(self, *parts: Any) -> str:
        _charge(sum(map(_size, parts)))
        return "".join(map(str, parts))


class _Counting(NodeTransformer):
    """Inserts a tick into everything that can run repeatedly, and measures `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 (Jinja's names)
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802 (Jinja's names)
        return self._ticking(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802 (Jinja's names)
        return self._ticking(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:  # noqa: N802 (Jinja's names)
        return self._ticking(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 (Jinja's names)
        self.generic_visit(node)
        return _called("_joined", node.nodes).set_lineno(node.lineno)

    def _ticking(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        written = sum(len(data.data) for part in node.body for data in part.find_all(nodes.TemplateData))
        tick = nodes.ExprStmt(_called("_tick", [nodes.Const(written)]))
        node.body.insert(0, tick.set_lineno(node.lineno))
        return node


def _called(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.ExtensionAttribute(_Bounds.identifier, name), arguments, [], None, None)


def _charge(characters: int) -> None:
    spent = _SPENT.get()
    if spent is not None:
        spent.charge(characters)


def _charged(value: Any) -> Any:
    """Charges for a value that is written out, and returns it."""
    _charge(_size(value))
    return value


def _size(value: Any) -> int:
    """Approximate number of characters of a value when written out; stops counting when there are too many."""
    if isinstance(value, str):
        return len(value)
    total, left = 0, [value]
    while left and total <= LONGEST:
        value_part = left.pop()
        if isinstance(value_part, str):
            total += len(value_part) + 4
        elif isinstance(value_part, Mapping):
            total += 4 * len(value_part)
            left += [*value_part.keys(), *value_part.values()]
        elif isinstance(value_part, list | tuple | set | frozenset):
            total += 4 * len(value_part)
            left += value_part
        else:
            total += 8
    return total


def _grown(operator: str, left: Any, right: Any) -> int:
    """The size of the result of `left operator right`. Raises: TemplateError for integers that are too large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = {
            "*": left.bit_length() + right.bit_length(),
            "**": left.bit_length() * max(right, 0),
        }.get(operator, 0)
        if bits > MAX_BITS:
            raise TemplateError("it computes with numbers that are too large")
        return 0
    if operator == "*":
        sized, times = (right, left) if isinstance(left, int) else (left, right)
        return _size(sized) * max(times, 0) if isinstance(times, int) else 0
    if operator == "%" and isinstance(left, str):
        return _formatted(left, left.count("%"), right if isinstance(right, tuple) else (right,))
    return _size(left) + _size(right) if operator == "+" else 0


def _formatted(pattern: str, fields: int, values: Iterable[Any]) -> int:
    if _WIDTH.search(pattern):
        raise TemplateError("it formats with a width that is too large")
    return len(pattern) + fields * max((_size(value) for value in values), default=0) + fields * 10_000


def _made(name: str, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """The size of the result of a string method."""
    whole = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, int)]
    if name in ("ljust", "rjust", "center", "zfill"):
        return max([len(text), *whole])
    if name == "expandtabs":
        return len(text) + text.count("\t") * max([8, *whole])
    if name == "replace" and len(args) >= 2 and all(isinstance(arg, str) for arg in args[:2]):
        return len(text) + (text.count(args[0]) if args[0] else len(text) + 1) * len(args[1])
    if name == "join" and args:
        return _size(args[0]) + len(text) * len(args[0])
    if name in ("format", "format_map"):
        values = (*args, *kwargs.values())
        return _formatted(text, text.count("{"), values)
    if name == "translate":
        return len(text) * max(
            map(_size, args[0].values() if isinstance(args[0], Mapping) else args[:1]), default=1
        )
    return len(text)


def _filter(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A Jinja filter that is charged for the size of its result."""
    first = 1 if hasattr(plain, "jinja_pass_arg") else 0  # some get the environment as first argument

    def measured(*args: Any, **kwargs: Any) -> Any:
        given, rest = args[:first], list(args[first:])
        if name in ("join", "list", "batch", "slice", "sum") and not isinstance(rest[0], str | Mapping):
            rest[0] = list(rest[0])
        _charge(_filtered(name, rest, kwargs))
        return plain(*given, *rest, **kwargs)

    if first:
        measured.jinja_pass_arg = plain.jinja_pass_arg  # type: ignore[attr-defined]
    return measured


def _filtered(name: str, args: list[Any], kwargs: Mapping[str, Any]) -> int:
    value, others = args[0], [*args[1:], *kwargs.values()]
    text = value if isinstance(value, str) else ""
    if name == "format":
        return _formatted(str(value), str(value).count("%"), others)
    if name == "replace" and len(others) >= 2:
        return _made("replace", text, (str(others[0]), str(others[1])), {})
    if name == "join":
        separator = max((_size(other) for other in others), default=0)
        return _size(value) + separator * len(value)
    if name in ("indent", "tojson"):
        width = max((other if isinstance(other, int) else _size(other) for other in others), default=4)
        lines = text.count("\n") + 1 if name == "indent" else _size(value) + 1
        return _size(value) + width * lines
    if name in _MULTIPLYING:
        widest = max((other for other in others if isinstance(other, int)), default=0)
        longest = max((_size(other) for other in others if not isinstance(other, int)), default=0)
        return (_size(value) + widest) * (1 + longest)
    return _size(value)
