"""The recipe as a form: every option by its dotted name, with its description, its choices and its value as text."""

from __future__ import annotations

import contextlib
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from ptune.config.recipe import Recipe, kind_named
from ptune.config.wrong_field import explain, nearest
from ptune.errors import RecipeError
from ptune.foreign.known_names import meant_by
from ptune.spec import Spec

PARTS = ("train", "method", "task", "data", "backbone", "evaluate", "plan")
"""The parts of a recipe, those first that are changed most."""
_PLAIN = re.compile(
    r"[^\s,\[\]{}'\"](?:[^,\n\[\]{}'\"]*[^\s,\[\]{}'\"])?"
)  # a word of a list that needs no quotes


@dataclass(frozen=True)
class Option:
    """One field. value: as text: words with commas between them for a list, YAML for what has names; empty: not set."""

    name: str  # "train.lr"
    about: str
    kind: Literal["choice", "switch", "text"]
    choices: tuple[str, ...]  # of a choice; the empty one stands for "not set"
    value: str


def options_of(recipe: Recipe) -> list[Option]:
    """All options of a recipe's task, method and the rest."""
    return [option for part in PARTS for option in _options(getattr(recipe, part), part)]


def found(options: Sequence[Option], words: str) -> list[Option]:
    """The options with all the words in their name or description; those with them in the name first.

    Before them the one that another training tool calls so, or almost so, unless an option is called so itself.
    """
    wanted = _spelt(words).split()
    named = [option for option in options if all(word in _spelt(option.name) for word in wanted)]
    told = [one for one in options if all(word in _spelt(f"{one.name} {one.about}") for word in wanted)]
    spelt = {_spelt(option.name.rpartition(".")[2]) for option in options}
    elsewhere = None if _spelt(words) in spelt else meant_by(words)
    first = [one for one in options if one.name == elsewhere]
    return list({one.name: one for one in (*first, *named, *told)}.values())


def meant(options: Sequence[Option], words: str) -> str:
    """What to say where nothing was found."""
    last = words.strip().rpartition(".")[2].replace("-", "_").lstrip("_")
    names = {option.name.rpartition(".")[2]: option.name for option in options}
    close = nearest(last, names)
    hint = close if "did you mean" in close else ""
    return f"No option has {words.strip()!r} in its name or description{hint or '.'}"


def changed(recipe: Recipe, changes: Mapping[str, str]) -> Recipe:
    """The recipe with some options changed, as `Option` writes values.

    Raises: RecipeError that names the option, its value and what is allowed.
    """
    for part in PARTS:
        own = {name.partition(".")[2]: text for name, text in changes.items() if name.startswith(f"{part}.")}
        if own:
            recipe = recipe.model_copy(update={part: _changed(getattr(recipe, part), own, f"{part}.")})
    if unknown := [name for name in changes if name.partition(".")[0] not in PARTS]:
        raise RecipeError(f"{unknown[0]}: a recipe has no such part; its parts are {', '.join(PARTS)}")
    try:
        return Recipe(**{field: getattr(recipe, field) for field in Recipe.model_fields})
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe)) from None


def with_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe with another method, by its name, and that method's defaults. Raises: RecipeError."""
    if type(recipe.method).__name__ == method:
        return recipe
    return recipe.model_copy(update={"method": kind_named("method", method)()})


def differences(before: Recipe, after: Recipe) -> list[tuple[str, str, str]]:
    """Name, value before and value after of each option that differs."""
    old, new = flat(before), flat(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [(name, as_text(old.get(name)), as_text(new.get(name))) for name in names]


def flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted name -> value, of all that a recipe's file would say."""
    document = recipe.document()
    return {f"{part}.{name}": value for part in PARTS for name, value in document[part].items()}


def as_text(value: Any) -> str:
    """A value as the form has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        words = [as_text(one) for one in value]
        return (
            ", ".join(words)
            if all(_PLAIN.fullmatch(word) and word.isprintable() for word in words)
            else _flow([str(one) if isinstance(one, Path) else one for one in value])
        )
    if isinstance(value, dict):
        return _flow(value) if value else ""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _spelt(text: str) -> str:
    """A name as one searches for it: --train.batch-size is train.batch_size."""
    return text.casefold().replace("--", "").replace("-", " ").replace("_", " ")


def _options(spec: Spec, prefix: str) -> list[Option]:
    options = []
    for name, field in type(spec).model_fields.items():
        value, dotted = getattr(spec, name), f"{prefix}.{name}"
        if isinstance(value, Spec):
            options += _options(value, dotted)
            continue
        choices = _choices(field.annotation)
        kind: Literal["choice", "switch", "text"] = (
            "switch" if field.annotation is bool else "choice" if choices else "text"
        )
        options.append(Option(dotted, field.description or "", kind, choices, as_text(value)))
    return options


def _changed(spec: Spec, changes: Mapping[str, str], prefix: str) -> Spec:
    kind, values = type(spec), {name: getattr(spec, name) for name in type(spec).model_fields}
    for name, text in changes.items():
        first, _, inner = name.partition(".")
        field = kind.model_fields.get(first)
        if field is None:
            raise RecipeError(f"{prefix}{first}: no such option{nearest(first, kind.model_fields)}")
        if inner and isinstance(values[first], Spec):
            values[first] = _changed(values[first], {inner: text}, f"{prefix}{first}.")
        elif not text.strip():
            values[first] = (
                None if _optional(field.annotation) else field.get_default(call_default_factory=True)
            )
        else:
            values[first] = _read(text.strip(), field.annotation, f"{prefix}{first}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(explain(error, kind, prefix)) from None


def _read(text: str, annotation: Any, name: str) -> Any:
    """What pydantic is to make the value of: text, or a list or mapping of texts."""
    plain = _members(annotation)
    if any(get_origin(member) is Literal and text in get_args(member) for member in plain):
        return text
    if any(get_origin(member) is dict or member is dict for member in plain):
        value = _loaded(text)
        if not isinstance(value, dict):
            raise RecipeError(f"{name}: {text!r} is not of the form {{name: value}}")
        return value
    if any(get_origin(member) is tuple for member in plain):
        return tuple(_words(text, name))
    return text


def _words(text: str, name: str) -> list[Any]:
    """The items of a list: YAML in brackets, or words with commas between them. Raises: RecipeError."""
    if not text.startswith("["):
        return [word for part in text.split(",") if (word := part.strip())]
    value = _loaded(text)
    if not isinstance(value, list):
        raise RecipeError(f"{name}: {text!r} is not of the form [one, another]")
    return value


def _loaded(text: str) -> Any:
    """What YAML, and so JSON, says; None if it is neither."""
    for load in (json.loads, yaml.safe_load):
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
            return load(text)
    return None


def _flow(value: Any) -> str:
    """A list or a mapping on one line: JSON, which is YAML."""
    plain = json.dumps(value, ensure_ascii=False)
    return plain if plain.isprintable() else json.dumps(value)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, None left out; of anything else itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for member in get_args(annotation) if member is not type(None))
    return (annotation,)


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal, if nothing else is allowed."""
    members = _members(annotation)
    if not all(get_origin(member) is Literal for member in members):
        return ()
    words = tuple(str(word) for member in members for word in get_args(member))
    return ("", *words) if _optional(annotation) else words
