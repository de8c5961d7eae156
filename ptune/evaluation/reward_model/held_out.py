"""Held-out pairs of a reward model's run, for its figures, its export and its proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptune.config.columns import USUAL, RewardColumns
from ptune.config.recipe import Recipe
from ptune.config.reward_model import RewardModel
from ptune.data.held_out import Held
from ptune.data.shapes.labelled import LabelledRow
from ptune.data.shapes.pairs import PairFile
from ptune.data.shapes.rewards import RewardPair, open_rewards, read_reward_splits, reward_rows
from ptune.errors import DataError
from ptune.formats.run import Run
from ptune.tasks.encoder.facts import Facts
from ptune.training.folder import check_same_data

Split = Literal["test", "validation", "given"]


@dataclass(frozen=True)
class HeldPairs:
    """Pairs that training never saw (unknown for `given` ones)."""

    split: Split
    rows: list[RewardPair]
    files: list[dict[str, Any]]  # path and SHA-256


def pairs_of_run(run: Run, data: Sequence[Path] = (), columns: Mapping[str, str] = USUAL) -> HeldPairs:
    """A run's test pairs, else those of its validation split, or those of `data`.

    Raises: DataError if a file is gone or has changed, or nothing is held out.
    """
    recipe = Recipe.load(run.recipe_path)
    assert isinstance(recipe.task, RewardModel)
    if data:
        return pairs_of_files(data, recipe.task.columns.changed(columns))
    splits = read_reward_splits(recipe.data, recipe.train.seed, recipe.task.columns)
    splits.check()
    files = [{"split": split, **file.described()} for split, file in splits.files]
    check_same_data(run, {"files": files})
    split: Split = "test" if recipe.data.test else "validation"
    rows = reward_rows(splits, split)[: recipe.evaluate.limit]
    if not rows:
        raise DataError(f"{run.folder} has no held-out pair: name some with --data FILE")
    source = split if recipe.data.test or recipe.data.validation else "train"
    return HeldPairs(split, rows, [_named(file) for of, file in splits.files if of == source])


def pairs_of_files(data: Sequence[Path], columns: RewardColumns) -> HeldPairs:
    """Pairs of files. Raises: DataError that names the file and its unusable rows."""
    files = [open_rewards(path, columns) for path in data]
    for file in files:
        file.problems.raise_if_any(file.row_count)
    rows = [row for file in files for row in file.rows if isinstance(row, RewardPair)]
    return HeldPairs("given", rows, [_named(file) for file in files])


def of_run(run: Run, data: Sequence[Path] = ()) -> Held:
    """Each prompt with its better and with its worse answer. data: unused; given pairs are evaluated.

    Raises: DataError if a file is gone or has changed, or nothing is held out.
    """
    facts, held = Facts.of_run(run), pairs_of_run(run)
    rows = [LabelledRow((row.anchor, answer), (), row.place) for row in held.rows for answer in row.answers]
    return Held(facts.task, facts.named, held.split, rows, [])


def _named(file: PairFile) -> dict[str, Any]:
    return {"path": file.name, "sha256": file.file.sha256}
