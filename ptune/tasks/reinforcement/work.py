"""A reinforcement run: prompts, and an engine that answers them with the weights that are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.load import load, load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.data.shapes.prompts import PromptData, read_prompts
from ptune.doctor.command_line import doctor_command
from ptune.doctor.doctor import judge
from ptune.doctor.prompts import examined
from ptune.errors import RecipeError
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.planning.preflight import planned
from ptune.rewards import Reward, rewards_of
from ptune.tasks.chat.recipe_codec import codec_for
from ptune.tasks.chat.samples import ChatAnswering, answering
from ptune.tasks.chat.saving import save_trained
from ptune.tasks.own_answers.followed import check_followed
from ptune.tasks.own_answers.policy import Policy
from ptune.tasks.own_answers.served import sampling_engine
from ptune.tasks.reinforcement.objective import KL, RATIO, ReinforcementObjective
from ptune.tasks.reinforcement.pairs import FIGURES, PairObjective
from ptune.tasks.reinforcement.sampler import Sampler
from ptune.tasks.reinforcement.seen import Seen
from ptune.training.distributed import decided_by_one
from ptune.training.journal.samples import Asked
from ptune.training.loss.head import plain_head
from ptune.training.loss.next_token import NextTokenObjective
from ptune.training.reload import PROMPTS
from ptune.training.rows.segments import packing
from ptune.training.work import Base


@dataclass(frozen=True)
class ReinforcementWork:
    """See `ptune.training.work.Work`."""

    recipe: Recipe
    codec: ChatCodec  # with the recipe's own template and system message
    plain_codec: ChatCodec  # the backbone's
    data: PromptData
    rewards: tuple[Reward, ...]
    run: Run
    accelerator: Accelerator

    @property
    def task(self) -> Reinforcement:
        assert isinstance(self.recipe.task, Reinforcement)
        return self.recipe.task

    def load(self, device: torch.device) -> Base:
        loaded = load(self.recipe.backbone, device=device, codec=self.plain_codec)
        return Base(loaded.model, loaded.identity, loaded.new_tokens)

    @contextlib.contextmanager
    def objective(self, base: PreTrainedModel, device: torch.device) -> Iterator[ReinforcementObjective]:
        task, recipe = self.task, self.recipe
        of_answers = (KL if task.kl else ()) + (RATIO if task.updates > 1 else ())
        seen = Seen(figures=FIGURES if task.pairs else of_answers)
        opened = sampling_engine(recipe, task, self.run, self.accelerator)
        with contextlib.closing(opened) as engine, packing(base, recipe.train.fast) as packed:
            next_token = NextTokenObjective(packed, recipe.train.micro_batch_tokens, device, plain_head(base))
            policy = Policy(engine, self.codec, task)
            sampler = Sampler(task, policy, self.rewards, self.accelerator, recipe.train.seed, seen)
            made = PairObjective if task.pairs else ReinforcementObjective
            yield made(task, next_token, base, seen, sampler)

    def answering(self, base: PreTrainedModel) -> ChatAnswering | None:
        prompts = ((Asked(one.asked.question), list(one.ids)) for one in self.data.validation)
        return answering(self.recipe, self.codec, prompts, base)

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        held = self.data.test or self.data.validation or self.data.train
        examples = [prompt.example for prompt in held[:PROMPTS]]
        return save_trained(run, self.recipe, model, self.codec, examples, identity, writes=writes)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> ReinforcementWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    task = recipe.task
    assert isinstance(task, Reinforcement)
    if not task.rewards:
        raise RecipeError(
            "task.rewards is empty: name what an answer is rewarded for, e.g. --task.rewards exact"
        )
    check_followed(recipe, accelerator, "reinforcement")
    rewards = rewards_of(task.rewards)
    plain_codec = load_codec(recipe.backbone)
    codec = codec_for(task, plain_codec)
    data = read_prompts(recipe.data, task, codec, recipe.train.seed)
    for split in data.splits.values():
        for reward in rewards if split.prompts else ():
            reward.check_columns(split.columns)
    if run.record_path.is_file():  # it was examined when it began
        findings = read_json(run.data_path).get("findings", [])
    else:

        def examine() -> list[dict[str, Any]]:
            files = (*recipe.data.files, *recipe.data.validation, *recipe.data.test)
            found = examined(data, files).findings
            judge(found, doctor_command(command))
            return [finding.described() for finding in found]

        findings = decided_by_one(accelerator, examine)
    if not run.record_path.is_file() and accelerator.num_processes == 1:
        lengths = [_row_tokens(task, len(prompt), recipe.train.micro_batch_tokens) for prompt in data.train]
        recipe = planned(recipe, lengths)[0]
    summary = {**data.summary, "findings": findings}
    return ReinforcementWork(
        recipe, codec, plain_codec, replace(data, summary=summary), rewards, run, accelerator
    )


def _row_tokens(task: Reinforcement, prompt_tokens: int, most: int) -> int:
    """Most tokens of a row with a prompt's answers. A group is cut into rows of `most` tokens, and a pair is not."""
    if task.pairs is not None:
        return prompt_tokens + 2 * task.answer_tokens
    return min(prompt_tokens + task.group_size * task.answer_tokens, most)
