"""TRL's configs, scripts and TrainingArguments as recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.reinforcement import Reinforcement
from ptune.config.reward_model import RewardModel
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.errors import UsageError
from ptune.foreign.read_foreign import Imported, read_foreign
from ptune.methods.full import Full
from ptune.methods.lora import Lora

SFT = """
model_name_or_path: acme/tiny
dataset_name: acme/set
dataset_config: small
learning_rate: 1e-3
use_peft: true
lora_r: 5
lora_target_modules: [q_proj, v_proj]
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
packing: true
eval_strategy: steps
eval_steps: 25
warmup_steps: 0.1
"""


def imported(text: str, folder: Path, name: str = "config.yaml", **options: object) -> Imported:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return read_foreign(file, **options)  # type: ignore[arg-type]


def test_supervised_fine_tuning_with_trls_defaults(tmp_path: Path) -> None:
    found = imported(SFT, tmp_path)
    recipe = found.recipe
    assert found.tool == "TRL"
    assert type(recipe.task) is Chat
    assert isinstance(recipe.method, Lora)
    assert (recipe.method.r, recipe.method.dropout, recipe.method.target_modules) == (
        5,
        0.05,
        ("q_proj", "v_proj"),
    )
    assert [str(file) for file in recipe.data.files] == ["hub:acme/set/small"]
    assert [str(file) for file in recipe.data.validation] == ["hub:acme/set/small@test"]
    train = recipe.train
    assert (train.lr, train.batch_size, train.validate_every, train.warmup) == (1e-3, 16, 25, 0.1)
    # what TRL does where nothing is said
    assert (train.epochs, train.schedule, train.seed, train.gradient_checkpointing) == (3, "linear", 42, True)
    assert (recipe.chat.max_length, recipe.chat.on_overlong) == (1024, "truncate")
    assert any("many examples" in note.said for note in found.of("look"))


def test_without_an_adapter_every_weight_is_trained(tmp_path: Path) -> None:
    recipe = imported("model_name_or_path: a/b\ndataset_name: c/d\n", tmp_path).recipe
    assert isinstance(recipe.method, Full)
    assert recipe.train.lr == 2e-5


def test_an_adapter_that_is_switched_off_is_none_whatever_its_rank(tmp_path: Path) -> None:
    """As TRL's get_peft_config, which returns None where use_peft is False."""
    found = imported(SFT.replace("use_peft: true", "use_peft: false"), tmp_path)
    assert isinstance(found.recipe.method, Full)
    assert [note.now for note in found.notes if note.field == "use_peft"] == ["Full"]
    assert "lora_r" in [note.field for note in found.of("needless")]
    without = imported(SFT.replace("use_peft: true\n", ""), tmp_path)
    assert isinstance(without.recipe.method, Lora)


@pytest.mark.parametrize(
    ("trainer", "length", "now"),
    [
        ("sft", "700", (700, "truncate")),
        ("sft", "null", (1024, "error")),
        ("dpo", "700", (700, "drop")),
        ("dpo", "null", (1024, "error")),
        ("kto", "null", (1024, "error")),
        ("reward", "700", (700, "drop")),  # RewardTrainer filters what is longer
        ("reward", "null", (512, "error")),  # 512 is ptune's default here
    ],
)
def test_long_examples_are_cut_where_trl_cuts_them(
    trainer: str, length: str, now: tuple[int, str], tmp_path: Path
) -> None:
    text = f"model_name_or_path: a/b\ndataset_name: c/d\nmax_length: {length}\n"
    found = imported(text, tmp_path, trainer=trainer)
    task = found.recipe.task.model_dump()
    assert (task["max_length"], task["on_overlong"]) == now
    assert any("raise task.max_length" in note.said for note in found.of("look")) is (length == "null")


