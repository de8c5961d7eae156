"""The recipe of a new project, and the sample of data that it trains on until there is other data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import yaml
from pydantic import ValidationError

from ptune.begin.presets import WHAT, Preset, with_preset
from ptune.begin.starts import STARTS, Word
from ptune.config.recipe import Backbone, Data, Recipe
from ptune.config.wrong_field import explain
from ptune.data.problems import Problems
from ptune.data.read import open_file
from ptune.errors import RecipeError, UsageError
from ptune.formats.whole_write import write_json_lines, write_text

SAMPLED = 40  # rows of a sample: enough to hold some out


@dataclass(frozen=True)
class Answers:
    """What was asked. data: none: a sample is written; model: none: the shipped recipe's."""

    task: Word
    data: tuple[Path, ...]
    model: str | None
    preset: Preset
    name: str
    columns: Mapping[str, str]
    memory: str | None = None


def recipe_of(shipped: Recipe, answers: Answers, sample: Path) -> Recipe:
    """The recipe. shipped: the one that the task starts from. sample: where its sample lies, if there is no data."""
    recipe = shipped.model_copy(update={"name": answers.name, "data": Data(files=answers.data or (sample,))})
    if answers.data and answers.task == "translate" and not answers.columns:
        # The shipped recipe's own columns and languages are those of its sample.
        recipe = recipe.model_copy(update={"task": type(shipped.task)()})
    if answers.columns:
        task = type(shipped.task)() if answers.task == "translate" else shipped.task
        recipe = recipe.model_copy(update={"task": task.with_columns(answers.columns)})
    if answers.model is not None and answers.model != shipped.backbone.model:
        recipe = recipe.model_copy(update={"backbone": Backbone(model=answers.model)})
    recipe = with_preset(recipe, answers.preset)
    recipe = recipe.model_copy(update={"plan": recipe.plan.model_copy(update={"memory": answers.memory})})
    try:
        return Recipe(**{field: getattr(recipe, field) for field in Recipe.model_fields})
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe)) from None


def write_recipe(recipe: Recipe, answers: Answers, path: Path) -> None:
    """Writes recipe.yaml, with what the preset is on top. Fields that have their defaults are left out."""
    whole, given = recipe.document(), recipe.model_dump(mode="json", exclude_defaults=True)
    for part in ("task", "method"):
        given[part] = {"kind": whole[part]["kind"], **given.get(part, {})}
    said = yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    write_text(path, f"# {STARTS[answers.task].what}\n# {answers.preset}: {WHAT[answers.preset]}\n\n{said}")


def write_sample(shipped: Recipe, word: Word, path: Path) -> int:
    """Writes the first rows of the shipped recipe's data as JSONL. Returns their number. Raises: UsageError for images."""
    if word == "images":
        raise UsageError("images needs --data FOLDER: a folder with a folder for each label")
    file = open_file(shipped.data.files[0])
    rows = [row.value for row in islice(file.rows(Problems(str(path), file.reader.unit)), SAMPLED)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_lines(path, rows)
    return len(rows)
