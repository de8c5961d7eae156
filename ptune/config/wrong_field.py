"""What is wrong with a recipe's field, in words."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from ptune.spec import Spec

_SHOULD = "Input should be "
_PLAINLY = {
    "float_parsing": f"{_SHOULD}a number",
    "float_type": f"{_SHOULD}a number",
    "int_parsing": f"{_SHOULD}a whole number",
    "int_type": f"{_SHOULD}a whole number",
    "int_from_float": f"{_SHOULD}a whole number",
    "bool_parsing": f"{_SHOULD}true or false",
    "bool_type": f"{_SHOULD}true or false",
    "string_type": f"{_SHOULD}a text",
    "model_type": f"{_SHOULD}a mapping of fields",
    "tuple_type": f"{_SHOULD}a list",
}
"""What pydantic says in a parser's words, in a reader's."""


def nearest(name: str, known: Any) -> str:
    """'; did you mean X?' or the list of all, for an unknown name."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def explain(error: ValidationError, kind: type[Spec], prefix: str = "") -> str:
    """A pydantic error as one line: field, value and what is allowed for each problem.

    kind: whose fields they are. prefix: of their names.
    """
    lines = []
    for problem in error.errors():
        field = (prefix + ".".join(map(str, problem["loc"]))).rstrip(".") or "recipe"
        if problem["type"] == "extra_forbidden":
            known = _fields_beside(kind, problem["loc"])
            lines.append(f"{field}: no such field{nearest(str(problem['loc'][-1]), known)}")
            continue
        shown = "" if isinstance(problem["input"], dict | Spec) else repr(problem["input"])
        said = _PLAINLY.get(problem["type"], problem["msg"])
        if said.startswith(_SHOULD):
            lines.append(
                f"{field} must be {said.removeprefix(_SHOULD)}" + (f"; it is {shown}" if shown else "")
            )
        else:
            again = f" (is {shown})" if shown and shown not in said else ""
            lines.append(f"{field}: {said.removeprefix('Value error, ')}{again}")
    return "; ".join(lines)


def _fields_beside(spec: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = spec.model_fields.get(str(part)) if hasattr(spec, "model_fields") else None
        spec = field.annotation if field is not None else None
    return list(spec.model_fields) if hasattr(spec, "model_fields") else []
