"""A run that classifies texts, tags words or judges steps: reads, examines and encodes rows; the head is trained with the body."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate import Accelerator

from ptune.backbone.classifier import load_sequence_codec
from ptune.codecs.labels import Labels
from ptune.config.classification import TextClassification
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Recipe
from ptune.data.examples.sequences import encoded
from ptune.data.label_splits import read_splits
from ptune.data.shapes.labelled import TextTask
from ptune.doctor.classification import judged
from ptune.doctor.command_line import doctor_command
from ptune.errors import RecipeError
from ptune.formats.run import Run
from ptune.formats.task_names import TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from ptune.formats.whole_write import read_json
from ptune.progress import say
from ptune.tasks.encoder.train import Loss, balanced
from ptune.tasks.encoder.work import SequenceWork, check_backbone
from ptune.training.distributed import decided_by_one


@dataclass
class TextWork(SequenceWork):
    """The work of a run on texts, words or steps."""

    @property
    def task(self) -> TextTask:
        return text_task(self.recipe)

    @property
    def name(self) -> str:
        return task_name(self.task)

    @property
    def kind(self) -> Literal["text", "tokens"]:
        return kind_of(self.task)

    @property
    def step_separator(self) -> str | None:
        return self.task.step_separator if isinstance(self.task, ProcessReward) else None

    @property
    def max_length(self) -> int | None:
        return self.task.max_length

    def loss(self, device: torch.device) -> Loss:
        labels, task = self.data.labels, self.task
        weights = balanced(self.data.train, labels).to(device) if task.class_weights == "balanced" else None
        smoothing = task.label_smoothing if isinstance(task, TextClassification) else 0.0
        return Loss(labels, weights, smoothing)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> TextWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    task = text_task(recipe)
    check_backbone(recipe)
    codec = load_sequence_codec(recipe.backbone)
    splits = read_splits(recipe.data, task, recipe.train.seed)
    splits.check()
    data = encoded(splits, recipe.data, task, codec)
    check_options(task, data.labels)
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: judged(splits, data, task, doctor_command(command)))
    for name, split in data.splits.items():
        if split.examples:
            say(f"{name}: {len(split.examples)} rows")
    say(f"labels: {', '.join(data.labels.names)} ({data.labels.problem})")
    return TextWork(recipe, codec, replace(data, summary={**data.summary, "findings": findings}))


def text_task(recipe: Recipe) -> TextTask:
    """The task of a recipe that is known to be about texts, words or steps."""
    assert isinstance(recipe.task, TextTask)
    return recipe.task


def kind_of(task: TextTask) -> Literal["text", "tokens"]:
    """What is labelled: a text or a token."""
    return "text" if isinstance(task, TextClassification) else "tokens"


def task_name(task: TextTask) -> str:
    """The task as model hubs and bundles call it."""
    return TEXT_CLASSIFICATION if isinstance(task, TextClassification) else TOKEN_CLASSIFICATION


def check_options(task: TextTask, labels: Labels) -> None:
    """Raises: RecipeError for an option that would change nothing."""
    if labels.problem == "regression":
        asked = {
            "class_weights": task.class_weights != "none",
            "label_smoothing": bool(getattr(task, "label_smoothing", 0)),
        }
        for name in (name for name, set_so in asked.items() if set_so):
            raise RecipeError(f"task.{name} is for labels, and the label here is a number (regression)")
