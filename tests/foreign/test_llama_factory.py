"""LLaMA-Factory's configs as recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptune.config.preference import Preference
from ptune.config.reward_model import RewardModel
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.errors import UsageError
from ptune.foreign.read_foreign import Imported, read_foreign
from ptune.methods.freeze import FreezeExceptLast
from ptune.methods.lora import Lora
from ptune.methods.oft import Oft

SFT = """
model_name_or_path: acme/tiny
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 6
lora_target: q_proj,v_proj
quantization_bit: 8
dataset: mine,talk
template: qwen
cutoff_len: 777
max_samples: 1000
per_device_train_batch_size: 2
gradient_accumulation_steps: 5
learning_rate: 1.0e-4
num_train_epochs: 2.0
lr_scheduler_type: constant_with_warmup
warmup_ratio: 0.2
use_galore: false
flash_attn: fa2
val_size: 0.1
eval_strategy: steps
eval_steps: 50
report_to: none
ddp_timeout: 180000000
"""
REGISTER = {
    "mine": {"file_name": "mine.json"},
    "talk": {"hf_hub_url": "acme/talk", "formatting": "sharegpt", "split": "test"},
    "better": {"file_name": "better.json", "ranking": True, "columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"}},
    "raw": {"file_name": "raw.jsonl", "columns": {"prompt": "body"}},
    "seen": {"file_name": "seen.json", "formatting": "sharegpt", "columns": {"messages": "messages", "images": "images", "videos": "films"},
             "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(REGISTER))
    (tmp_path / "configs").mkdir()
    return tmp_path


def imported(text: str, folder: Path, name: str = "configs/config.yaml") -> Imported:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return read_foreign(file)


def test_supervised_fine_tuning(folder: Path) -> None:
    found = imported(SFT, folder)
    recipe = found.recipe
    assert found.tool == "LLaMA-Factory"
    assert isinstance(recipe.method, Lora)
    assert (recipe.method.r, recipe.method.alpha) == (6, 12)  # twice the rank unless it is said
    assert recipe.method.target_modules == ("q_proj", "v_proj")
    assert recipe.backbone.quantize == "int8"
    assert [str(file) for file in recipe.data.files] == [f"{folder}/data/mine.json", "hub:acme/talk@test"]
    assert (recipe.data.limit, recipe.data.validation_share) == (1000, 0.1)
    assert (recipe.chat.max_length, recipe.chat.on_overlong) == (777, "truncate")
    train = recipe.train
    assert (train.batch_size, train.lr, train.epochs, train.schedule, train.warmup) == (
        10,
        1e-4,
        2,
        "constant",
        0.2,
    )
    assert (train.gradient_checkpointing, train.validate_every, train.tracker) == (True, 50, "none")
    assert not found.of("left")


def test_json_is_read_as_yaml_is(folder: Path) -> None:
    import yaml

    text = json.dumps(yaml.safe_load(SFT))
    assert imported(text, folder, "configs/config.json").recipe == imported(SFT, folder).recipe


def test_a_script_that_calls_it(folder: Path) -> None:
    text = """#!/bin/bash
MODEL=acme/tiny
llamafactory-cli train \\
    --model_name_or_path ${MODEL} --stage sft --do_train --finetuning_type lora \\
    --dataset mine --cutoff_len 99 --learning_rate 1e-4 --save_only_model false
