"""Reads a recipe's images, labels and splits them, and describes them for data.json. Torch-free."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptune.codecs.labels import Labels
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Data
from ptune.data.images.labelled import ImageSource, labels_of, looked_up, open_images
from ptune.data.label_splits import SPLITS
from ptune.data.shapes.labelled import LabelledRow
from ptune.data.source import hold_out
from ptune.errors import DataError, RecipeError
from ptune.progress import say


@dataclass(frozen=True)
class PlacedImage:
    """A row with its source."""

    row: LabelledRow
    source: ImageSource
    number: int


@dataclass
class ImageSplits:
    """All images of a recipe. Unusable ones are kept for the doctor; `check` raises for them."""

    labels: Labels | None = None  # None if there is no image to take them from
    sources: list[tuple[str, ImageSource]] = field(default_factory=list)  # with their splits
    rows: dict[str, list[PlacedImage]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    parts: tuple[int, ...] = ()  # number of training images from each of the recipe's files
    errors: list[DataError] = field(default_factory=list)  # for whole paths, or for the data as a whole

    def check(self) -> None:
        """Raises: DataError that names each unusable image."""
        for error in (error for error in self.errors if error.file is not None):
            raise error
        for _, source in self.sources:
            source.check()
        for error in self.errors:
            raise error

    def refuse_one_class(self) -> None:
        """Raises: DataError if there is only one label. Prints the labels without images."""
        there = [name for name, count in self.counts("train").items() if count]
        total = len(self.rows["train"])
        if len(there) < 2:
            only = f"all {total} training images are {there[0]!r}" if there else "there is no training image"
            raise DataError(f"{only}: a classifier needs at least two labels (is data.limit too small?)")

    def counts(self, split: str) -> dict[str, int]:
        """Label -> images."""
        if self.labels is None:
            return {}
        counts = Counter(placed.row.label for placed in self.rows[split])
        return {name: counts[index] for index, name in enumerate(self.labels.names)}


@dataclass(frozen=True)
class ImageData:
    """Labelled images of a run."""

    labels: Labels
    train: list[LabelledRow]
    validation: list[LabelledRow]
    test: list[LabelledRow]
    parts: tuple[int, ...]  # number of training images from each of the recipe's files
    summary: dict[str, Any]


def load_images(data: Data, task: ImageClassification, seed: int) -> ImageData:
    """Reads every image of the recipe once.

    Raises: RecipeError if no file is named; DataError that names each unusable image.
    """
    return usable(read_image_splits(data, task, seed), data)


def usable(splits: ImageSplits, data: Data) -> ImageData:
    """Converts the splits for training. Raises: DataError that names each unusable image."""
    splits.check()
    splits.refuse_one_class()
    assert splits.labels is not None
    if missing := [name for name, count in splits.counts("train").items() if not count]:
        say(f"no training image has the label {', '.join(missing)}")
    train, validation, test = ([placed.row for placed in splits.rows[split]] for split in SPLITS)
    return ImageData(splits.labels, train, validation, test, splits.parts, _summary(splits, data))


def read_image_splits(data: Data, task: ImageClassification, seed: int) -> ImageSplits:
    """Reads a recipe's images. Without validation files, `validation_share` of the training images is held out.

    Raises: RecipeError if the recipe names no files; other errors are kept for `ImageSplits.check`.
    """
    if not data.files:
        raise RecipeError("data.files: name a folder of images, a CSV of image,label or an npz file")
    splits = ImageSplits()
    for split, paths in zip(SPLITS, (data.files, data.validation, data.test), strict=True):
        for path in paths:
            try:
                splits.sources.append((split, open_images(path, task.columns)))
            except DataError as error:
                splits.errors.append(error)
    names = labels_of((source for split, source in splits.sources if split == "train"), task.labels)
    if names:
        splits.labels = Labels(names, "single")
        try:
            _fill(splits, splits.labels, data, seed)
        except DataError as error:
            splits.errors.append(error)
    return splits


def _fill(splits: ImageSplits, labels: Labels, data: Data, seed: int) -> None:
    """Fills the splits. Raises: DataError if there are too few images to hold any out."""
    parts: list[list[PlacedImage]] = []
    for split, source in splits.sources:
        source_rows = [PlacedImage(row, source, number) for row, number in looked_up(source, labels)]
        if split == "train":
            parts.append(source_rows)
        else:
            splits.rows[split] += source_rows
    if not data.validation:
        parts, splits.rows["validation"] = _held_out(parts, data, seed)
    if data.limit is not None:
        parts = _first(parts, data.limit)
    splits.parts = tuple(map(len, parts))
    splits.rows["train"] = [placed for part in parts for placed in part]


def _held_out(
    parts: list[list[PlacedImage]], data: Data, seed: int
) -> tuple[list[list[PlacedImage]], list[PlacedImage]]:
    """Holds images out by a hash of seed and content, so that copies stay together.

    Returns the rest of each file, and the held-out images. Raises: DataError if nothing is left to train on.
    """
    ranks = np.array([_rank(placed.row, seed) for part in parts for placed in part], np.uint64)
    chosen = hold_out(ranks, data.validation_share)
    chosen |= ranks <= ranks[chosen].max()
    if chosen.all():
        raise DataError(
            "all images are the same: nothing would be left to train on; pass --data.validation PATH"
        )
    flags = iter(chosen.tolist())
    rest: list[list[PlacedImage]] = []
    held: list[PlacedImage] = []
    for part in parts:
        kept: list[PlacedImage] = []
        for placed in part:
            (held if next(flags) else kept).append(placed)
        rest.append(kept)
    return rest, held


def _rank(row: LabelledRow, seed: int) -> int:
    digest = hashlib.sha256(f"{seed}/{row.input.sha256}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _first(parts: list[list[PlacedImage]], limit: int) -> list[list[PlacedImage]]:
    cut = []
    for part in parts:
        cut.append(part[:limit])
        limit -= len(cut[-1])
    return cut


def _summary(splits: ImageSplits, data: Data) -> dict[str, Any]:
    described = []
    for split, source in splits.sources:
        described.append({"split": split, **source.described()})
        say(f"{source.path}: {source.row_count} images ({source.format})")
    return {
        "files": described,
        "validation_share": None if data.validation else data.validation_share,
        "labels": list(splits.counts("train")),
        **{split: _described(splits, split) for split in SPLITS},
    }


def _described(splits: ImageSplits, split: str) -> dict[str, Any]:
    digest, rows = hashlib.sha256(), [placed.row for placed in splits.rows[split]]
    for row in rows:
        digest.update(f"{row.input.sha256} {row.label}\n".encode())
    return {
        "rows": len(rows),
        "examples": len(rows),
        "sha256": digest.hexdigest(),
        "labels": splits.counts(split),
    }
