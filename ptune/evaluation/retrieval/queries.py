"""Queries and the collection they search: held-out anchors, and all passages of the recipe's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptune.config.columns import USUAL, PairColumns
from ptune.config.recipe import Recipe
from ptune.config.retrieval import Embedding, Reranking
from ptune.data.shapes.pairs import Pair, PairSplits, read_pair_splits, read_pairs
from ptune.errors import DataError
from ptune.formats.run import Run
from ptune.training.folder import check_same_data

Split = Literal["test", "validation", "given"]


@dataclass(frozen=True)
class Queries:
    """Anchors that training never saw (unknown for `given` ones), and the passages to search."""

    split: Split
    queries: list[str]
    relevant: list[set[int]]  # each query's right passages
    passages: list[str]
    places: list[str]  # each query's origin
    files: list[dict[str, Any]]  # path and SHA-256 of the queries' files

    @classmethod
    def of(
        cls,
        split: Split,
        rows: Sequence[Pair],
        passages: Sequence[str],
        files: list[dict[str, Any]],
        limit: int | None = None,
    ) -> Queries:
        """Makes queries of the first `limit` rows; rows with the same anchor are one query, whose right passages all rows tell."""
        index = {text: at for at, text in enumerate(passages)}
        by_anchor: dict[str, tuple[set[int], str]] = {}
        for row in rows[:limit]:
            by_anchor.setdefault(row.anchor, (set(), row.place))
        for row in rows:
            if row.anchor in by_anchor:
                by_anchor[row.anchor][0].add(index[row.positive])
        right = [places for places, _ in by_anchor.values()]
        return cls(
            split, list(by_anchor), right, list(passages), [place for _, place in by_anchor.values()], files
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over queries, answers and passages; equal for runs that can be compared."""
        digest = hashlib.sha256()
        for query, right in zip(self.queries, self.relevant, strict=True):
            digest.update(json.dumps([query, sorted(self.passages[at] for at in right)]).encode() + b"\n")
        digest.update(json.dumps(sorted(self.passages)).encode())
        return digest.hexdigest()


def of_run(run: Run, data: Sequence[Path] = (), columns: Mapping[str, str] = USUAL) -> Queries:
    """Queries of a run's test files, else its validation split, else `data`; they search all passages of its files.

    Raises: DataError if a file is gone or has changed, or nothing is held out.
    """
    recipe = Recipe.load(run.recipe_path)
    assert isinstance(recipe.task, Embedding | Reranking)
    named = recipe.task.columns
    splits = read_pair_splits(recipe.data, recipe.train.seed, named)
    splits.check()
    if data:
        return of_files(data, named.changed(columns), splits.passages)
    files = [{"split": split, **file.described()} for split, file in splits.files]
    check_same_data(run, {"files": files})
    split: Split = "test" if recipe.data.test else "validation"
    rows = splits.rows[split]
    source = split if recipe.data.test or recipe.data.validation else "train"
    used = [{"path": file["path"], "sha256": file["sha256"]} for file in files if file["split"] == source]
    if not rows:
        raise DataError(f"{run.folder} has no held-out row: name some with --data FILE")
    return Queries.of(split, rows, splits.passages, used, recipe.evaluate.limit)


def held_rows(splits: PairSplits, recipe: Recipe) -> list[Pair]:
    """The rows that figures are computed on."""
    return splits.rows["test" if recipe.data.test else "validation"][: recipe.evaluate.limit]


def of_files(data: Sequence[Path], named: PairColumns, more: Sequence[str] = ()) -> Queries:
    """Queries of files, searching their passages and `more`. Raises: DataError."""
    pairs = read_pairs(data, named)
    rows = [row for file in pairs for row in file.rows]
    passages = dict.fromkeys([*more, *(text for row in rows for text in row.passages)])
    files = [{"path": file.name, "sha256": file.file.sha256} for file in pairs]
    return Queries.of("given", rows, list(passages), files)
