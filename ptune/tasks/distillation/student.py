"""The student of a distillation, and the examples that are to have labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ptune.backbone.load import load_codec
from ptune.codecs.chat import ChatCodec, Example
from ptune.config.distillation import Distillation
from ptune.config.recipe import Recipe
from ptune.data.examples import dataset
from ptune.data.examples.dataset import Dataset
from ptune.data.teacher.labels import vocabulary_size
from ptune.errors import RecipeError
from ptune.tasks.chat.recipe_codec import codec_for


@dataclass(frozen=True)
class Student:
    """A recipe of the task Distillation, with its tokens."""

    recipe: Recipe
    task: Distillation
    codec: ChatCodec

    @classmethod
    def of(cls, recipe: Recipe) -> Student:
        """Raises: RecipeError where the task is another; BackboneError."""
        task = recipe.task
        if not isinstance(task, Distillation):
            raise RecipeError(
                f"labels are for the task Distillation, and the recipe's is {type(task).__name__}"
            )
        return cls(recipe, task, codec_for(task, load_codec(recipe.backbone)))

    @property
    def vocabulary(self) -> int:
        """Tokens that count, from 0."""
        return vocabulary_size(self.codec.tokenizer)

    def data(self) -> Dataset:
        """Raises: DataError."""
        return dataset.load(self.recipe.data, self.task, self.codec, self.recipe.train.seed)

    def to_label(self, made: Dataset) -> Iterator[Example]:
        """The examples of `data.files`, also those that are held out: which these are depends on the seed, and with labels of all
        the same folder serves a training with another."""
        splits = (made.train,) if self.recipe.data.validation else (made.train, made.validation)
        return itertools.chain(*splits)
