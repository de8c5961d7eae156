"""TRL's configs and commands (`trl sft --config FILE`, scripts), and TrainingArguments of transformers as JSON or YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ptune.foreign.draft import Draft, is_off, shown
from ptune.foreign.grpo import GROUP, begin_rewarded
from ptune.foreign.sources import Source, files_of, set_files
from ptune.foreign.steps import batch, decays, held_out, overlong, saving, validation, warmup
from ptune.foreign.targets import targets

NAME = "TRL"
SECTIONS: tuple[str, ...] = ("env",)
MARKS = frozenset({
    "model_name_or_path", "dataset_name", "dataset_config", "dataset_train_split", "use_peft", "lora_r",
    "lora_target_modules", "max_length", "per_device_train_batch_size", "gradient_accumulation_steps",
    "num_train_epochs", "reward_funcs", "num_generations", "loss_type", "beta", "assistant_only_loss",
    "completion_only_loss", "lr_scheduler_type", "max_completion_length", "warmup_ratio", "logging_steps",
    "learning_rate",
})  # fmt: skip
_RATES = {"sft": 2e-5, "reward": 1e-4}
"""Default learning rates; of all other trainers 1e-6."""
_KINDS = {
    "sft": ("Chat", ""), "dpo": ("Preference", "dpo"), "orpo": ("Preference", "orpo"), "cpo": ("Preference", "cpo"),
    "kto": ("UnpairedPreference", "kto"), "reward": ("RewardModel", ""), "grpo": ("Reinforcement", "grpo"),
    "rloo": ("Reinforcement", "rloo"),
}  # fmt: skip
TASKS = tuple(_KINDS)
_SAMPLING = "of the model's own answers ptune learns by GRPO, RLOO and online DPO, recipe grpo_lora"
_ONLINE = "task Reinforcement learns so by task.loss online_dpo, but must be written by hand"
_LABELLED = "a student learns from labels that ptune label lets a teacher write, recipe distill_lora"
_ON_POLICY = "task OnPolicyDistillation has its teacher, lmbda and beta, but must be written by hand"
INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("ppo", "nash_md", "xpo", "rloo_vlm"), _SAMPLING),
    **dict.fromkeys(("online_dpo", "online_dpo_vlm"), _ONLINE),
    **dict.fromkeys(("gold", "distillation", "minillm", "sdft", "sdpo", "ssd"), _LABELLED),
    "gkd": _ON_POLICY,
    "bco": "kto_lora learns from the same data",
    "prm": "task ProcessReward has its fields, but must be written by hand",
    "mpo_vlm": "a loss of several is not here: dpo_lora with task.sft_weight",
}
"""Trainers without a counterpart, and what comes near."""


def trainer_of(config: Mapping[str, Any], command: str) -> str:
    """Which trainer a command names, or a config's own fields tell: one of TASKS, or another trainer's name."""
    if (named := re.search(r"(?:^|/| )(\w+)(?:\.py)?$", command)) and named[1] not in (
        "launch",
        "trl",
        "train",
    ):
        first = named[1].partition("_")[0]  # sft_gemma3.py
        return "grpo" if first == "gspo" else first if first in TASKS else named[1]
    telling = (
        ("grpo", ("reward_funcs", "num_generations", "max_completion_length")),
        ("kto", ("desirable_weight", "undesirable_weight")),
        ("reward", ("center_rewards_coefficient",)),
        ("cpo", ("cpo_alpha", "simpo_gamma")),
        ("dpo", ("loss_type", "beta", "precompute_ref_log_probs", "max_prompt_length", "ref_model")),
    )
    for trainer, signs in telling:
        if any(sign in config for sign in signs):
            return trainer
    return "sft"


def begin(draft: Draft, trainer: str) -> None:
    """Task, method, data and what several fields say together."""
    draft.task, loss = _KINDS[trainer]
    _method(draft)
    if draft.task == "Reinforcement":
        group = 2 if trainer == "rloo" else GROUP
        begin_rewarded(draft, "", "per_device_train_batch_size", "gradient_accumulation_steps", 8, group)
        if trainer == "rloo":
            draft.values["task.loss"] = "rloo"
            draft.usual("beta", "task.kl", 0.05)
        elif not draft.has("loss_type"):
            draft.default("task.loss", "dapo")
    else:
        batch(
            draft, "per_device_train_batch_size", "gradient_accumulation_steps", 8, packed=draft.on("packing")
        )
    if loss and "task.loss" not in draft.values:
        draft.values["task.loss"] = loss
    _data(draft)
    warmup(draft, "warmup_ratio", "warmup_steps", 0.0)
    decays(draft)
    validation(draft)
    saving(draft)
    _length(draft)
    rate = _RATES.get(trainer, 1e-6)
    usual = {"train.lr": rate, "train.epochs": 3.0, "train.schedule": "linear", "train.seed": 42,
             "train.gradient_checkpointing": True}  # fmt: skip
    for path, value in usual.items():
        name = {"train.lr": "learning_rate", "train.epochs": "num_train_epochs", "train.schedule": "lr_scheduler_type",
                "train.seed": "seed", "train.gradient_checkpointing": "gradient_checkpointing"}[path]  # fmt: skip
        draft.usual(name, path, value)


def _method(draft: Draft) -> None:
    named = any(draft.has(name) for name in ("lora_r", "lora_alpha", "lora_rank", "r"))
    if not draft.on("use_peft", default=named):
        draft.method = "Full"
        if draft.has("use_peft"):
            draft.set("use_peft", "method.kind", "Full")
        return
    if draft.has("use_peft"):
        draft.set("use_peft", "method.kind", "Lora")
    if not draft.has("lora_dropout"):
        draft.default("method.dropout", 0.05)
    if draft.has("lora_target_modules"):
        targets(draft, "lora_target_modules")
    else:
        draft.default(
            "method.target_modules",
            "all-linear",
            "PEFT chooses by the model there, mostly q_proj and v_proj; all linear layers here",
        )
    for name, kind in (("load_in_4bit", "nf4"), ("load_in_8bit", "int8")):
        if draft.on(name):
            draft.set(name, "backbone.quantize", kind)


def _data(draft: Draft) -> None:
    split = draft.get("dataset_train_split", "train")
    if draft.has("dataset_name"):
        found = files_of(draft.get("dataset_name"), draft.get("dataset_config"), split)
        set_files(draft, "dataset_name", "data.files", [found])
    elif draft.has("datasets"):
        entries = draft.get("datasets")
        set_files(
            draft,
            "datasets",
            "data.files",
            [_entry(one) for one in (entries if isinstance(entries, list) else [entries])],
        )
    for name in ("dataset_config", "dataset_train_split"):
        if draft.has(name):
            draft.needless(name, "stands in data.files")
    evaluated = draft.has("eval_strategy") and not is_off(draft.get("eval_strategy"))
    if draft.has("dataset_name") and evaluated and "data.files" in draft.values:
        tested = files_of(
            draft.get("dataset_name"), draft.get("dataset_config"), draft.get("dataset_test_split", "test")
        )
        if tested.files and tested.files[0].startswith("hub:"):
            look = "the split that is validated on; leave it out to hold out a part of the files"
            draft.set("dataset_test_split", "data.validation", list(tested.files), look)
    held_out(draft, "test_split_size")
    if draft.has("dataset_text_field") and draft.get("dataset_text_field") != "text":
        draft.set("dataset_text_field", "task.columns.text", draft.get("dataset_text_field"))


def _entry(entry: Any) -> Source:
    if not isinstance(entry, dict):
        return Source(left=(f"{shown(entry)} names no data set",))
    found = files_of(entry.get("path"), entry.get("name"), entry.get("split"), entry.get("data_files"))
    others = [str(name) for name in entry if name not in ("path", "name", "split", "data_files", "columns")]
    left = tuple(f"{name}: ptune does not know this field of a data set" for name in others)
    return Source(found.files, look=found.look, left=(*found.left, *left))


def _length(draft: Draft) -> None:
    if draft.task == "Reinforcement":
        return
    given = [name for name in ("max_length", "max_seq_length") if name in draft.config]
    for name in given:
        if draft.has(name):
            draft.set(name, "task.max_length", draft.get(name))
    if given and "task.max_length" not in draft.values:  # null: no limit
        overlong(draft, "kept")
        return
    draft.default("task.max_length", 1024)
    overlong(draft, "left out" if draft.task == "RewardModel" else "cut")
