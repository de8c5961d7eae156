"""torchtune's configs as recipes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from ptune.config.distillation import Distillation
from ptune.config.preference import Preference
from ptune.config.reinforcement import Reinforcement
from ptune.errors import UsageError
from ptune.foreign.read_foreign import Imported, read_foreign
from ptune.methods.full import Full
from ptune.methods.lora import Lora

LORA = """
output_dir: /models/out
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: ${base}/tokenizer.model
  max_seq_len: 600
base: /models/tiny
model:
  _component_: torchtune.models.llama3_2.lora_llama3_2_1b
  lora_attn_modules: ['q_proj', 'v_proj', 'output_proj']
  apply_lora_to_mlp: True
  lora_rank: 64
  lora_alpha: 128
  lora_dropout: 0.0
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: ${base}
  checkpoint_files: [model.safetensors]
dataset:
  _component_: torchtune.datasets.instruct_dataset
  source: json
  data_files: rows.json
  column_map: {input: ask, output: say}
  packed: True
batch_size: 2
gradient_accumulation_steps: 8
optimizer:
  _component_: torch.optim.AdamW
  fused: True
  weight_decay: 0.01
  lr: 3e-4
  betas: [0.9, 0.95]
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss:
  _component_: torchtune.modules.loss.LinearCrossEntropyLoss
epochs: 2
max_steps_per_epoch: 500
clip_grad_norm: null
enable_activation_checkpointing: True
seed: 5
"""


def imported(text: str, folder: Path) -> Imported:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return read_foreign(file)


def test_lora(tmp_path: Path) -> None:
    found = imported(LORA, tmp_path)
    recipe = found.recipe
    assert found.tool == "torchtune"
    assert recipe.backbone.model == "/models/tiny"
    assert isinstance(recipe.method, Lora)
    assert (recipe.method.r, recipe.method.alpha) == (64, 128)
    assert recipe.method.target_modules == ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert [str(file) for file in recipe.data.files] == ["rows.json"]
    assert recipe.task.columns.named == {"prompt": "ask", "completion": "say"}
    train = recipe.train
    assert (train.batch_size, train.max_steps, train.warmup, train.max_grad_norm) == (16, 1000, 0.1, 0)
    assert (train.betas, train.lr, train.weight_decay, train.seed) == ((0.9, 0.95), 3e-4, 0.01, 5)
    assert (recipe.chat.max_length, train.gradient_checkpointing) == (600, True)


def test_all_layers_quantised_and_the_head(tmp_path: Path) -> None:
    text = LORA.replace("'v_proj', 'output_proj'", "'k_proj', 'v_proj', 'output_proj'").replace(
        "lora_llama3_2_1b", "qlora_llama3_2_1b"
    )
    recipe = imported(
        text.replace("lora_rank: 64", "lora_rank: 64\n  apply_lora_to_output: True\n  use_dora: True"),
        tmp_path,
    ).recipe
    assert isinstance(recipe.method, Lora)
    assert (recipe.method.target_modules, recipe.method.dora, recipe.method.ends) == (
        "all-linear",
        True,
        ("head",),
    )
    assert recipe.backbone.quantize == "nf4"


def test_phi_has_its_layers_in_one(tmp_path: Path) -> None:
    method = imported(
        LORA.replace("llama3_2.lora_llama3_2_1b", "phi3.lora_phi3_mini"), tmp_path
    ).recipe.method
    assert isinstance(method, Lora)
    assert method.target_modules == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def test_every_weight_and_no_schedule(tmp_path: Path) -> None:
    text = LORA.replace("lora_llama3_2_1b", "llama3_2_1b").replace("lr_scheduler:", "unused:")
    recipe = imported(text, tmp_path).recipe
    assert isinstance(recipe.method, Full)
    assert (recipe.train.schedule, recipe.train.warmup) == ("constant", 0)


@pytest.mark.parametrize(("length", "now"), [("600", "truncate"), ("null", "error")])
def test_nothing_is_cut_where_the_tokenizer_has_no_limit(length: str, now: str, tmp_path: Path) -> None:
    found = imported(LORA.replace("max_seq_len: 600", f"max_seq_len: {length}"), tmp_path)
    assert found.recipe.chat.on_overlong == now
    assert any("raise task.max_length" in note.said for note in found.of("look")) is (length == "null")


@pytest.mark.parametrize("name", ["AdamW", "Adafactor", "Muon"])
def test_an_optimiser_has_its_own_weight_decay(name: str, tmp_path: Path) -> None:
    text = LORA.replace("  weight_decay: 0.01\n", "").replace("  betas: [0.9, 0.95]\n", "")
    kind = getattr(torch.optim, name)
    usual = inspect.signature(kind).parameters["weight_decay"].default
    assert imported(text.replace("optim.AdamW", f"optim.{name}"), tmp_path).recipe.train.weight_decay == usual


def test_preferences(tmp_path: Path) -> None:
    text = LORA.replace(
        "torchtune.modules.loss.LinearCrossEntropyLoss", "torchtune.rlhf.loss.DPOLoss\n  beta: 0.05"
    )
    text = text.replace("instruct_dataset\n  source: json\n  data_files: rows.json\n  column_map: {input: ask, output: say}",
                        "stack_exchange_paired_dataset")  # fmt: skip
    recipe = imported(text, tmp_path).recipe
    assert isinstance(recipe.task, Preference)
    assert (recipe.task.loss, recipe.task.beta) == ("dpo", 0.05)
    assert [str(file) for file in recipe.data.files] == ["hub:lvwerra/stack-exchange-paired"]
    assert recipe.task.columns.named == {
        "prompt": "question",
        "chosen": "response_j",
        "rejected": "response_k",
    }


def test_distillation(tmp_path: Path) -> None:
    found = imported(LORA + "kd_ratio: 0.4\n", tmp_path)
    assert isinstance(found.recipe.task, Distillation)
    assert found.recipe.task.kd_ratio == 0.4
    assert any("ptune label" in note.said for note in found.of("look"))


@pytest.mark.parametrize(("updates", "clip"), [(1, None), (2, 0.1)])
def test_rewarded_answers(updates: int, clip: float | None, tmp_path: Path) -> None:
    loss = "torchtune.dev.grpo.loss.GRPOSimpleLoss\n  epsilon: 0.1\n  kl_coeff: 0.01"
    text = LORA.replace("torchtune.modules.loss.LinearCrossEntropyLoss", loss)
    task = imported(f"{text}ppo_epochs: {updates}\ngrpo_samples: 4\n", tmp_path).recipe.task
    assert isinstance(task, Reinforcement)
    assert (task.loss, task.kl, task.group_size) == ("grpo", 0.01, 4)
    assert (task.updates, task.clip) == (updates, clip)


def test_a_reference_to_itself_ends(tmp_path: Path) -> None:
    assert imported(LORA.replace("base: /models/tiny", "base: x${base}x"), tmp_path).tool == "torchtune"


def test_what_trains_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trains nothing"):
        imported("model: {_component_: torchtune.models.llama3.llama3_8b}\nprompt: hello\n", tmp_path)
