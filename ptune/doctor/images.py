"""Examines labelled images, by the rules on labels and by rules on the images themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ptune.codecs.image import Preprocessing
from ptune.codecs.labels import Labels
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Data
from ptune.data.images.arrays import is_arrays
from ptune.data.images.labelled import ImageRef, ImageSource
from ptune.data.images.look import Look
from ptune.data.images.splits import ImageSplits, PlacedImage, read_image_splits
from ptune.data.label_splits import SPLITS
from ptune.data.problems import kind_of
from ptune.doctor import encoding, labels, refused
from ptune.doctor.doctor import judge
from ptune.doctor.finding import Finding, Place, Rule, in_order
from ptune.doctor.labels import Entry

ENLARGED = 2  # times: from here on an image counts as too small
CONSTANT = 3.0  # standard deviation, in steps of 255, below which an image shows nothing; above JPEG's noise


@dataclass(frozen=True)
class ImageSets:
    """All splits as read. See `ptune.doctor.labels.Entries`; images with equal pixels are equal."""

    splits: ImageSplits
    preprocessing: Preprocessing
    unit = "images"
    labelled = "training example"

    @property
    def labels(self) -> Labels | None:
        return self.splits.labels

    def entries(self, split: str) -> list[Entry]:
        """The images of a split."""
        return self._entries[split]

    def counts(self, split: str) -> Mapping[str, int]:
        """Label -> images."""
        return self.splits.counts(split)

    def looks(self, split: str) -> list[tuple[Look, Place]]:
        """The properties of each image of a split, and its place."""
        return [(_look(placed), _place(placed)) for placed in self.splits.rows[split]]

    def modes(self, split: str) -> Counter[str]:
        """Pillow's name of a mode -> images."""
        return Counter(_look(placed).mode for placed in self.splits.rows[split])

    def shorter_edges(self, split: str) -> Counter[int]:
        """Pixels of the shorter edge -> images."""
        return Counter(_look(placed).shorter for placed in self.splits.rows[split])

    @cached_property
    def _entries(self) -> dict[str, list[Entry]]:
        return {
            split: [Entry(_look(placed).pixels, placed.row.label, _place(placed)) for placed in rows]
            for split, rows in self.splits.rows.items()
        }


def constant_images(sets: ImageSets) -> Iterator[Finding]:
    """Images of one colour: placeholders of a failed download, a lens cap, an empty scan."""
    yield from _odd(
        sets,
        "constant-images",
        lambda look: look.spread < CONSTANT,
        lambda _: (
            "nearly one colour: there is nothing to be seen in it; remove it, unless that is what its label means"
        ),
    )


def transparent_images(sets: ImageSets) -> Iterator[Finding]:
    """Transparent images: the model sees the hidden colours, often black, which alone may reveal a label."""
    yield from _odd(
        sets,
        "transparent-images",
        lambda look: look.see_through,
        lambda _: (
            "partly transparent: the colours under it are what the model sees; put it on a background and save it as RGB"
        ),
    )


def cmyk_images(sets: ImageSets) -> Iterator[Finding]:
    """CMYK images: inks are converted to colours without their colour profile."""
    yield from _odd(
        sets,
        "cmyk-images",
        lambda look: look.mode == "CMYK",
        lambda _: "in inks (CMYK): without its colour profile it looks different here; save it as RGB",
    )


def small_images(sets: ImageSets) -> Iterator[Finding]:
    """Images much smaller than the model's input: enlarging gives blur, at the cost of empty pixels."""
    height, width = sets.preprocessing.size

    def said(look: Look) -> str:
        times = enlargement(sets.preprocessing, look)
        return (
            f"blown up {times:.1f} times to the {width} x {height} pixels that the model sees: use larger originals if there"
            " are any, or a --task.size nearer to theirs, which costs less time"
        )

    yield from _odd(
        sets, "small-images", lambda look: enlargement(sets.preprocessing, look) >= ENLARGED, said
    )


