"""ptune.label: a teacher's labels for distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ptune.api.recipe import Changes, RecipeSource
from ptune.api.recipe import recipe as recipe_of
from ptune.engine.options import EngineOptions
from ptune.formats.bundle import BASE, Bundle


def label(
    recipe: RecipeSource,
    teacher: str | Path | Bundle | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    adapter: str = BASE,
    top: int | None = None,
    temperature: float = 1.0,
    profile: str | None = None,
    threads: int | None = None,
    **changes: Unpack[Changes],
) -> Path:
    """Labels the examples of a recipe's files with what a teacher thinks likely in the place of each target, and returns the folder.

    recipe: of the task Distillation, as in `ptune.train`; changes: parts of it, `data={"files": […]}` among them.
    teacher: a bundle; or files of log-probabilities that another server wrote, of which adapter, temperature, profile and threads
        say nothing. adapter: which of the bundle's adapters, or its bare base.
    out: the folder; default: the recipe's `task.teacher_labels`. Examples that it has are not computed again.
    top: tokens that are kept for each target, 32 unless set, of files as many as they have; temperature: of the teacher's distributions.
    profile, threads: of the engine.

    Raises: RecipeError, DataError, BackboneError; UsageError where teacher and student have different tokenizers.
    """
    from ptune.cli import set_libraries

    set_libraries()
    folder = None if out is None else Path(out)
    if isinstance(teacher, Sequence) and not isinstance(teacher, str):
        from ptune.tasks.distillation.served_labels import label_from_files

        return label_from_files(recipe_of(recipe, **changes), [Path(one) for one in teacher], folder, top=top)
    from ptune.tasks.distillation.labelling import label as write_labels

    return write_labels(
        recipe_of(recipe, **changes),
        teacher.folder if isinstance(teacher, Bundle) else Path(teacher),
        folder,
        adapter=adapter,
        top=32 if top is None else top,
        temperature=temperature,
        options=EngineOptions(profile=profile, threads=threads),
    )
