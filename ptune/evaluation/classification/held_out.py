"""The rows that a classifier is evaluated on: its test files, else its validation split, else given files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.codecs.labels import Labels
from ptune.config.classification import ImageClassification, TextClassification
from ptune.config.columns import USUAL
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Recipe
from ptune.config.task_spec import TaskSpec
from ptune.config.tasks import tasks_of
from ptune.data.held_out import Held, Split
from ptune.data.shapes.labelled import LabelledRow, TextTask
from ptune.errors import DataError
from ptune.formats.bundle import AdapterRecord
from ptune.formats.run import Run
from ptune.kinds import imported
from ptune.progress import say
from ptune.tasks.encoder.facts import Facts
from ptune.training.folder import check_same_data


def of_run(run: Run, data: Sequence[Path] = (), columns: Mapping[str, str] = USUAL) -> Held:
    """Reads a run's data again; with `data`, only its training rows, for the baselines.

    columns: what `data` calls the task's columns, where the recipe does not say it.

    Raises: DataError if a file is gone or has changed, or nothing is held out; FormatError if the run is damaged.
    """
    recipe, facts = Recipe.load(run.recipe_path), Facts.of_run(run)
    if data:
        rows, files = _given(recipe.task.with_columns(columns), data, facts.named)
        return Held(facts.task, facts.named, "given", rows, files, _training(run, recipe))
    splits, files = _splits(recipe)
    check_same_data(run, {"files": files})
    split: Split = "test" if recipe.data.test else "validation"
    source = split if recipe.data.test or recipe.data.validation else "train"
    used = [{"path": file["path"], "sha256": file["sha256"]} for file in files if file["split"] == source]
    if not splits[split]:
        raise DataError(f"{run.folder} has no held-out row: name some with --data FILE")
    rows = splits[split][: recipe.evaluate.limit]
    return Held(facts.task, facts.named, split, rows, used, splits["train"])


def of_bundle(record: AdapterRecord, data: Sequence[Path], columns: Mapping[str, str] = USUAL) -> Held:
    """Reads `data` with the labels of an adapter. Raises: DataError that names the file and the rows that cannot be used."""
    assert record.problem
    labels = Labels(record.labels, record.problem)
    task: TaskSpec = imported(tasks_of(record.task)[0].spec)()
    if isinstance(task, TextClassification):
        assert record.problem != "tags"
        assert record.problem != "vector"
        task = TextClassification(problem=record.problem)
    if record.step_separator is not None:
        task = ProcessReward(step_separator=record.step_separator)
    rows, files = _given(task.with_columns(columns), data, labels)
    return Held(record.task, labels, "given", rows, files)


def _splits(recipe: Recipe) -> tuple[dict[str, Sequence[LabelledRow]], list[dict[str, Any]]]:
    """Returns the rows of train, validation and test, split as for training, and the files as in data.json."""
    task, seed = recipe.task, recipe.train.seed
    if isinstance(task, ImageClassification):
        from ptune.data.images.splits import load_images

        images = load_images(recipe.data, task, seed)
        found = {"train": images.train, "validation": images.validation, "test": images.test}
        return dict(found), images.summary["files"]
    from ptune.data.label_splits import read_splits

    assert isinstance(task, TextTask)
    read = read_splits(recipe.data, task, seed)
    read.check()
    files = [{"split": split, **file.described()} for split, file in read.files]
    return {name: [placed.row for placed in rows] for name, rows in read.rows.items()}, files


def _training(run: Run, recipe: Recipe) -> Sequence[LabelledRow]:
    """The training rows, for baselines; empty, with a warning, if their files are gone or have changed."""
    try:
        splits, files = _splits(recipe)
        check_same_data(run, {"files": files})
    except DataError as error:
        say(f"no baselines: {error}")
        return ()
    return splits["train"]


def _given(
    task: TaskSpec, data: Sequence[Path], labels: Labels
) -> tuple[Sequence[LabelledRow], list[dict[str, Any]]]:
    """Reads rows with known labels from files; returns them with the files' records."""
    if isinstance(task, ImageClassification):
        from ptune.data.images.labelled import labelled, open_images

        sources = [open_images(path, task.columns) for path in data]
        files = [{"path": str(source.path), "sha256": source.sha256} for source in sources]
        return [row for source in sources for row in labelled(source, labels)], files
    from ptune.data.read import open_file
    from ptune.data.shapes.labelled import read_labelled

    assert isinstance(task, TextTask)
    rows = read_labelled(data, task, labels)
    return rows, [{"path": str(path), "sha256": open_file(path).sha256} for path in data]
