"""What a recipe of classification may say. Torch-free. The names are those of the model hubs' pipeline tags."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ptune.config.task_spec import TaskSpec


class TextClassification(TaskSpec):
    """A label, several, or a number for a text: rows of `text` (and `text_pair`), and `label` or `labels`."""

    problem: Literal["auto", "single", "multi", "regression"] = "auto"
    """One label, any number of labels, or a number; auto: what the `label` column holds."""
    labels: tuple[str, ...] = ()
    """The labels in the order of the head's outputs; default: those of the training files, sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class counts in the loss as much as any other, however rare it is."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all labels."""
    max_length: int = Field(default=256, ge=4)
    """Longest text, in tokens."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What happens to a text longer than `max_length`; how many there are is said."""


class TokenClassification(TaskSpec):
    """A tag for each word: CoNLL files, or rows of `tokens` and `tags` (`ner_tags`), in the BIO scheme."""

    labels: tuple[str, ...] = ()
    """The tags in the order of the head's outputs; default: those of the training files, O first, then sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a tag counts in the loss as much as any other, however rare it is."""
    max_length: int = Field(default=256, ge=4)
    """Longest text, in tokens."""
    on_overlong: Literal["error", "truncate", "drop"] = "truncate"
    """What happens to a text longer than `max_length`; how many there are is said."""


class ImageClassification(TaskSpec):
    """A label for an image: a folder with a folder a label, a CSV of `image,label`, or an npz of arrays."""

    labels: tuple[str, ...] = ()
    """The labels in the order of the head's outputs; default: those of the training files, sorted."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class counts in the loss as much as any other, however rare it is."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all labels."""
    size: int | None = Field(default=None, ge=8, le=4096)
    """Edge of the square that the model sees, in pixels; default: the backbone's own."""
    augmentation: Literal["none", "flip", "standard"] = "standard"
    """flip: left to right; standard: that, and a random crop of at least 80 % of the image."""
    batch_norm: Literal["frozen", "trained"] = "frozen"
    """Whether batch normalisation goes on learning its statistics; a trained one needs FreezeExceptLast or Full."""


Classification = TextClassification | TokenClassification | ImageClassification