"""
    found = imported(text, folder, "configs/train.sh")
    assert found.recipe.backbone.model == "acme/tiny"
    assert found.recipe.chat.max_length == 99
    assert found.recipe.train.epochs == 3  # transformers' default


def test_preferences(folder: Path) -> None:
    text = SFT.replace("stage: sft", "stage: dpo\npref_loss: sigmoid\npref_beta: 0.2\npref_ftx: 0.5")
    task = imported(text.replace("mine,talk", "better"), folder).recipe.task
    assert isinstance(task, Preference)
    assert (task.loss, task.beta, task.sft_weight) == ("dpo", 0.2, 0.5)
    assert task.columns.named == {"instruction": "ask", "chosen": "good", "rejected": "bad"}


@pytest.mark.parametrize(("stage", "kind"), [("kto", UnpairedPreference), ("rm", RewardModel)])
def test_other_stages(stage: str, kind: type, folder: Path) -> None:
    assert isinstance(imported(SFT.replace("stage: sft", f"stage: {stage}"), folder).recipe.task, kind)


def test_pretraining_reads_texts(folder: Path) -> None:
    text = SFT.replace("stage: sft", "stage: pt").replace("mine,talk", "raw")
    assert imported(text, folder).recipe.task.columns.named == {"text": "body"}


def test_messages_in_openais_form_and_images(folder: Path) -> None:
    found = imported(SFT.replace("mine,talk", "seen"), folder)
    assert found.recipe.task.columns.named == {}  # messages is the usual name
    assert any("films" in note.said for note in found.of("left"))


def test_turns_of_tools_with_other_names_are_told(folder: Path) -> None:
    path = folder / "data" / "dataset_info.json"
    tags = {"function_tag": "function_call", "observation_tag": "result"}
    called = {"file_name": "called.json", "formatting": "sharegpt", "tags": tags}
    path.write_text(json.dumps({**REGISTER, "called": called}))
    found = imported(SFT.replace("mine,talk", "called"), folder)
    assert any("turns are named observation_tag result there" in note.said for note in found.of("look"))


def test_other_methods(folder: Path) -> None:
    frozen = SFT.replace("finetuning_type: lora", "finetuning_type: freeze\nfreeze_trainable_layers: 5")
    method = imported(frozen.replace("quantization_bit: 8", ""), folder).recipe.method
    assert isinstance(method, FreezeExceptLast)
    assert method.layers == 5
    turned = SFT.replace("finetuning_type: lora", "finetuning_type: oft\noft_block_size: 16\noft_target: all")
    method = imported(turned, folder).recipe.method
    assert isinstance(method, Oft)
    assert (method.oft_block_size, method.target_modules) == (16, "all-linear")


def test_a_name_that_is_not_registered_is_said(folder: Path) -> None:
    found = imported(SFT.replace("mine,talk", "mine,other"), folder)
    assert [file.name for file in found.recipe.data.files] == ["mine.json"]
    assert any("other" in note.said and "dataset_info.json" in note.said for note in found.of("left"))


def test_ppo_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"stage ppo .*GRPO"):
        imported(SFT.replace("stage: sft", "stage: ppo"), folder)


def test_the_newer_form(folder: Path) -> None:
    (folder / "data" / "sets.yaml").write_text(
        "one: {path: data/one.json, source: local, converter: alpaca}\n"
    )
    text = """
model: acme/tiny
model_class: llm
peft_config: {name: lora, r: 4, lora_alpha: 8, target_modules: all}
quant_config: {name: bnb, quantization_bit: 4}
dist_config: {name: fsdp2}
train_dataset: data/sets.yaml
micro_batch_size: 3
cutoff_len: 100
max_steps: 9
"""
    found = imported(text, folder)
    recipe = found.recipe
    assert isinstance(recipe.method, Lora)
    assert (recipe.method.r, recipe.method.alpha, recipe.backbone.quantize) == (4, 8, "nf4")
    assert [str(file) for file in recipe.data.files] == ["data/one.json"]
    assert (recipe.train.batch_size, recipe.train.max_steps, recipe.train.lr) == (3, 9, 1e-4)
    assert any(note.field == "dist_config" for note in found.of("left"))


def test_what_trains_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="trains nothing"):
        imported("model_name_or_path: acme/tiny\ntemplate: qwen\nexport_dir: out\n", folder)


def test_dynamic_fine_tuning(folder: Path) -> None:
    assert imported(SFT + "use_dft_loss: true\n", folder).recipe.chat.loss_type == "dft"
