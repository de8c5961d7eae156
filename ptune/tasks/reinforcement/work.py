"""A reinforcement run: prompts, and an engine that answers them with the weights that are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.load import load, load_codec
from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.data.prompts import PromptData, read_prompts
from ptune.doctor.doctor import doctor_command, judge
from ptune.doctor.prompts import examined
from ptune.engine.decoder.engine import Engine
from ptune.engine.memory import predicted_bytes, ram_bytes
from ptune.engine.options import EngineOptions
from ptune.errors import RecipeError
from ptune.formats.bundle import FP32, BaseIdentity, Bundle, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json
from ptune.kinds import imported
from ptune.methods.lora_from_data import FROM_DATA
from ptune.methods.peft_method import PeftMethod
from ptune.planning.preflight import planned
from ptune.progress import say
from ptune.rewards import Reward, rewards_of
from ptune.tasks.chat.recipe_codec import codec_for
from ptune.tasks.chat.samples import ChatAnswering, answering
from ptune.tasks.chat.saving import save_trained
from ptune.tasks.reinforcement.objective import ReinforcementObjective, Seen
from ptune.tasks.reinforcement.policy import Policy
from ptune.tasks.reinforcement.sampler import Sampler
from ptune.training.distributed import decided_by_one
from ptune.training.head import plain_head
from ptune.training.next_token import NextTokenObjective
from ptune.training.reload import PROMPTS
from ptune.training.samples import Asked
from ptune.training.segments import packing
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
        task, recipe, seen = self.task, self.recipe, Seen()
        bundle = self._bundle()
        with packing(base, recipe.train.fast) as packed, contextlib.closing(self._engine(bundle)) as engine:
            next_token = NextTokenObjective(packed, recipe.train.micro_batch_tokens, device, plain_head(base))
            policy = Policy(engine, self.codec, task.answer_tokens)
            sampler = Sampler(task, policy, self.rewards, self.accelerator, recipe.train.seed, seen)
            yield ReinforcementObjective(task, next_token, base, seen, sampler)

    def answering(self, base: PreTrainedModel) -> ChatAnswering | None:
        prompts = ((Asked(one.asked.question), list(one.ids)) for one in self.data.validation)
        return answering(self.recipe, self.codec, prompts, base)

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)

    def save(self, run: Run, model: nn.Module, identity: BaseIdentity, *, writes: bool) -> Hop:
        held = self.data.test or self.data.validation or self.data.train
        examples = [prompt.example for prompt in held[:PROMPTS]]
        return save_trained(run, self.recipe, model, self.codec, examples, identity, writes=writes)

    def _bundle(self) -> Bundle:
        """The bundle whose engine samples: the recipe's, or one of the base in the run's folder."""

        def made() -> Path:
            place = rollout_bundle(self.run, self.task)
            if self.task.bundle is None and not (place / "manifest.json").is_file():
                say(f"exporting {self.recipe.backbone.model} for the engine that samples answers: {place}")
                profile = "nf4" if self.recipe.backbone.quantize == "nf4" else FP32
                imported("ptune.publish:export_backbone")(
                    self.recipe.backbone, place, threads=torch.get_num_threads(), profiles=(profile,)
                )
            return place

        return Bundle.open(decided_by_one(self.accelerator, made))

    def _engine(self, bundle: Bundle) -> Engine:
        """Raises: RecipeError if the bundle is of another base, or memory is short."""
        wanted = self.run.record().base.hash
        if bundle.manifest.base.hash != wanted:
            raise RecipeError(
                f"task.bundle {bundle.folder} is of another base ({bundle.manifest.base.hash[:12]}) than the one that is trained"
                f" ({wanted[:12]})"
            )
        options = engine_options(torch.get_num_threads())
        needed, free = predicted_bytes(bundle, options), ram_bytes()
        if needed > free:
            raise RecipeError(
                f"the engine that samples needs {needed / 1e9:.1f} GB of memory beside the training, predicted, and"
                f" {free / 1e9:.1f} GB are free: use a smaller model, or a machine with more memory"
            )
        say(f"the engine that samples takes {needed / 1e9:.1f} GB more, predicted")
        return Engine.open(bundle, options)


def rollout_bundle(run: Run, task: Reinforcement) -> Path:
    """The bundle whose engine samples a run's answers: the recipe's, or one in the run's folder."""
    return run.folder / "rollout" if task.bundle is None else task.bundle


def engine_options(threads: int) -> EngineOptions:
    """Of the engine that samples: groups of answers fill its steps."""
    return EngineOptions(threads=threads, max_rows=64)


def prepare(recipe: Recipe, run: Run, accelerator: Accelerator, command: str) -> ReinforcementWork:
    """Prepares the run up to reading the weights. Raises: DataError, RecipeError, BackboneError."""
    _check(recipe, accelerator)
    task = recipe.task
    assert isinstance(task, Reinforcement)
    rewards = rewards_of(task.rewards)
    plain_codec = load_codec(recipe.backbone)
    codec = codec_for(task, plain_codec)
    data = read_prompts(recipe.data, task, codec, recipe.train.seed)
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
        lengths = [len(prompt) + task.group_size * task.answer_tokens for prompt in data.train]
        recipe = planned(recipe, [min(one, recipe.train.micro_batch_tokens) for one in lengths])[0]
    summary = {**data.summary, "findings": findings}
    return ReinforcementWork(
        recipe, codec, plain_codec, replace(data, summary=summary), rewards, run, accelerator
    )


def _check(recipe: Recipe, accelerator: Accelerator) -> None:
    """Raises: RecipeError for what an engine cannot follow."""
    task, method, train = recipe.task, recipe.method, recipe.train
    assert isinstance(task, Reinforcement)
    if not task.rewards:
        raise RecipeError(
            "task.rewards is empty: name what an answer is rewarded for, e.g. --task.rewards exact"
        )
    if getattr(method, "init", "default") in FROM_DATA:
        raise RecipeError(
            f"method.init {getattr(method, 'init', '')!r} begins from answers, and there are none yet: leave it out"
        )
    if not isinstance(method, PeftMethod) or method.one_text:
        raise RecipeError(
            f"method {type(method).__name__}: reinforcement trains an adapter that the engine follows: use method Lora"
        )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise RecipeError(
            "reinforcement cannot be trained on sharded weights: use one process, or accelerate's ddp.yaml"
        )
    dropped = {"method.dropout": getattr(method, "dropout", 0.0), "train.dropout": train.dropout}
    for name, share in dropped.items():
        if share:
            raise RecipeError(
                f"{name} {share:g}: with dropout the model that is trained is not the one that answered: set it to 0"
            )
    if train.neftune_alpha is not None or train.ema is not None:
        name = "neftune_alpha" if train.ema is None else "ema"
        raise RecipeError(
            f"train.{name}: the model that is trained would not be the one that answered: leave it out"
        )
    if recipe.backbone.new_tokens or recipe.backbone.stream:
        name = "new_tokens" if recipe.backbone.new_tokens else "stream"
        raise RecipeError(f"backbone.{name} is not for reinforcement: leave it out")
