"""Axolotl's configs as recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptune.config.preference import Preference
from ptune.config.reinforcement import Reinforcement
from ptune.config.reward_model import RewardModel
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.errors import UsageError
from ptune.foreign.read_foreign import Imported, read_foreign
from ptune.methods.full import Full
from ptune.methods.lora import Lora

QLORA = """
base_model: acme/tiny-1b
load_in_4bit: true
adapter: qlora
lora_r: 8
lora_alpha: 24
lora_dropout: 0.1
lora_target_linear: true
datasets:
  - path: data/help.jsonl
    type: chat_template
    field_messages: turns
  - path: data/more.jsonl
    type: chat_template
    field_messages: turns
val_set_size: 0.07
sequence_len: 3000
sample_packing: true
micro_batch_size: 3
gradient_accumulation_steps: 4
num_epochs: 2
optimizer: paged_adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4
warmup_steps: 10
max_steps: 200
weight_decay: 0.01
gradient_checkpointing: true
bf16: auto
deepspeed: zero3.json
wandb_project: mine
wandb_entity:
made_up_field: 7
"""


def imported(text: str, folder: Path, **options: object) -> Imported:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return read_foreign(file, **options)  # type: ignore[arg-type]


def test_a_qlora_config(tmp_path: Path) -> None:
    found = imported(QLORA, tmp_path)
    recipe = found.recipe
    assert found.tool == "Axolotl"
    assert recipe.backbone.model == "acme/tiny-1b"
    assert recipe.backbone.quantize == "nf4"
    assert isinstance(recipe.method, Lora)
    assert (recipe.method.r, recipe.method.alpha, recipe.method.dropout) == (8, 24, 0.1)
    assert recipe.method.target_modules == "all-linear"
    assert [str(file) for file in recipe.data.files] == ["data/help.jsonl", "data/more.jsonl"]
    assert recipe.task.columns.named == {"messages": "turns"}
    assert recipe.data.validation_share == 0.07
    assert recipe.chat.max_length == 3000
    assert recipe.chat.on_overlong == "drop"  # as Axolotl does unless told otherwise
    train = recipe.train
    assert (train.batch_size, train.epochs, train.max_steps) == (12, 2, 200)
    assert (train.lr, train.schedule, train.warmup, train.weight_decay) == (2e-4, "cosine", 0.05, 0.01)
    assert (train.optimizer, train.gradient_checkpointing, train.seed) == ("paged_adamw_8bit", True, 42)


def test_every_field_is_accounted_for(tmp_path: Path) -> None:
    found = imported(QLORA, tmp_path)
    named = {name for note in found.notes for name in note.field.split(" × ")} | set(found.empty)
    fields = {line.partition(":")[0] for line in QLORA.splitlines() if line and line[0].isalpha()}
    assert fields <= named
    assert found.empty == ("wandb_entity",)
    left = {note.field: note.said for note in found.of("left")}
    assert "accelerate" in left["deepspeed"]
    assert "does not know" in left["made_up_field"]
    assert [note.field for note in found.of("look")].count(
        "micro_batch_size × gradient_accumulation_steps"
    ) == 1


def test_devices_multiply_the_batch(tmp_path: Path) -> None:
    assert imported(QLORA, tmp_path, devices=4).recipe.train.batch_size == 48


PAIRS = """
base_model: acme/tiny
rl: {rl}
sequence_len: 512
learning_rate: 1e-5
micro_batch_size: 1
datasets:
  - path: pairs.jsonl
    type: {kind}
