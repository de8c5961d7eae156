"""An image-classification run: reads and splits images, adds a head to the backbone, and saves both together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.image_model import load_image_model, read_preprocessing, save_processor
from ptune.codecs.image import Preprocessing, save_codec
from ptune.config.classification import ImageClassification
from ptune.config.recipe import Recipe
from ptune.data.images.splits import ImageData, read_image_splits, usable
from ptune.data.shapes.labelled import LabelledRow
from ptune.doctor.command_line import doctor_command
from ptune.doctor.images import judged
from ptune.engine.memory import ram_bytes
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.task_names import IMAGE_CLASSIFICATION
from ptune.formats.whole_write import read_json
from ptune.methods.peft_method import PeftMethod
from ptune.progress import say
from ptune.tasks.classification.image_predictions import logits_of, pixels_of
from ptune.tasks.classification.image_train import ImageObjective, PixelStore, balanced, images_per_pass
from ptune.tasks.encoder.facts import Facts
from ptune.tasks.encoder.saving import reloaded_hop, write_trained
from ptune.tasks.encoder.train import Loss
from ptune.training.checkpoint import whole_state
from ptune.training.distributed import decided_by_one, sharded
from ptune.training.layers.batch_norm import freeze_statistics
from ptune.training.work import Base

_KEPT_SHARE = 4  # a quarter of the memory, at most, holds decoded images


@dataclass
class ImageWork:
    """See `ptune.training.work.Work`."""

    recipe: Recipe
    data: ImageData
    preprocessing: Preprocessing
    head: tuple[str, ...] = ()  # modules that belong to the task, once the model is loaded

    @property
    def task(self) -> ImageClassification:
        return image_task(self.recipe)

    def load(self, device: torch.device) -> Base:
        recipe, names = self.recipe, self.data.labels.names
        loaded = load_image_model(
            recipe.backbone, names, size=self.task.size, seed=recipe.train.seed, device=device
        )
        if recipe.train.gradient_checkpointing and not loaded.model.supports_gradient_checkpointing:
            raise RecipeError(f"train.gradient_checkpointing: {recipe.backbone.model} does not support it")
        self.head = loaded.head
        return Base(loaded.model, loaded.identity, head=loaded.head)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[ImageObjective]:
        if self.task.batch_norm == "frozen":
            freeze_statistics(base)
        labels = self.data.labels
        weights = (
            balanced(self.data.train, labels).to(device) if self.task.class_weights == "balanced" else None
        )
        yield ImageObjective(
            store=PixelStore(self.preprocessing, ram_bytes() // _KEPT_SHARE),
            loss=Loss(labels, weights, self.task.label_smoothing),
            augmentation=self.task.augmentation,
            per_pass=images_per_pass(self.preprocessing, self.recipe.train.micro_batch_tokens),
            device=device,
        )

    def save_codec(self, folder: Path) -> None:
        save_codec(self.preprocessing, folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        state = whole_state(model) if sharded(model) else None
        if writes:
            facts = Facts(
                task=IMAGE_CLASSIFICATION,
                base=identity.hash,
                quantize=identity.quantize,
                labels=self.data.labels.names,
                problem="single",
                head=self.head,
                preprocessing=self.preprocessing.model_dump(mode="json"),
            )
            write_trained(run, self.recipe, model, facts, identity, state, self._save_processor)
        if sharded(model):
            torch.distributed.barrier()  # nobody reads before it is written
        device = next(model.parameters()).device

        def logits(one: nn.Module, row: LabelledRow) -> torch.Tensor:
            return logits_of(one, pixels_of(row, self.preprocessing)[None], self.preprocessing, device)

        held = self.data.test or self.data.validation or self.data.train
        return reloaded_hop(model, run, lambda: self._again(run, identity, device), logits, held, "single")

    def _save_processor(self, folder: Path) -> None:
        save_processor(self.recipe.backbone, self.task.size, folder)

    def _again(self, run: Run, identity: BaseIdentity, device: torch.device) -> nn.Module:
        """The model read back from model/."""
        saved = self.recipe.backbone.saved_at(run.model_path).model_copy(update={"dtype": identity.dtype})
        return load_image_model(saved, self.data.labels.names, size=self.task.size, device=device).model


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> ImageWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    task = image_task(recipe)
    check_recipe(recipe)
    preprocessing = read_preprocessing(recipe.backbone, task.size)
    splits = read_image_splits(recipe.data, task, recipe.train.seed)
    data = usable(splits, recipe.data)
    if run.record_path.is_file():  # they were examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: judged(splits, preprocessing, doctor_command(command)))
    for name, rows in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if rows:
            say(f"{name}: {len(rows)} images")
    say(f"labels: {', '.join(data.labels.names)}")
    return ImageWork(recipe, replace(data, summary={**data.summary, "findings": findings}), preprocessing)


def image_task(recipe: Recipe) -> ImageClassification:
    """The task of a recipe that is known to classify images."""
    assert isinstance(recipe.task, ImageClassification)
    return recipe.task


def check_recipe(recipe: Recipe) -> None:
    """Raises: RecipeError for options that exclude each other, and for options of the backbone that only chat has."""
    if image_task(recipe).batch_norm == "trained" and isinstance(recipe.method, PeftMethod):
        raise RecipeError(
            "task.batch_norm 'trained' needs method FreezeExceptLast or Full: an adapter holds no statistics"
        )
    if recipe.backbone.quantize != "none":
        raise RecipeError(
            f"backbone.quantize {recipe.backbone.quantize!r} is for chat: a classifier's backbone stays as it is"
        )
    if recipe.backbone.new_tokens:
        raise RecipeError("backbone.new_tokens is for chat: an image model has no tokens")
