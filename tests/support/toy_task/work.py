"""The training side: an encoder with two labels."""

from __future__ import annotations

from dataclasses import dataclass

from accelerate import Accelerator

from ptune.backbone.classifier import load_sequence_codec
from ptune.config.recipe import Recipe
from ptune.data.examples.sequences import SequenceData, SequenceSplit, example_of
from ptune.formats.run import Run
from ptune.tasks.encoder.work import SequenceWork, check_backbone

from .data import LABELS, NAME, read_rows, task_of


@dataclass
class TextLengthWork(SequenceWork):
    """A text gets one of two labels."""

    @property
    def name(self) -> str:
        return NAME

    @property
    def max_length(self) -> int | None:
        return task_of(self.recipe).max_length


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> TextLengthWork:
    """Raises: DataError, RecipeError, BackboneError."""
    check_backbone(recipe)
    codec = load_sequence_codec(recipe.backbone)
    rows = read_rows(recipe)
    splits = {}
    for name, own in rows.splits.items():
        encoded = [example_of(row, LABELS, codec, task_of(recipe).max_length) for row in own]
        splits[name] = SequenceSplit(examples=[example for example, _ in encoded])
        splits[name].lengths.update(length for _, length in encoded)
    summary = {"files": rows.files, **{name: split.described(LABELS) for name, split in splits.items()}}
    parts = tuple(file["rows"] for file in rows.files if file["split"] == "train")
    return TextLengthWork(recipe, codec, SequenceData(LABELS, splits, parts, summary))
