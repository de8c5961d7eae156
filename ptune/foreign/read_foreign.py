"""A config of another tool -> a recipe, and what has become of each of its fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ptune.config.recipe import Recipe, kind_named
from ptune.config.wrong_field import explain
from ptune.errors import RecipeError
from ptune.foreign.draft import Draft, How, Note, printable, shown
from ptune.foreign.reading import read_config
from ptune.foreign.tools import Tool, drafted, tool_of
from ptune.spec import Spec

TITLES: Mapping[How, str] = {
    "taken": "taken over",
    "look": "means something else here, so look",
    "left": "not taken over",
    "needless": "changes nothing here",
}
_ESSENTIAL = {"train.optimizer", "task.loss", "train.gradient_checkpointing", "backbone.model", "train.lr"}
"""What stays where two fields do not go together."""


@dataclass(frozen=True)
class Imported:
    """A recipe out of another tool's config."""

    recipe: Recipe
    tool: str
    file: Path
    notes: tuple[Note, ...]
    empty: tuple[str, ...]

    def of(self, how: How) -> list[Note]:
        """The notes of one kind."""
        return [note for note in self.notes if note.how == how]

    def text(self) -> str:
        """recipe.yaml: where it comes from and what to look at as comments, then what the file says."""
        lines = [
            f"# From {printable(self.file.name)}, a config of {self.tool}. Fields that are not named here have ptune's defaults."
        ]
        for how in ("look", "left"):
            if notes := self.of(how):
                lines += ["#", f"# {TITLES[how].capitalize()}:"]
                lines += [f"#   {one_line(note)}" for note in notes]
        whole = self.recipe.document()
        given = self.recipe.model_dump(mode="json", exclude_unset=True)
        for part in ("task", "method"):
            given[part] = {"kind": whole[part]["kind"], **given.get(part, {})}
        said = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
        return "\n".join(lines) + "\n\n" + said


def one_line(note: Note) -> str:
    """A note in a line: field and value there, field and value here, and what to know."""
    there = "" if not note.field else f"{note.field}: {shown(note.value)}"
    here = "" if not note.path else f"{note.path}: {shown(note.now)}"
    arrow = " -> " if there and here else ""
    known = f"  ({note.said})" if note.said and here else f" - {note.said}" if note.said else ""
    return " ".join(printable(f"{there}{arrow}{here}{known}").split())


def read_foreign(
    file: Path, tool: Tool | None = None, devices: int = 1, trainer: str | None = None
) -> Imported:
    """Reads a config of `tool` (default: recognised by its fields).

    devices: on how many it was trained there. trainer: TRL's (sft, dpo, …), where neither command nor fields tell it.

    Raises: UsageError for a file that is no such config; RecipeError where it makes no recipe.
    """
    config, command = read_config(file)
    draft = drafted(tool or tool_of(config, command, file), config, command, file, devices, trainer)
    draft.values["name"] = _name(file)
    return Imported(built(draft), draft.tool, file, tuple(draft.notes), tuple(draft.empty))


def _name(file: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", file.stem, flags=re.ASCII).strip(".-") or "imported"


def built(draft: Draft) -> Recipe:
    """The recipe of a draft; what a recipe cannot hold becomes a note of what was not taken. Raises: RecipeError."""
    _drop_foreign_parts(draft)
    for _ in range(len(draft.values) + 1):
        problem = _problem(draft.values, draft)
        if isinstance(problem, Recipe):
            return problem
        message, paths = problem
        draft.refuse(_culprit(draft, message, paths), message)
    raise AssertionError("each turn takes a value away")


def _drop_foreign_parts(draft: Draft) -> None:
    """Takes away what the task or the method does not have: an alpha where all weights are trained."""
    for part, kind in (("task", draft.task), ("method", draft.method)):
        known = kind_named(part, kind).model_fields
        for path in [path for path in draft.values if path.startswith(f"{part}.")]:
            name = path.split(".")[1]
            if name not in known and name != "kind":
                how: How = "needless" if part == "method" else "left"
                draft.refuse(path, f"{part} {kind} has no {name}", how)
        draft.values.pop(f"{part}.kind", None)


def _problem(values: Mapping[str, Any], draft: Draft) -> Recipe | tuple[str, list[str]]:
    """The recipe of some values; or what is wrong with them, and the paths that may be to blame, the likeliest first."""
    nested = _nested(values)
    for part, kind in (("task", draft.task), ("method", draft.method)):
        spec = kind_named(part, kind)
        try:
            nested[part] = spec.model_validate(nested.get(part, {}))
        except ValidationError as error:
            return _told(error, spec, f"{part}.", values)
    try:
        return Recipe.model_validate(nested)
    except ValidationError as error:
        return _told(error, Recipe, "", values)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        *parts, last = path.split(".")
        place = nested
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def _told(
    error: ValidationError, kind: type[Spec], prefix: str, values: Mapping[str, Any]
) -> tuple[str, list[str]]:
    first = error.errors()[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    where = prefix + ".".join(map(str, first["loc"]))
    named = [path for path in values if where == path or where.startswith(f"{path}.")]
    if named:
        return f"ptune takes no such value: {message}", named
    said = explain(error, kind, prefix).partition("; ")[0]
    words = set(re.findall(r"[a-z_]+", message))
    return said, [path for path in reversed(list(values)) if path.rpartition(".")[2] in words]


def _culprit(draft: Draft, message: str, paths: list[str]) -> str:
    """The value without which the problem is gone. Raises: RecipeError where there is none."""
    for path in sorted(paths, key=lambda path: path in _ESSENTIAL):
        left = {name: value for name, value in draft.values.items() if name != path}
        problem = _problem(left, draft)
        if isinstance(problem, Recipe) or problem[0] != message:
            return path
    raise RecipeError(f"{draft.file} makes no recipe: {message}")