def test_steps_of_warm_up_beside_a_share(tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\ndataset_name: c/d\nwarmup_steps: 0\nwarmup_ratio: 0.2\n"
    found = imported(text, tmp_path)
    assert found.recipe.train.warmup == 0.2
    assert [note.how for note in found.notes if note.field == "warmup_steps"] == ["needless"]


@pytest.mark.parametrize(
    ("options", "now"),
    [  # RLOOConfig: num_generations 2, beta 0.05
        ("", (2, 0.05, 8)),
        ("--num_generations 4 --beta 0.0", (4, 0.0, 4)),
    ],
)
def test_rloos_own_defaults(options: str, now: tuple[int, float, int], tmp_path: Path) -> None:
    text = f"trl rloo --model_name_or_path a/b --dataset_name c/d --reward_funcs my.short --per_device_train_batch_size 16 {options}\n"
    recipe = imported(text, tmp_path, "train.sh").recipe
    assert isinstance(recipe.task, Reinforcement)
    assert (recipe.task.group_size, recipe.task.kl, recipe.train.batch_size) == now
    assert recipe.task.loss == "rloo"


@pytest.mark.parametrize(
    ("command", "options", "kind", "lr"),
    [
        ("trl dpo", "--beta 0.3 --loss_type ipo", Preference, 1e-6),
        ("python trl/scripts/kto.py", "--desirable_weight 2", UnpairedPreference, 1e-6),
        ("accelerate launch --config_file x.yaml examples/scripts/reward_modeling.py", "", RewardModel, 1e-4),
        ("CUDA_VISIBLE_DEVICES=0 trl sft", "--max_length=64", Chat, 2e-5),
        ("trl grpo", "--reward_funcs my.rewards.short --num_generations 4", Reinforcement, 1e-6),
    ],
)
def test_commands(command: str, options: str, kind: type, lr: float, tmp_path: Path) -> None:
    text = f"#!/bin/bash\n# a comment\n{command} \\\n  --model_name_or_path a/b \\\n  --dataset_name c/d {options}\n"
    found = imported(text, tmp_path, "train.sh")
    assert type(found.recipe.task) is kind
    assert found.recipe.train.lr == lr
    assert found.recipe.backbone.model == "a/b"


def test_options_in_all_their_forms(tmp_path: Path) -> None:
    text = "trl dpo --model_name_or_path=a/b --dataset_name c/d --use_peft --lora_target_modules q_proj v_proj --no_remove_unused_columns\n"
    recipe = imported(text, tmp_path, "train.sh").recipe
    assert isinstance(recipe.method, Lora)
    assert recipe.method.target_modules == ("q_proj", "v_proj")


def test_several_losses(tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\ndataset_name: c/d\nloss_type: [sigmoid, sft]\n"
    task = imported(text, tmp_path).recipe.task
    assert isinstance(task, Preference)
    assert (task.loss, task.sft_weight) == ("dpo", 1.0)
    found = imported(text.replace("sigmoid, sft", "sigmoid, bco_pair"), tmp_path)
    assert any(note.field == "loss_type" for note in found.of("left"))


def test_the_trainer_can_be_said(tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\ndataset_name: c/d\n"
    assert isinstance(imported(text, tmp_path, trainer="kto").recipe.task, UnpairedPreference)


def test_training_arguments_as_json(tmp_path: Path) -> None:
    arguments = {
        "output_dir": "out", "per_device_train_batch_size": 4, "learning_rate": 1e-4, "num_train_epochs": 1, "optim": "adamw_torch",
        "adam_beta1": 0.8, "adam_beta2": 0.99, "lr_scheduler_type": "cosine", "max_steps": -1, "logging_steps": 5, "fp16": True,
    }  # fmt: skip
    recipe = imported(json.dumps(arguments), tmp_path, "arguments.json").recipe
    assert (recipe.train.betas, recipe.train.max_steps, recipe.train.schedule) == (
        (0.8, 0.99),
        None,
        "cosine",
    )
    assert recipe.backbone.dtype == "float16"


def test_two_fields_that_do_not_go_together(tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\ndataset_name: c/d\noptim: adafactor\nadam_beta1: 0.8\n"
    found = imported(text, tmp_path)
    assert (found.recipe.train.optimizer, found.recipe.train.betas) == ("adafactor", None)
    assert any(note.field == "adam_beta1" and "adafactor" in note.said for note in found.of("left"))


def test_a_value_that_no_recipe_can_have(tmp_path: Path) -> None:
    found = imported(SFT + "weight_decay: lots\nmax_grad_norm: -1\n", tmp_path)
    left = {note.field: note.said for note in found.of("left")}
    assert {"weight_decay", "max_grad_norm"} <= set(left)
    assert found.recipe.train.weight_decay == 0


def test_a_trainer_without_counterpart_is_refused(tmp_path: Path) -> None:
    text = "python examples/scripts/nash_md.py --model_name_or_path a/b --dataset_name c/d\n"
    with pytest.raises(UsageError, match=r"nash_md.*grpo_lora"):
        imported(text, tmp_path, "train.sh")


def test_cpos_own_loss(tmp_path: Path) -> None:
    text = "python examples/scripts/cpo.py --model_name_or_path a/b --dataset_name c/d --loss_type sigmoid\n"
    task = imported(text, tmp_path, "train.sh").recipe.task
    assert isinstance(task, Preference)
    assert task.loss == "cpo"


GRPO = "python examples/scripts/grpo.py --model_name_or_path a/b --dataset_name c/d --num_generations 4 --reward_funcs my.short"


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ("--num_iterations 2", {"updates": 2, "loss": "dapo", "clip": 0.2, "clip_high": None}),
        (
            "--num_iterations 2 --epsilon 0.1 --epsilon_high 0.28",
            {"updates": 2, "clip": 0.1, "clip_high": 0.28},
        ),
        (
            "--num_iterations 1 --epsilon 0.1 --epsilon_high 0.28",
            {"updates": 1, "clip": None, "clip_high": None},
        ),
        ("--epsilon 0.1", {"updates": 1, "clip": None}),
        ("--loss_type grpo --importance_sampling_level sequence", {"loss": "gspo", "updates": 1}),
        ("--importance_sampling_level sequence --loss_type grpo", {"loss": "gspo", "updates": 1}),
        ("--loss_type grpo --importance_sampling_level token", {"loss": "grpo"}),
    ],
)
def test_updates_from_the_same_answers_and_their_ratios(
    options: str, task: dict[str, object], tmp_path: Path
) -> None:
    found = imported(f"{GRPO} {options}\n", tmp_path, "train.sh")
    document = found.recipe.task.model_dump()
    assert {name: document[name] for name in task} == task
    assert not [note for note in found.of("left") if note.field in options]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ("--importance_sampling_level sequence --loss_type dapo", "importance_sampling_level"),
        ("--num_iterations 2 --delta 3.0", "delta"),
        ("--num_iterations 2.5 --epsilon 0.1", "num_iterations"),
    ],
)
def test_ratios_that_are_not_here_are_left(options: str, field: str, tmp_path: Path) -> None:
    found = imported(f"{GRPO} {options}\n", tmp_path, "train.sh")
    assert field in [note.field for note in found.of("left")]
    assert isinstance(found.recipe.task, Reinforcement)
    assert found.recipe.task.updates == (2 if field == "delta" else 1)


@pytest.mark.parametrize(("each", "how"), [(4, "needless"), (8, "look")])
def test_answers_of_several_steps_at_once_are_to_be_looked_at(each: int, how: str, tmp_path: Path) -> None:
    options = f"--gradient_accumulation_steps 4 --steps_per_generation {each}"
    found = imported(f"{GRPO} {options}\n", tmp_path, "train.sh")
    assert [note.how for note in found.notes if note.field == "steps_per_generation"] == [how]
