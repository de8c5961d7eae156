"""The doctor for labelled images."""

from __future__ import annotations

from ptune.backbone.image_model import read_preprocessing
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Recipe
from ptune.doctor.examined import Examined
from ptune.doctor.images import examine_images
from ptune.doctor.show_images import document, show


def examine(recipe: Recipe) -> Examined:
    """Reads every image once. Raises: DataError, RecipeError, BackboneError."""
    assert isinstance(recipe.task, ImageClassification)
    preprocessing = read_preprocessing(recipe.backbone, recipe.task.size)
    report = examine_images(recipe.data, recipe.task, preprocessing, recipe.train.seed)
    return Examined(lambda: document(report), lambda console: show(report, console), report.has_errors)
