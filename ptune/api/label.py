"""ptune.label: a teacher's labels for distillation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from ptune.api.recipe import Changes, RecipeSource
from ptune.api.recipe import recipe as recipe_of
from ptune.engine.options import EngineOptions
from ptune.formats.bundle import BASE, Bundle


def label(
    recipe: RecipeSource,
    teacher: str | Path | Bundle,
    out: str | Path | None = None,
    *,
    adapter: str = BASE,
    top: int = 32,
    temperature: float = 1.0,
    profile: str | None = None,
    threads: int | None = None,
    **changes: Unpack[Changes],
) -> Path:
    """Labels the examples of a recipe's files with what a teacher thinks likely in the place of each target, and returns the folder.

    recipe: of the task Distillation, as in `ptune.train`; changes: parts of it, `data={"files": […]}` among them.
    teacher: a bundle; adapter: which of its adapters, or its bare base.
    out: the folder; default: the recipe's `task.teacher_labels`. Examples that it has are not computed again.
    top: tokens that are kept for each target; temperature: of the teacher's distributions.
    profile, threads: of the engine.

    Raises: RecipeError, DataError, BackboneError; UsageError where teacher and student have different tokenizers.
    """
    from ptune.cli import QUIET

    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    from ptune.tasks.distillation.labelling import label as write_labels

    return write_labels(
        recipe_of(recipe, **changes),
        teacher.folder if isinstance(teacher, Bundle) else Path(teacher),
        None if out is None else Path(out),
        adapter=adapter,
        top=top,
        temperature=temperature,
        options=EngineOptions(profile=profile, threads=threads),
    )