def enlargement(preprocessing: Preprocessing, look: Look) -> float:
    """The factor by which an image is enlarged for the model, along the edge that grows most."""
    width, height = preprocessing.scaled(look.width, look.height)
    return max(width / look.width, height / look.height)


LOOK_RULES = (
    Rule("constant-images", "warning", constant_images),
    Rule("transparent-images", "warning", transparent_images),
    Rule("cmyk-images", "warning", cmyk_images),
    Rule("small-images", "warning", small_images),
)


def unusable_image(source: ImageSource) -> Iterator[Finding]:
    """Images that are missing, empty, damaged, truncated, of a single pixel, or in a format that Pillow cannot read."""
    kinds: dict[str, list[tuple[Place, str]]] = {}
    for image in source.damaged:
        kinds.setdefault(kind_of(image.reason), []).append(
            (_at(source, image.number, image.path), image.reason)
        )
    for images in kinds.values():
        place, reason = images[0]
        yield Finding("unusable-image", "error", reason, place, len(images))


SOURCE_RULES = (Rule("unusable-image", "error", unusable_image),)
SET_RULES = (*labels.RULES, *LOOK_RULES)
RULES = (*encoding.RULES, *refused.RULES, *SOURCE_RULES, *SET_RULES)
"""Every kind of defect that is looked for in labelled images."""


@dataclass(frozen=True)
class ImageExamination:
    """The images that were read, and all findings on them."""

    sets: ImageSets
    findings: list[Finding]

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def examine_images(
    data: Data, task: ImageClassification, preprocessing: Preprocessing, seed: int
) -> ImageExamination:
    """Reads all images of a recipe and returns every finding; trains nothing.

    Raises: RecipeError if the recipe names no files.
    """
    splits = read_image_splits(data, task, seed)
    findings = list(map(refused.file_refused, splits.errors))
    for path in dict.fromkeys((*data.files, *data.validation, *data.test)):
        findings += [] if is_arrays(path) else encoding.of_file(path)
    for _, source in splits.sources:
        findings += [finding for rule in SOURCE_RULES for finding in rule.check(source)]
        findings += refused.refusals(source.problems, {one.told for one in source.damaged})
    sets = ImageSets(splits, preprocessing)
    return ImageExamination(sets, in_order([*findings, *_of_sets(sets)], RULES))


def judged(splits: ImageSplits, preprocessing: Preprocessing, command: str) -> list[dict[str, Any]]:
    """Returns the findings on usable images, in JSON types; prints the number of warnings.

    Raises: DataError if the images would train a wrong model.
    """
    findings = in_order(_of_sets(ImageSets(splits, preprocessing)), RULES)
    judge(findings, command)
    return [finding.described() for finding in findings]


def _of_sets(sets: ImageSets) -> Iterator[Finding]:
    for rule in SET_RULES:
        yield from rule.check(sets)


def _odd(
    sets: ImageSets, rule: str, is_odd: Callable[[Look], bool], describe: Callable[[Look], str]
) -> Iterator[Finding]:
    """One finding on all images, of any split, that are odd in one way."""
    looks = [found for split in SPLITS for found in sets.looks(split)]
    odd = [(look, place) for look, place in looks if is_odd(look)]
    if odd:
        look, place = odd[0]
        message = (
            f"{look.width} x {look.height} pixels, {describe(look)} ({len(odd):,} of {len(looks):,} images)"
        )
        yield Finding(rule, "warning", message, place, len(odd))


def _look(placed: PlacedImage) -> Look:
    image: ImageRef = placed.row.input
    assert image.look is not None  # every image of a source was decoded
    return image.look


def _place(placed: PlacedImage) -> Place:
    image: ImageRef = placed.row.input
    return _at(placed.source, placed.number, None if image.array is not None else image.path)


def _at(source: ImageSource, number: int, file: Path | None) -> Place:
    """The place of an image: its own file in a folder, else the row that names or holds it."""
    if source.is_folder:
        return Place(str(file))
    return Place(str(source.path), number, source.problems.unit, None if file is None else str(file))
