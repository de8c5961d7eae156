"""Evaluates a reinforcement run: what the held-out answers of the base and of the tuned model are worth."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ptune.codecs.chat import ChatCodec
from ptune.config.recipe import Recipe
from ptune.config.reinforcement import Reinforcement
from ptune.data.shapes.prompts import Prompt, read_prompts
from ptune.engine.adapters.safetensors import read_tensors
from ptune.engine.decoder.engine import Engine
from ptune.errors import DataError, FormatError, UsageError
from ptune.evaluation.classification.bootstrap import means
from ptune.evaluation.kept_step import chosen_by
from ptune.evaluation.no_better import judged
from ptune.evaluation.options import NOTHING_ASKED, EvaluationOptions
from ptune.evaluation.reinforcement.report import report
from ptune.evaluation.reinforcement.titles import SAMPLES, cell, title
from ptune.evaluation.require import refuse_unknown
from ptune.formats.run import Run
from ptune.formats.whole_write import read_json, write_json, write_text
from ptune.progress import say
from ptune.rewards import Reward, rewards_of
from ptune.tasks.own_answers.answer import Answer
from ptune.tasks.own_answers.policy import POLICY, Policy
from ptune.tasks.own_answers.served import engine_options, rollout_bundle
from ptune.tasks.reinforcement.sampler import rewarded
from ptune.training.folder import check_same_data
from ptune.training.journal.card import card

FORMAT = 1
COMPARED = ("reward", "reward_sampled")
_SEED = "evaluation"


@dataclass(frozen=True)
class Side:
    """What one of the two models answered, and what that is worth."""

    answers: list[Answer]  # greedy, one to each prompt
    values: dict[
        str, NDArray[np.float64]
    ]  # of each prompt, [prompts]: of its greedy answer; reward_sampled: mean of sampled ones


def evaluate_run(run: Run, asked: EvaluationOptions = NOTHING_ASKED) -> dict[str, Any]:
    """Compares the rewards of base and tuned model on held-out prompts: of the greedy answer, and of sampled ones.

    Writes evaluation.json, report.html and the model card. Both answer in the engine that sampled in training.

    Raises: FormatError if the run is not finished, or its engine's bundle is gone; DataError if its data is; UsageError for
    arguments that it does not use, or a requirement of an unknown figure.
    """
    _refuse_unused(run, asked)
    record, recipe = run.finished_record(), Recipe.load(run.recipe_path)
    task, codec = recipe.task, ChatCodec.open(run.codec_path)
    assert isinstance(task, Reinforcement)
    refuse_unknown(asked.require, COMPARED)
    data = read_prompts(recipe.data, task, codec, recipe.train.seed)
    check_same_data(run, data.summary)
    prompts, split = (data.test, "test") if data.test else (data.validation, "validation")
    prompts = prompts[: recipe.evaluate.limit]
    if not prompts:
        raise DataError(f"{run.folder} has no held-out prompt: name some with --data.test")
    rewards = rewards_of(task.rewards)
    place = rollout_bundle(run, task)
    if not (place / "manifest.json").is_file():
        raise FormatError(
            f"{place}, in which the answers were sampled, is gone: name another with task.bundle"
        )
    options = engine_options(asked.threads or torch.get_num_threads())
    with contextlib.closing(Engine.open(place, options)) as engine:
        engine.put(
            POLICY,
            read_json(run.adapter_path / "adapter_config.json"),
            read_tensors(run.adapter_path / "adapter_model.safetensors"),
        )
        policy = Policy(engine, codec, task)
        sides = {
            name: _answered(name, policy, prompts, rewards, base=name == "base") for name in ("base", "tuned")
        }
    kept = recipe.evaluate.answers if asked.answers is None else asked.answers
    evaluation = {"split": split, **chosen_by(run, split), **_compared(codec, prompts, sides, kept)}
    found = {name: float(sides["tuned"].values[name].mean()) for name in COMPARED}
    evaluation["requirements"] = [one.checked(found) for one in asked.require]
    evaluation = judged(evaluation)
    write_json(run.evaluation_path, evaluation)
    write_text(run.report_path, report(record, recipe, evaluation, run.metrics(), run.samples()))
    write_text(run.card_path, card(record, recipe, read_json(run.data_path), evaluation))
    Console(highlight=False).print(table(evaluation))
    return evaluation


def table(evaluation: dict[str, Any]) -> Table:
    """The rewards of evaluation.json."""
    shown = Table(title=f"{evaluation['examples']} held-out prompts ({evaluation['split']})")
    shown.add_column("")
    found = evaluation["rewards"]
    for name in ("base", "tuned"):
        shown.add_column(name, justify="right")
    for name in found["tuned"]:
        shown.add_row(title(name), *(cell(found[side].get(name)) for side in ("base", "tuned")))
    return shown


def _compared(
    codec: ChatCodec, prompts: Sequence[Prompt], sides: dict[str, Side], shown: int
) -> dict[str, Any]:
    """The figures of both sides, and the first answers."""
    base, tuned = sides["base"], sides["tuned"]
    return {
        "format": FORMAT,
        "examples": len(prompts),
        "rewards": {
            **{name: means(side.values) for name, side in sides.items()},
            "gain": means({name: tuned.values[name] - base.values[name] for name in COMPARED}),
        },
        "after": {"reward": float(tuned.values["reward"].mean())},
        "answers": [
            {
                "prompt": prompt.asked.question,
                "base": codec.decode_answer(base.answers[at].ids),
                "adapter": codec.decode_answer(tuned.answers[at].ids),
                "rewards": [float(side.values["reward"][at]) for side in (base, tuned)],
            }
            for at, prompt in enumerate(prompts[:shown])
        ],
    }


def _refuse_unused(run: Run, asked: EvaluationOptions) -> None:
    unused = {
        "data": asked.data, "task.columns": asked.columns, "bundle": asked.bundle, "adapter": asked.adapter,
        "reward-model": asked.reward_model,
    }  # fmt: skip
    for name, value in unused.items():
        if value:
            raise UsageError(
                f"--{name} is not for {run.folder}: its own rewards measure it, on its own held-out prompts"
            )


def _answered(
    name: str, policy: Policy, prompts: Sequence[Prompt], rewards: Sequence[Reward], *, base: bool
) -> Side:
    say(f"answers, {name}")
    answers = policy.likeliest(prompts, base=base)
    worth = rewarded(rewards, prompts, [[one] for one in answers], policy)
    sampled = policy.sampled(prompts, SAMPLES, _SEED, base=base)
    by_chance = rewarded(rewards, prompts, sampled, policy)
    several = {
        f"reward/{reward.name}": np.array([(of[reward.name] or [0.0])[0] for _, of in worth])
        for reward in (rewards if len(rewards) > 1 else ())
    }
    values = {
        "reward": np.array([total[0] for total, _ in worth]),
        **several,
        "reward_sampled": np.array([np.mean(total) for total, _ in by_chance]),
        "answer_tokens": np.array([float(len(answer.ids)) for answer in answers]),
        "cut": np.array([float(not answer.finished) for answer in answers]),
    }
    return Side(answers, values)
