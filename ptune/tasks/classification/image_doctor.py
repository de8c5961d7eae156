"""The doctor of labelled images."""

from __future__ import annotations

from ptune.backbone.image_model import read_preprocessing
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Recipe
from ptune.doctor.examined import Examined
from ptune.doctor.images import examine_images
from ptune.doctor.show_images import document, show


def examine(recipe: Recipe) -> Examined:
    """Looks at every image once. Raises: DataError, RecipeError, BackboneError."""
    assert isinstance(recipe.task, ImageClassification)
    preprocessing = read_preprocessing(recipe.backbone, recipe.task.size)
    found = examine_images(recipe.data, recipe.task, preprocessing, recipe.train.seed)
    return Examined(lambda: document(found), lambda console: show(found, console), found.has_errors)
