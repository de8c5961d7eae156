"""A reward model compares a chat run's answers with its base's."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ptune.cli.evaluate import measured
from ptune.config.preference import Preference
from ptune.config.recipe import Backbone, Data, Evaluate, Recipe, Train
from ptune.errors import UsageError
from ptune.evaluation.evaluate import evaluate
from ptune.evaluation.options import EvaluationOptions
from ptune.evaluation.require import parsed
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from ptune.tasks.encoder.infer import load

from .conftest import Make


@pytest.fixture(scope="module")
def talks(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = Recipe(
        name="talks",
        task=Preference(sft_weight=1.0),
        backbone=Backbone(model=str(kit / "llama"), dtype="float32"),
        method=Lora(r=4, alpha=8),
        data=Data(files=(kit / "train.jsonl",), test=(kit / "test.jsonl",)),
        train=Train(max_steps=4, lr=1e-2, batch_size=8),
        evaluate=Evaluate(answers=2, answer_tokens=6, in_context=0),
    )
    return train(recipe, tmp_path_factory.mktemp("talks") / "run")


@pytest.fixture(scope="module")
def judge(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ptune import publish

    folder = tmp_path_factory.mktemp("judge")
    publish.export_run(train(make(max_steps=3), folder / "run"), folder / "bundle", name="judge", threads=1)
    return folder / "bundle"


def test_the_win_rate_is_that_of_the_rewards(talks: Run, judge: Path, kit: Path) -> None:
    found = evaluate(talks, parsed(["win_rate>=0"]), judge, threads=1)
    verdict = found["reward_model"]
    assert (verdict["adapter"], verdict["prompts"], len(found["answers"])) == ("judge", 9, 2)
    assert found["requirements"][0]["value"] == verdict["win_rate"]["value"]
    assert f"of {verdict['prompts']} prompts" in talks.report_path.read_text()
    low, high = verdict["win_rate"]["interval"]
    assert low <= verdict["win_rate"]["value"] <= high
    assert verdict["margin"]["value"] == pytest.approx(verdict["tuned"] - verdict["base"], abs=1e-9)

    recipe = Recipe.load(talks.recipe_path)
    few = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"answers": 9})})
    few.save(talks.recipe_path)
    answers = evaluate(talks)["answers"]
    recipe.save(talks.recipe_path)
    with closing(load(judge, threads=1)) as model:
        rewards = np.array(
            [
                [
                    float(model.logits([(one["prompt"], one[side])], "judge")[0][0])
                    for side in ("base", "adapter")
                ]
                for one in answers
            ]
        )
    by = rewards[:, 1] - rewards[:, 0]
    assert verdict["win_rate"]["value"] == pytest.approx(((by > 0) + (by == 0) / 2).mean())
    assert verdict["base"] == pytest.approx(rewards[:, 0].mean(), abs=1e-4)
    assert json.loads(talks.evaluation_path.read_text()).keys() >= {"answers", "pairs"}


def test_it_is_refused_where_nothing_answers(judge: Path, talks: Run, make: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compares the answers of a chat run"):
        measured(judge, EvaluationOptions(reward_model=judge))
    other = train(make(max_steps=1), tmp_path / "run")
    with pytest.raises(UsageError, match="is for chat runs, whose answers it compares"):
        measured(other.folder, EvaluationOptions(reward_model=judge))
    with pytest.raises(UsageError, match="no figure 'win_rate'"):
        evaluate(talks, parsed(["win_rate>=0.5"]))
