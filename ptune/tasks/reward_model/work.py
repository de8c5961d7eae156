"""A run that trains a reward model: a body with one number as its head, as a reranker, by a loss of pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.classifier import load_sequence_codec
from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.config.recipe import Recipe
from ptune.config.reward_model import REWARD, RewardModel
from ptune.data.examples.overlong import refuse_overlong
from ptune.data.examples.sequences import SequenceData, SequenceExample, SequenceSplit
from ptune.data.label_splits import SPLITS
from ptune.data.shapes.rewards import RewardPair, read_reward_splits, reward_rows
from ptune.doctor.command_line import doctor_command
from ptune.doctor.rewards import judged
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.task_names import TEXT_RANKING
from ptune.formats.whole_write import read_json
from ptune.progress import say
from ptune.tasks.encoder.work import SequenceWork, check_backbone
from ptune.tasks.reward_model.objective import RewardExample, RewardObjective
from ptune.training.distributed import decided_by_one
from ptune.training.work import Base

LABELS = Labels((REWARD,), "multi")  # one output by itself, as a reranker's
_BETTER, _WORSE = (0,), ()


@dataclass
class Sequences(SequenceWork):
    """The sides of all pairs, and the model that reads them."""

    @property
    def name(self) -> str:
        return TEXT_RANKING

    @property
    def max_length(self) -> int | None:
        return reward_task(self.recipe).max_length


@dataclass(frozen=True)
class RewardData:
    """See `ptune.training.work.TaskData`; its examples are pairs."""

    train: Sequence[RewardExample]
    validation: Sequence[RewardExample]
    summary: dict[str, Any]

    @property
    def parts(self) -> tuple[int, ...]:
        return (len(self.train),)


@dataclass(frozen=True)
class RewardWork:
    """See `ptune.training.work.Work`."""

    sequences: Sequences
    data: RewardData

    @property
    def recipe(self) -> Recipe:
        return self.sequences.recipe

    def load(self, device: torch.device) -> Base:
        return self.sequences.load(device)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[RewardObjective]:
        with self.sequences.objective(base, device) as sequences:
            yield RewardObjective(sequences, reward_task(self.recipe).center_rewards_coefficient)

    def save_codec(self, folder: Path) -> None:
        self.sequences.save_codec(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        return self.sequences.save(run, model, identity, writes=writes)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> RewardWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    task = reward_task(recipe)
    check_backbone(recipe)
    if recipe.data.weights:
        raise RecipeError("data.weights is not for reward models: name a file more than once instead")
    codec = load_sequence_codec(recipe.backbone)
    splits = read_reward_splits(recipe.data, recipe.train.seed, task.columns)
    splits.check()
    sides = {split: SequenceSplit() for split in SPLITS}
    pairs = {split: list(_encoded(sides[split], reward_rows(splits, split), task, codec)) for split in SPLITS}
    limit = codec.limit(task.max_length)
    refuse_overlong(sides, task.on_overlong, limit, "have a side that is longer than")
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:
        findings = decided_by_one(accelerator, lambda: judged(splits, doctor_command(command)))
    for split, made in pairs.items():
        if made:
            over = sides[split].overlong
            cut = f", {over} with a side longer than {limit} tokens ({task.on_overlong})" if over else ""
            say(f"{split}: {len(made)} pairs{cut}")
    summary = {
        "files": [{"split": split, **file.described()} for split, file in splits.files],
        "validation_share": None if recipe.data.validation else recipe.data.validation_share,
        "longest_tokens": limit,
        "on_overlong": task.on_overlong,
        **{split: side.described(LABELS) for split, side in sides.items()},
        "findings": list(findings),
    }
    sequences = Sequences(recipe, codec, SequenceData(LABELS, sides, (len(pairs["train"]),), summary))
    return RewardWork(sequences, RewardData(pairs["train"], pairs["validation"], summary))


def reward_task(recipe: Recipe) -> RewardModel:
    """The task of a recipe that is known to train a reward model."""
    assert isinstance(recipe.task, RewardModel)
    return recipe.task


def _encoded(
    sides: SequenceSplit, rows: Sequence[RewardPair], task: RewardModel, codec: SequenceCodec
) -> Iterator[RewardExample]:
    """The examples of pairs; counts and keeps their sides."""
    for row in rows:
        encoded = [codec.encode(row.anchor, answer, task.max_length) for answer in row.answers]
        too_long = any(one.truncated for one in encoded)
        sides.count(max(one.length for one in encoded), row.place, too_long=too_long)
        if too_long and task.on_overlong == "drop":
            sides.left_out += 1
            continue
        chosen, rejected = (
            SequenceExample(one.ids, one.type_ids, target)
            for one, target in zip(encoded, (_BETTER, _WORSE), strict=True)
        )
        sides.examples += [chosen, rejected]
        yield RewardExample(chosen, rejected, row.margin)
