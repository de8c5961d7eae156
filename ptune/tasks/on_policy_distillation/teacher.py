"""The teacher of an on-policy distillation: a pretrained model in memory, which is never trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ptune.backbone.load import Loaded, load, load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.data.teacher.labels import tokenizer_key
from ptune.errors import RecipeError
from ptune.planning.teacher import teacher_backbone
from ptune.training.loss.generalized_jsd import WholeTeacher
from ptune.training.loss.head import plain_head, replaced_by_its_input
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.rows.packing import Batch
from ptune.training.rows.segments import packing


@dataclass(frozen=True)
class Teacher:
    """Judges rows. Its logits are computed where they are compared, a chunk of targets at a time."""

    model: PreTrainedModel
    forward: NextTokenObjective
    beta: float

    @torch.no_grad()
    def of(self, row: Batch) -> WholeTeacher:
        """What it says of a row's targets."""
        head = self.forward.head
        if head is None:
            return WholeTeacher(self.forward.logits(self.model, row), None, None, self.beta)
        with replaced_by_its_input(head):
            states = self.forward.logits(self.model, row)
        return WholeTeacher(states, head.weight, head.bias, self.beta)


def check_teacher(recipe: Recipe, student: ChatCodec) -> ChatCodec:
    """The teacher's codec. Raises: RecipeError if there is no teacher, or its tokens are others; BackboneError."""
    backbone = teacher_backbone(recipe)
    if backbone is None:
        raise RecipeError(
            "task.teacher is empty: name the model to learn from, such as a larger one of the same family"
        )
    codec = load_codec(backbone)
    if tokenizer_key(codec.tokenizer) != tokenizer_key(student.tokenizer):
        raise RecipeError(
            f"task.teacher {backbone.model} has another tokenizer than {recipe.backbone.model}, so that its tokens are not the"
            " student's: a teacher and its student are of one family"
        )
    return codec


def load_teacher(recipe: Recipe, codec: ChatCodec, device: torch.device) -> Loaded:
    """Reads the weights of a teacher that was checked. Raises: BackboneError."""
    backbone = teacher_backbone(recipe)
    assert backbone is not None
    return load(backbone, device=device, codec=codec)


@contextlib.contextmanager
def judging(
    model: PreTrainedModel, student: NextTokenObjective, beta: float, *, fast: bool
) -> Iterator[tuple[Teacher, NextTokenObjective]]:
    """The teacher, and the student's objective, whose rows both models keep apart. fast: see `train.fast`."""
    with packing(model, fast) as able:
        student = replace(student, packed=student.packed and able)
        yield Teacher(model, replace(student, head=plain_head(model)), beta), student