"""


def test_preferences(tmp_path: Path) -> None:
    recipe = imported(PAIRS.format(rl="dpo", kind="chatml.intel") + "rl_beta: 0.3\n", tmp_path).recipe
    assert isinstance(recipe.task, Preference)
    assert (recipe.task.loss, recipe.task.beta, recipe.task.on_overlong) == ("dpo", 0.3, "drop")
    assert recipe.task.columns.named == {"prompt": "question"}
    assert isinstance(recipe.method, Full)


def test_simpo_has_axolotls_own_defaults(tmp_path: Path) -> None:
    task = imported(PAIRS.format(rl="simpo", kind="chat_template.default"), tmp_path).recipe.task
    assert isinstance(task, Preference)
    assert (task.loss, task.beta, task.margin) == ("simpo", 0.1, 0.5)


def test_thumbs(tmp_path: Path) -> None:
    text = PAIRS.format(rl="kto", kind="llama3.argilla") + "kto_undesirable_weight: 0.2\n"
    task = imported(text, tmp_path).recipe.task
    assert isinstance(task, UnpairedPreference)
    assert task.undesirable_weight == 0.2


def test_a_reward_model(tmp_path: Path) -> None:
    text = PAIRS.replace("rl: {rl}", "reward_model: true\ncenter_rewards_coefficient: 0.01").format(
        kind="bradley_terry.chat_template"
    )
    task = imported(text, tmp_path).recipe.task
    assert isinstance(task, RewardModel)
    assert task.center_rewards_coefficient == 0.01


def test_rewarded_answers(tmp_path: Path) -> None:
    text = """
base_model: acme/tiny
rl: grpo
trl:
  num_generations: 4
  max_completion_length: 200
  beta: 0.02
  num_iterations: 2
  epsilon_high: 0.28
  reward_funcs: [rewards.short, other.polite]
  reward_weights: [1.0, 0.5]
datasets: [{path: prompts.jsonl, type: rewards.transform}]
micro_batch_size: 8
gradient_accumulation_steps: 2
sequence_len: 900
"""
    recipe = imported(text, tmp_path).recipe
    assert isinstance(recipe.task, Reinforcement)
    assert recipe.task.rewards == ("rewards.py:short", "0.5*other.py:polite")
    assert (recipe.task.group_size, recipe.task.answer_tokens, recipe.task.max_length) == (4, 200, 900)
    assert (recipe.task.kl, recipe.train.batch_size) == (0.02, 4)  # 16 answers, 4 to a prompt
    assert (recipe.task.updates, recipe.task.clip, recipe.task.clip_high) == (2, 0.2, 0.28)


def test_files_that_call_columns_differently_are_said(tmp_path: Path) -> None:
    text = QLORA.replace("    field_messages: turns\nval", "    field_messages: talk\nval")
    found = imported(text, tmp_path)
    assert found.recipe.task.columns.named == {}
    assert any("one name for all" in note.said for note in found.of("left"))


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        ("{path: acme/set, type: alpaca}", "hub:acme/set"),
        ("{path: acme/set, name: small, split: 'train[:1%]', type: alpaca}", "hub:acme/set/small@train[:1%]"),
        ("{path: json, data_files: [rows.json], type: alpaca}", "rows.json"),
    ],
)
def test_data_sets_of_the_hub_and_files(entry: str, file: str, tmp_path: Path) -> None:
    text = f"base_model: a/b\nmicro_batch_size: 1\nsequence_len: 64\ndatasets: [{entry}]\n"
    assert [str(one) for one in imported(text, tmp_path).recipe.data.files] == [file]


def test_fields_of_an_adapter_that_is_not_there_change_nothing(tmp_path: Path) -> None:
    found = imported(QLORA.replace("adapter: qlora", "adapter:").replace("load_in_4bit: true", ""), tmp_path)
    assert isinstance(found.recipe.method, Full)
    assert any(note.field == "lora_r" and note.how == "needless" for note in found.notes)


def test_a_config_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no model"):
        imported("gpu: h100\ntimeout: 8\n", tmp_path, tool="axolotl")


@pytest.mark.parametrize(
    "line", ["rl: ebft", "adapter: prefix", "process_reward_model: true", "diffusion: {eps: 1}"]
)
def test_what_would_be_another_training_is_refused(line: str, tmp_path: Path) -> None:
    text = f"base_model: a/b\nmicro_batch_size: 1\nsequence_len: 64\n{line}\n"
    with pytest.raises(UsageError, match="has no counterpart here"):
        imported(text, tmp_path)
