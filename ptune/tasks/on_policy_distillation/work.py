"""An on-policy distillation run: a chat run with a teacher beside it, and an engine that answers with the student's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from ptune.backbone.load import Loaded, load_codec
from ptune.config.on_policy_distillation import OnPolicyDistillation
from ptune.config.recipe import Recipe
from ptune.data.examples.dataset import Dataset
from ptune.errors import DataError, RecipeError
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.tasks.chat.work import OverChat
from ptune.tasks.chat.work import prepare as prepare_chat
from ptune.tasks.on_policy_distillation.objective import OnPolicyObjective
from ptune.tasks.on_policy_distillation.sampler import StudentSampler
from ptune.tasks.on_policy_distillation.teacher import check_teacher, judging, load_teacher
from ptune.tasks.own_answers.certificate import Certificate
from ptune.tasks.own_answers.followed import check_followed
from ptune.tasks.own_answers.policy import Policy
from ptune.tasks.own_answers.served import sampling_engine


@dataclass(frozen=True)
class OnPolicyWork(OverChat):
    """See `ptune.training.work.Work`."""

    teacher: Loaded
    run: Run
    accelerator: Accelerator

    @property
    def task(self) -> OnPolicyDistillation:
        assert isinstance(self.recipe.task, OnPolicyDistillation)
        return self.recipe.task

    @property
    def data(self) -> Dataset:
        return self.chat.data

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[OnPolicyObjective]:
        task, fast, certificate = self.task, self.recipe.train.fast, Certificate()
        with (
            self._sampler(certificate) as sampler,
            self.chat.objective(base, device) as next_token,
            judging(self.teacher.model, next_token, task.beta, fast=fast) as (teacher, student),
        ):
            yield OnPolicyObjective(student, teacher, certificate, sampler)

    @contextlib.contextmanager
    def _sampler(self, certificate: Certificate) -> Iterator[StudentSampler | None]:
        """None where all answers are the data's."""
        if not self.task.lmbda:
            yield None
            return
        opened = sampling_engine(self.recipe, self.task, self.run, self.accelerator)
        with contextlib.closing(opened) as engine:
            policy = Policy(engine, self.chat.codec, self.task)
            yield StudentSampler(self.task, policy, self.accelerator, self.recipe.train.seed, certificate)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> OnPolicyWork:
    """As `ptune.tasks.chat.work.prepare`, and reads the teacher's weights.

    Raises: RecipeError where the teacher's tokens are not the student's, or an engine cannot follow the student; DataError where a
    resumed run began with another teacher.
    """
    task = recipe.task
    assert isinstance(task, OnPolicyDistillation)
    if task.lmbda:
        check_followed(recipe, accelerator, "on-policy distillation")
    codec = check_teacher(recipe, load_codec(recipe.backbone))
    work = prepare_chat(recipe, run, accelerator, command)
    if work.data.images is not None:
        raise RecipeError(
            "conversations with images are not for on-policy distillation yet: use the task Chat for them"
        )
    teacher = load_teacher(work.recipe, codec, accelerator.device)
    described = _described(teacher)
    if run.data_path.is_file() and read_json(run.data_path).get("teacher") != described:
        raise DataError(
            f"task.teacher {task.teacher} has changed since {run.folder} was started; restore it, or train a new run"
        )
    data = replace(work.data, summary={**work.data.summary, "teacher": described})
    return OnPolicyWork(replace(work, data=data), teacher, run, accelerator)


def _described(teacher: Loaded) -> dict[str, Any]:
    """The teacher in data.json."""
    identity = teacher.identity
    return {"model": identity.source, "hash": identity.hash, "dtype": identity.dtype}
