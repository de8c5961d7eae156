"""A distillation run: a chat run whose training examples have a teacher's labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ptune.config.distillation import Distillation
from ptune.config.recipe import Recipe
from ptune.data.examples.dataset import Dataset
from ptune.data.teacher.labels import INDEX, TeacherLabels, tokenizer_key
from ptune.errors import DataError, RecipeError
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, sha256_of
from ptune.progress import say
from ptune.tasks.chat.work import ChatWork, OverChat
from ptune.tasks.chat.work import prepare as prepare_chat
from ptune.tasks.distillation.objective import DistillationObjective, LabelledExamples
from ptune.training.distributed import decided_by_one


@dataclass(frozen=True)
class LabelledData:
    """See `ptune.training.work.TaskData`; its training examples have labels."""

    made: Dataset
    labels: TeacherLabels

    @property
    def train(self) -> LabelledExamples:
        return LabelledExamples(self.made.train, self.labels)

    @property
    def validation(self) -> LabelledExamples:
        return LabelledExamples(self.made.validation, None)

    @property
    def parts(self) -> tuple[int, ...]:
        return self.made.parts

    @property
    def summary(self) -> dict[str, Any]:
        return self.made.summary


@dataclass(frozen=True)
class DistillationWork(OverChat):
    """See `ptune.training.work.Work`."""

    labels: TeacherLabels

    @cached_property
    def data(self) -> LabelledData:
        return LabelledData(self.chat.data, self.labels)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[DistillationObjective]:
        task = self.recipe.task
        assert isinstance(task, Distillation)
        with self.chat.objective(base, device) as next_token:
            yield DistillationObjective(next_token, task.kd_ratio, self.labels.settings.temperature)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> DistillationWork:
    """As `ptune.tasks.chat.work.prepare`.

    Raises: FormatError where there are no labels, or damaged ones; RecipeError where their tokens are not the student's; DataError
    where an example has none, or a resumed run began with others.
    """
    task = recipe.task
    assert isinstance(task, Distillation)
    labels = TeacherLabels.open(task.teacher_labels)  # before anything that takes long
    work = prepare_chat(recipe, run, accelerator, command)
    if labels.settings.tokenizer != tokenizer_key(work.codec.tokenizer):
        raise RecipeError(
            f"task.teacher_labels {task.teacher_labels}: its teacher has another tokenizer than {recipe.backbone.model}, so that its tokens are"
            " not the student's; label the data with a teacher of the same family"
        )
    described = _described(labels)
    if run.data_path.is_file() and read_json(run.data_path).get("labels") != described:
        raise DataError(
            f"the labels in {task.teacher_labels} have changed since {run.folder} was started; restore them, or train a new run"
        )
    decided_by_one(accelerator, lambda: _check_all_labelled(work, labels))
    data = replace(work.data, summary={**work.data.summary, "labels": described})
    return DistillationWork(replace(work, data=data), labels)


def _described(labels: TeacherLabels) -> dict[str, Any]:
    """The labels in data.json."""
    return {"sha256": sha256_of(labels.folder / INDEX), **labels.settings.model_dump(mode="json")}


def _check_all_labelled(work: ChatWork, labels: TeacherLabels) -> None:
    """Raises: DataError that names the first training example without labels."""
    settings = labels.settings
    for number, example in enumerate(work.data.train, 1):
        if example not in labels:
            text = " ".join(work.codec.tokenizer.decode(example.ids).split())
            raise DataError(
                f"{labels.folder} has no labels of training example {number} of {len(work.data.train)} ({text[:60]!r} …):"
                " run ptune label with this recipe and these options, which adds what is missing"
            )
    say(
        f"teacher: {settings.teacher.adapter} of {settings.teacher.bundle}, {settings.top} tokens of each target at"
        f" temperature {settings.temperature:g}"
    )
