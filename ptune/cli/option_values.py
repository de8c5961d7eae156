"""What the options of a command may be, and what is wrong with one, in the words that a recipe's fields have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import tyro
from pydantic import ValidationError
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from ptune.config.recipe import Recipe
from ptune.config.wrong_field import explain
from ptune.errors import RecipeError
from ptune.spec import Spec

OPTIONS = ConstructorRegistry()
"""How tyro makes numbers and specs of options, so that errors are ptune's words and not Python's or pydantic's."""


@dataclass(frozen=True)
class _Refused:
    """Stands for a part of a recipe that could not be made, until the recipe says so: tyro would put an error in its own words."""

    problems: tuple[tuple[str, ValidationError, type[Spec]], ...]
    """Where in the recipe, as a prefix of fields' names; the error; of which part."""


_NUMBERS: tuple[tuple[type, str, str], ...] = ((int, "INT", "a whole number"), (float, "FLOAT", "a number"))


@OPTIONS.primitive_rule
def numbers(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number, or None where the field may be."""
    for kind, metavar, called in _NUMBERS:
        if info.type is kind:
            return _number(kind, metavar, called, absent=False)
        if get_origin(info.type) in (Union, UnionType) and set(get_args(info.type)) == {kind, type(None)}:
            return _number(kind, f"{{None}}|{metavar}", f"{called} or None", absent=True)
    return None


def _number(kind: type, metavar: str, called: str, absent: bool) -> PrimitiveConstructorSpec[Any]:
    def made(words: list[str]) -> Any:
        if absent and words == ["None"]:
            return None
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"it must be {called}; it is {words[0]!r}") from None

    def known(value: Any) -> bool:
        return type(value) in (kind, *([type(None)] * absent), *([int] * (kind is float)))

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=made,
        is_instance=known,
        str_from_instance=lambda value: [str(value)],
    )


@OPTIONS.struct_rule
def specs(info: StructTypeInfo) -> StructConstructorSpec | None:
    """A recipe or a part of one; all that is wrong in any part is one RecipeError."""
    kind = info.type
    if not (isinstance(kind, type) and issubclass(kind, Spec)):
        return None
    types = get_type_hints(kind, include_extras=True)
    fields = [
        StructFieldSpec(
            name=name,
            type=types[name],
            default=getattr(
                info.default,
                name,
                tyro.MISSING if field.is_required() else field.get_default(call_default_factory=True),
            ),
            helptext=field.description,
        )
        for name, field in kind.model_fields.items()
    ]

    def made(**values: Any) -> Spec | _Refused:
        below = [
            (f"{name}.{place}", error, part)
            for name, of in values.items()
            if isinstance(of, _Refused)
            for place, error, part in of.problems
        ]
        try:
            return _refused(kind, below) if below else kind(**values)
        except ValidationError as error:
            return _refused(kind, [("", error, kind)])

    made.__doc__ = kind.__doc__
    return StructConstructorSpec(instantiate=made, fields=tuple(fields))


def _refused(kind: type[Spec], problems: Sequence[tuple[str, ValidationError, type[Spec]]]) -> _Refused:
    """Raises: RecipeError where `kind` is the recipe itself, and nobody is left to say it."""
    if issubclass(kind, Recipe):
        raise RecipeError("; ".join(explain(error, part, prefix) for prefix, error, part in problems))
    return _Refused(tuple(problems))
