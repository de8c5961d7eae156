"""Shows an examination of images: in a terminal, in a pipe, or as JSON types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from ptune.data.label_splits import SPLITS
from ptune.doctor.histogram import bins, drawn, percentile
from ptune.doctor.images import ImageExamination, ImageSets
from ptune.doctor.show import print_findings, print_parts
from ptune.doctor.show_labels import label_bars

_MODES = {"L": "grey", "P": "palette", "1": "black and white", "CMYK": "CMYK", "LA": "grey with alpha"}
_COLUMNS = 15  # characters


def show(examination: ImageExamination, console: Console) -> None:
    """Prints an examination."""
    sets = examination.sets
    print_parts((_summary(sets), _sizes(sets), label_bars(sets, "images with each label")), console)
    print_findings(examination.findings, console)


def document(examination: ImageExamination) -> dict[str, Any]:
    """The examination in JSON types."""
    sets = examination.sets
    return {
        "files": [{"split": split, **source.described()} for split, source in sets.splits.sources],
        "problem": None if sets.labels is None else sets.labels.problem,
        "labels": [] if sets.labels is None else list(sets.labels.names),
        "model_input": {"height": sets.preprocessing.size[0], "width": sets.preprocessing.size[1]},
        "splits": {split: _described(sets, split) for split in SPLITS},
        "findings": [finding.described() for finding in examination.findings],
    }


def _described(sets: ImageSets, split: str) -> dict[str, Any]:
    edges, limit = sets.shorter_edges(split), min(sets.preprocessing.size)
    return {
        "images": edges.total(),
        "labels": dict(sets.counts(split)),
        "modes": dict(sets.modes(split).most_common()),
        "smallest_pixels": min(edges, default=0),
        "median_pixels": percentile(edges, 0.5),
        "largest_pixels": max(edges, default=0),
        "shorter_edges": {f"{each.first}-{each.last}": each.count for each in bins(edges, limit)},
    }


def _summary(sets: ImageSets) -> Iterator[Text]:
    names = ("images", "smallest edge", "median edge", "largest edge")
    columns = "".join(f"{name:>{_COLUMNS}}" for name in names)
    yield Text(f"{'':<11}{columns}  modes", style="bold")
    for split in SPLITS:
        values = _described(sets, split)
        if values["images"]:
            keys = ("images", "smallest_pixels", "median_pixels", "largest_pixels")
            modes = ", ".join(
                f"{count:,} {_MODES.get(mode, mode)}" for mode, count in values["modes"].items()
            )
            yield Text(f"{split:<11}" + "".join(f"{values[key]:>{_COLUMNS},}" for key in keys) + f"  {modes}")


def _sizes(sets: ImageSets) -> Iterator[Text]:
    edges, limit = sets.shorter_edges("train"), min(sets.preprocessing.size)
    if edges:
        yield Text("pixels of a training image's shorter edge, and how many have so many", style="bold")
        yield from map(Text, drawn(bins(edges, limit), limit, "the model sees", larger="larger"))
