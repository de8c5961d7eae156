"""Predictions of a finished run's image classifier, in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from ptune.backbone.image_model import load_image_model
from ptune.codecs.image import Pixels, Preprocessing
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Recipe
from ptune.data.shapes.labelled import LabelledRow
from ptune.errors import DataError
from ptune.formats.run import Run
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.predictions import Logits, Predictor, Tell

_BATCH = 32


def image_predictor(run: Run, device: torch.device | str | None = None) -> Predictor:
    """See `ptune.tasks.classification.predictions.predictor`."""
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_trained_images(run, device)
    return ImagePredictor(model, preprocessing_of(run), device)


def preprocessing_of(run: Run) -> Preprocessing:
    """The preprocessing of a run's images. Raises: FormatError if nothing was trained yet."""
    return Preprocessing.model_validate(Facts.of_run(run).preprocessing)


def load_trained_images(run: Run, device: torch.device | str = "cpu") -> nn.Module:
    """The trained model of an image run, in eval mode: model/, or the base with adapter/.

    Raises: FormatError; BackboneError, also if the base is no longer the one that was trained on.
    """
    facts, recipe = Facts.of_run(run), Recipe.load(run.recipe_path)
    backbone = recipe.backbone if run.has_adapter else recipe.backbone.saved_at(run.model_path)
    backbone = backbone.model_copy(update={"dtype": run.record().base.dtype})
    assert isinstance(recipe.task, ImageClassification)
    loaded = load_image_model(backbone, facts.labels, size=recipe.task.size, device=device)
    facts.check_base(run, loaded.identity)
    model = loaded.model
    return (PeftModel.from_pretrained(model, str(run.adapter_path)) if run.has_adapter else model).eval()


@dataclass(frozen=True)
class ImagePredictor:
    """See `ptune.tasks.encoder.predictions.Predictor`."""

    model: nn.Module
    preprocessing: Preprocessing
    device: torch.device

    def __call__(self, rows: Sequence[LabelledRow], tell: Tell) -> list[Logits]:
        logits: list[Logits] = []
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            pixels = np.stack([pixels_of(row, self.preprocessing) for row in part])
            logits += list(logits_of(self.model, pixels, self.preprocessing, self.device).cpu().numpy())
            tell(len(part))
        return logits


def pixels_of(row: LabelledRow, preprocessing: Preprocessing) -> Pixels:
    """A row's image, [height, width, 3]. Raises: DataError with its place if it cannot be read (any more)."""
    try:
        return preprocessing.pixels(row.input.open())
    except DataError as error:
        raise DataError(f"{row.place}: {error}") from None


@torch.no_grad()
def logits_of(
    model: nn.Module, pixels: Pixels, preprocessing: Preprocessing, device: torch.device
) -> torch.Tensor:
    """Logits of images [images, height, width, 3], as float32 [images, labels]."""
    inputs = torch.from_numpy(preprocessing.normalised(pixels))
    dtype = next(model.parameters()).dtype  # of the body, which comes first
    logits: torch.Tensor = model(pixel_values=inputs.to(device, dtype)).logits
    return logits.float()
