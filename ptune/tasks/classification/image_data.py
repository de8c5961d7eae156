"""The recipe's images: read, labelled, split, and described for data.json. Torch-free."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptune.data.images import ImageSource, labelled, labels_of, open_images
from ptune.data.labelled import LabelledRow
from ptune.data.source import hold_out
from ptune.errors import DataError, RecipeError
from ptune.progress import say
from ptune.recipe import Data
from ptune.tasks.classification.labels import Labels
from ptune.tasks.classification.spec import ImageClassification


@dataclass(frozen=True)
class ImageData:
    """Labelled images of a run."""

    labels: Labels
    train: list[LabelledRow]
    validation: list[LabelledRow]
    test: list[LabelledRow]
    parts: tuple[int, ...]  # training images of each of the recipe's files
    summary: dict[str, Any]


def load_images(data: Data, task: ImageClassification, seed: int) -> ImageData:
    """Reads every image of the recipe once.

    Raises: RecipeError where no file is named; DataError that names each image that cannot be used.
    """
    if not data.files:
        raise RecipeError("data.files: name a folder of images, a CSV of image,label or an npz file")
    opened = {
        split: [open_images(path) for path in paths]
        for split, paths in (("train", data.files), ("validation", data.validation), ("test", data.test))
    }
    for sources in opened.values():
        for source in sources:
            source.problems.raise_if_any(source.row_count)
    labels = Labels(labels_of(opened["train"], task.labels), "single")
    named = {split: [labelled(source, labels) for source in sources] for split, sources in opened.items()}
    parts, held = _held_out(named["train"], data, seed) if not data.validation else (named["train"], [])
    if data.limit is not None:
        parts = _first(parts, data.limit)
    rows = {split: [row for part in found for row in part] for split, found in named.items()}
    rows |= {"train": [row for part in parts for row in part]}
    if not data.validation:
        rows["validation"] = held
    _refuse_one_class(rows["train"], labels.names)
    _tell_leaks(rows)
    summary = _summary(opened, rows, labels.names, data)
    return ImageData(labels, rows["train"], rows["validation"], rows["test"], tuple(map(len, parts)), summary)


def _held_out(
    parts: list[list[LabelledRow]], data: Data, seed: int
) -> tuple[list[list[LabelledRow]], list[LabelledRow]]:
    """What is left of each file, and what is held out: by a hash of seed and pixels, so that copies stay together."""
    ranks = np.array([_rank(row, seed) for part in parts for row in part], np.uint64)
    flags = iter(hold_out(ranks, data.validation_share).tolist())
    left: list[list[LabelledRow]] = []
    held: list[LabelledRow] = []
    for part in parts:
        kept: list[LabelledRow] = []
        for row in part:
            (held if next(flags) else kept).append(row)
        left.append(kept)
    return left, held


def _rank(row: LabelledRow, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}/{row.input.sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _first(parts: list[list[LabelledRow]], limit: int) -> list[list[LabelledRow]]:
    cut = []
    for part in parts:
        cut.append(part[:limit])
        limit -= len(cut[-1])
    return cut


def _refuse_one_class(rows: Sequence[LabelledRow], labels: Sequence[str]) -> None:
    """Raises: DataError where there is nothing to be told apart."""
    there = [index for index in range(len(labels)) if any(row.label == index for row in rows)]
    if len(there) < 2:
        only = f"all {len(rows)} training images are {labels[there[0]]!r}" if there else "no training image"
        raise DataError(f"{only}: a classifier needs at least two labels (is data.limit too small?)")
    if missing := [name for index, name in enumerate(labels) if index not in there]:
        say(f"no training image has the label {', '.join(missing)}")


def _tell_leaks(rows: dict[str, list[LabelledRow]]) -> None:
    seen = {row.input.sha256 for row in rows["train"]}
    for split in ("validation", "test"):
        copies = [row for row in rows[split] if row.input.sha256 in seen]
        if copies:
            say(
                f"{split}: {len(copies)} of {len(rows[split])} images are among the training images too, "
                f"the first at {copies[0].place}"
            )


def _summary(
    opened: dict[str, list[ImageSource]],
    rows: dict[str, list[LabelledRow]],
    labels: tuple[str, ...],
    data: Data,
) -> dict[str, Any]:
    described = []
    for split, sources in opened.items():
        for source in sources:
            described.append({"split": split, **source.described()})
            say(f"{source.path}: {source.row_count} images ({source.format})")
    return {
        "files": described,
        "validation_share": None if data.validation else data.validation_share,
        "labels": list(labels),
        **{split: _described(found, labels) for split, found in rows.items()},
    }


def _described(rows: Sequence[LabelledRow], labels: Sequence[str]) -> dict[str, Any]:
    digest, counts = hashlib.sha256(), Counter(row.label for row in rows)
    for row in rows:
        digest.update(f"{row.input.sha256} {row.label}\n".encode())
    return {
        "rows": len(rows),
        "examples": len(rows),
        "sha256": digest.hexdigest(),
        "labels": {name: counts[index] for index, name in enumerate(labels)},
    }
