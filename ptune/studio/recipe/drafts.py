"""A recipe in the making: what was chosen on the page, the recipe that it means, and the file that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from ptune.begin.presets import Preset
from ptune.begin.project import Answers, recipe_of, write_recipe
from ptune.begin.starts import STARTS, Word
from ptune.config.chat import Chat
from ptune.config.read_recipe import read_recipe
from ptune.config.recipe import Recipe
from ptune.errors import FormatError, RecipeError, UsageError
from ptune.formats.whole_write import read_json, sha256_of, write_json
from ptune.studio.data.choice import Choice
from ptune.studio.recipe.forms import changed, differences, with_method
from ptune.studio.workspace import Workspace, checked

PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True)
class Draft:
    """What the page's form says. model, method: None as the shipped recipe has them. changes: as `forms.changed`."""

    name: str
    files: tuple[str, ...]
    task: Word
    columns: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    method: str | None = None
    preset: Preset = "balanced"
    changes: Mapping[str, str] = field(default_factory=dict)

    def preset_recipe(self) -> Recipe:
        """The recipe without the changes. Raises: UsageError, RecipeError."""
        if not self.files:
            raise UsageError("There is no data yet: choose files on the tab Data.")
        recipe = recipe_of(read_recipe(STARTS[self.task].recipe), self._answers(), Path())
        return recipe if self.method is None else changed(with_method(recipe, self.method), {})

    def recipe(self) -> Recipe:
        """The recipe. Raises: UsageError, RecipeError that names the option."""
        return changed(self.preset_recipe(), self.changes)

    def wrong_options(self) -> dict[str, str]:
        """What is wrong with the value of an option by itself, by its name. Raises: as `preset_recipe`."""
        preset, wrong = self.preset_recipe(), {}
        for name, text in self.changes.items():
            try:
                changed(preset, {name: text})
            except RecipeError as error:
                wrong[name] = str(error)
        return wrong

    def write(self, workspace: Workspace) -> Path:
        """Writes recipes/NAME.yaml, unless it stands there with just that; returns it.

        Raises: UsageError if that would replace what others wrote, or what a run was trained with.
        """
        recipe, path = self.recipe(), workspace.recipe(self.name)
        if path.exists():
            if Recipe.load(path) == recipe:
                return path
            other = free_name(workspace, self.name)
            if workspace.run(self.name).exists():
                raise UsageError(f"runs/{self.name} has another recipe: call this one {other}.")
            if sha256_of(path) != _written(workspace, self.name):
                raise UsageError(
                    f"recipes/{self.name}.yaml was written or changed by others: call this one {other}, or train that one on the tab Run."
                )
        write_recipe(recipe, self._answers(), path)
        write_json(_record(workspace, self.name), {"sha256": sha256_of(path)})
        return path

    def write_for_plan(self, workspace: Workspace) -> Path:
        """The recipe's file for `ptune plan`: recipes/NAME.yaml, if it says just that, else one in .studio/, so that a look
        at the memory makes no recipe. Raises: UsageError, RecipeError."""
        recipe, path = self.recipe(), workspace.recipe(self.name)
        if path.exists() and Recipe.load(path) == recipe:
            return path
        aside = workspace.own / "plans" / path.name
        write_recipe(recipe, self._answers(), aside)
        return aside

    @property
    def memory_is_predicted(self) -> bool:
        """Whether `ptune plan` knows the task; of a translation its model decides, too."""
        return isinstance(read_recipe(STARTS[self.task].recipe).task, Chat)

    def _answers(self) -> Answers:
        return Answers(
            task=self.task,
            data=tuple(map(Path, self.files)),
            model=self.model or None,
            preset=self.preset,
            name=checked(self.name),
            columns=self.columns,
        )


def of_choice(workspace: Workspace, choice: Choice) -> Draft | None:
    """A draft for the chosen data, with a name that is free; None if nothing is chosen."""
    if not choice.files or choice.task is None:
        return None
    stem = Path(choice.files[0].rstrip("/")).name.partition(".")[0]
    plain = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "-" for letter in stem
    )
    name = free_name(workspace, plain.strip("-") or "mine")
    return Draft(name, choice.files, choice.task, choice.columns)


def of_recipe(workspace: Workspace, name: str) -> Draft:
    """A draft that means what a recipe of the workspace says, under a name that is free.

    Raises: RecipeError if it cannot be read; UsageError for a task that the form does not begin with.
    """
    recipe = Recipe.load(workspace.recipe(name))
    kinds = {word: type(read_recipe(start.recipe).task) for word, start in STARTS.items()}
    task = next((word for word, kind in kinds.items() if kind is type(recipe.task)), None)
    if task is None:
        raise UsageError(
            f"recipes/{name}.yaml is for {type(recipe.task).__name__}, which has no form: train it on the tab Run, or edit the file."
        )
    draft = Draft(
        free_name(workspace, name),
        tuple(map(str, recipe.data.files)),
        task,
        recipe.task.columns.named,
        recipe.backbone.model,
        type(recipe.method).__name__,
    )
    changes = {
        option: value
        for option, _, value in differences(draft.preset_recipe(), recipe)
        if option not in ("task.kind", "task.columns", "method.kind")
    }
    return replace(draft, changes=changes)


def free_name(workspace: Workspace, name: str) -> str:
    """This name, or one after it, of which there is neither a recipe nor a run."""
    first = checked(name)
    for at in range(1, 10_000):
        candidate = first if at == 1 else f"{first}-{at}"
        if not (workspace.recipe(candidate).exists() or workspace.run(candidate).exists()):
            return candidate
    raise UsageError(f"ten thousand recipes are called {name}: choose another name")


def keep(workspace: Workspace, draft: Draft) -> None:
    """Remembers the draft that is being made, for a page that is loaded again."""
    value: dict[str, Any] = {name: getattr(draft, name) for name in draft.__dataclass_fields__}
    plain = {"files": list(draft.files), "columns": dict(draft.columns), "changes": dict(draft.changes)}
    write_json(_place(workspace), value | plain)


def kept(workspace: Workspace, choice: Choice) -> Draft | None:
    """The draft that is being made for the chosen data: the one that was kept, else a new one; None without data."""
    try:
        draft = _read(read_json(_place(workspace)))
    except (FormatError, KeyError, TypeError, ValueError):
        return of_choice(workspace, choice)
    same = (draft.files, draft.task, dict(draft.columns)) == (choice.files, choice.task, dict(choice.columns))
    return draft if same else of_choice(workspace, choice)


def _read(value: Mapping[str, Any]) -> Draft:
    """Raises: KeyError, TypeError or ValueError if it is no draft."""
    if value["task"] not in STARTS or value["preset"] not in PRESETS:
        raise ValueError("not one of the words")
    texts = {
        name: {str(key): str(text) for key, text in dict(value[name]).items()}
        for name in ("columns", "changes")
    }
    return Draft(**{**value, "name": str(value["name"]), "files": tuple(map(str, value["files"])), **texts})


def _written(workspace: Workspace, name: str) -> str | None:
    """The hash of the recipe as the page wrote it; None if it wrote none of that name."""
    try:
        return str(read_json(_record(workspace, name))["sha256"])
    except (FormatError, KeyError):
        return None


def _place(workspace: Workspace) -> Path:
    return workspace.own / "draft.json"


def _record(workspace: Workspace, name: str) -> Path:
    return workspace.own / "written" / f"{checked(name)}.json"
