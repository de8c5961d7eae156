"""The task fields of a classification recipe. Torch-free. The class names follow the model hubs' pipeline tags."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ptune.config.columns import ImageColumns, TextColumns, WordColumns
from ptune.config.task_spec import TaskSpec


class TextClassification(TaskSpec):
    """One label, several labels or a number for a text. Columns: `text` (and `text_pair`), and `label` or `labels`."""

    columns: TextColumns = TextColumns()
    problem: Literal["auto", "single", "multi", "regression"] = "auto"
    """One label, any number of labels, or a number; auto: decided by the contents of the `label` column."""
    labels: tuple[str, ...] = ()
    """The labels in the order of the head's outputs; default: those of the training files, sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts equally in the loss, however rare it is."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all labels."""
    max_length: int = Field(default=256, ge=4)
    """Longest text, in tokens."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What to do with a text longer than `max_length`; their number is reported."""


class TokenClassification(TaskSpec):
    """A tag for each word, as in the BIO scheme. Data: CoNLL files, or columns `tokens` and `tags` (or `ner_tags`)."""

    columns: WordColumns = WordColumns()
    labels: tuple[str, ...] = ()
    """The tags in the order of the head's outputs; default: those of the training files, O first, then sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every tag counts equally in the loss, however rare it is."""
    max_length: int = Field(default=256, ge=4)
    """Longest text, in tokens."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What to do with a text longer than `max_length`; their number is reported."""


class ImageClassification(TaskSpec):
    """A label for an image. Data: a folder with one subfolder per label, a CSV of `image,label`, or an npz of arrays."""

    columns: ImageColumns = ImageColumns()
    labels: tuple[str, ...] = ()
    """The labels in the order of the head's outputs; default: those of the training files, sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts equally in the loss, however rare it is."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all labels."""
    size: int | None = Field(default=None, ge=8, le=4096)
    """Edge of the square input image, in pixels; default: the backbone's own."""
    augmentation: Literal["none", "flip", "standard"] = "standard"
    """flip: random horizontal flips; standard: flips, and random crops of at least 80 % of the image."""
    batch_norm: Literal["frozen", "trained"] = "frozen"
    """Whether batch normalisation keeps updating its statistics; `trained` needs FreezeExceptLast or Full."""


Classification = TextClassification | TokenClassification | ImageClassification
