"""A distillation in two processes takes the way of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_models

from ptune.backbone.load import load_codec
from ptune.codecs.chat import Example
from ptune.config.distillation import Distillation
from ptune.data.examples import dataset
from ptune.data.teacher.labels import LabelWriter, Settings, Teacher, tokenizer_key, unlabelled
from ptune.engine.decoder.answers.distributions import Distributions
from ptune.tasks.chat.recipe_codec import codec_for

from .conftest import Make
from .test_processes import DDP2, SHARDED, check_same_way

Farm = Callable[..., Any]


def random_label(example: Example) -> Distributions:
    """Of a teacher that says anything: half of the mass is in its tail."""
    random = np.random.default_rng(sum(example.ids))
    targets, vocab = sum(example.targets[1:]), len(tiny_models.tokenizer())
    tokens = np.stack([random.permutation(vocab)[:4] for _ in range(targets)]).astype(np.uint32)
    half = np.float32(np.log(0.5))
    return Distributions(
        tokens, np.full((targets, 4), half - np.log(4), np.float32), np.full(targets, half, np.float32)
    )


@pytest.mark.parametrize("request_", [DDP2, SHARDED], ids=["ddp", "fsdp2"])
def test_two_processes_take_the_way_of_one(
    make: Make, farm: Farm, request_: dict[str, Any], tmp_path: Path
) -> None:
    recipe = make(backbone={"dtype": "float32"}, batch_size=5, validate_every=1, max_steps=3)
    codec = codec_for(recipe.chat, load_codec(recipe.backbone))
    made = dataset.load(recipe.data, recipe.chat, codec, recipe.train.seed)
    teacher = Teacher(bundle="a", base="b", profile="fp32", adapter="base")
    settings = Settings(tokenizer=tokenizer_key(codec.tokenizer), top=4, teacher=teacher)
    examples = list(unlabelled(made.train, set()))
    LabelWriter(tmp_path / "labels", settings).add(examples, [random_label(one) for one in examples])
    recipe = recipe.model_copy(update={"task": Distillation(teacher_labels=tmp_path / "labels")})
    alone = farm(recipe, tmp_path / "alone", packed=False, double=True)
    assert alone.codes == [0], alone.said
    check_same_way(farm, recipe, tmp_path / "two", tmp_path / "alone", 1e-6, double=True, **request_)
