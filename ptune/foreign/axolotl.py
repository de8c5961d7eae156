"""Axolotl's YAML (https://docs.axolotl.ai/docs/config-reference.html)."""

from __future__ import annotations

from ptune.errors import UsageError
from ptune.foreign.axolotl_data import read_datasets
from ptune.foreign.draft import Draft, Note, shown
from ptune.foreign.grpo import begin_rewarded
from ptune.foreign.steps import batch, decays, held_out, saving, validation, warmup
from ptune.foreign.targets import targets

NAME = "Axolotl"
SECTIONS = ("trl",)
MARKS = frozenset({
    "base_model", "sequence_len", "micro_batch_size", "num_epochs", "adapter", "lora_r", "sample_packing",
    "dataset_prepared_path", "val_set_size", "lr_scheduler", "datasets", "load_in_4bit", "lora_target_linear",
    "pretraining_dataset", "rl", "evals_per_epoch", "saves_per_epoch",
})  # fmt: skip
_TASKS = {
    "dpo": ("Preference", "dpo"), "ipo": ("Preference", "ipo"), "orpo": ("Preference", "orpo"),
    "simpo": ("Preference", "simpo"), "kto": ("UnpairedPreference", "kto"), "grpo": ("Reinforcement", "grpo"),
}  # fmt: skip
_OTHER_TRAININGS = {
    "process_reward_model": "rewards of steps are not read; task ProcessReward learns them, but must be written by hand",
    "diffusion": "models of discrete diffusion are not trained",
}


def begin(draft: Draft) -> None:
    """Task, method, data and what several fields say together."""
    _task(draft)
    _method(draft)
    for name, path in (
        ("datasets", "data.files"),
        ("pretraining_dataset", "data.files"),
        ("test_datasets", "data.validation"),
    ):
        if draft.has(name) and path not in draft.values:
            read_datasets(draft, name, path, columns=path == "data.files")
    held_out(draft, "val_set_size")
    if draft.task != "Reinforcement":
        _batch(draft)
    warmup(draft, "warmup_ratio", "warmup_steps", 0.03)
    decays(draft)
    validation(draft)
    saving(draft)
    _length(draft)
    draft.usual("learning_rate", "train.lr", 5e-5)
    draft.usual("lr_scheduler", "train.schedule", "cosine")
    draft.usual("num_epochs", "train.epochs", 1.0)
    draft.usual("seed", "train.seed", 42)


def _batch(draft: Draft) -> None:
    if draft.has("batch_size") and not draft.has("gradient_accumulation_steps"):
        batch(draft, "batch_size", "", 1, packed=draft.on("sample_packing"))
        if draft.has("micro_batch_size"):
            draft.needless(
                "micro_batch_size", "examples of a pass: train.micro_batch_tokens counts its tokens here"
            )
    else:
        batch(draft, "micro_batch_size", "gradient_accumulation_steps", 1, packed=draft.on("sample_packing"))


def _task(draft: Draft) -> None:
    if draft.has("rl"):
        said = str(draft.get("rl")).lower()
        if said in _TASKS:
            draft.task, loss = _TASKS[said]
            draft.set("rl", "task.loss", loss)
        else:
            raise UsageError(
                f"{draft.file}: rl {shown(said)} has no counterpart here; {', '.join(_TASKS)} have"
            )
    elif unknown := next((name for name in _OTHER_TRAININGS if draft.on(name)), ""):
        raise UsageError(f"{draft.file}: {unknown} has no counterpart here: {_OTHER_TRAININGS[unknown]}")
    elif draft.on("reward_model"):
        draft.task = "RewardModel"
        draft.set("reward_model", "task.kind", "RewardModel")
    if draft.values.get("task.loss") == "simpo":
        draft.default("task.beta", 0.1)
        draft.default("task.margin", 0.5)
    if draft.task == "Reinforcement":
        begin_rewarded(draft, "trl.", "micro_batch_size", "gradient_accumulation_steps", 1)


def _method(draft: Draft) -> None:
    adapter = draft.get("adapter")
    if adapter in ("lora", "qlora"):
        draft.set("adapter", "method.kind", "Lora")
        draft.values["method.alpha"] = 16.0  # where lora_alpha is missing, peft's own
        targets(draft, "lora_target_modules", everything="lora_target_linear")
    else:
        draft.method = "Full"
        if adapter is None or adapter == "":
            said = "without an adapter every weight is trained"
            draft.notes.append(Note("adapter", None, "taken", "method.kind", "Full", said))
        else:
            raise UsageError(
                f"{draft.file}: adapter {shown(adapter)} has no counterpart here; lora and qlora have, and docs/methods.md lists"
                " ptune's methods"
            )
        for name in ("lora_target_modules", "lora_target_linear"):
            if draft.has(name):
                draft.needless(name, "there is no adapter")
    for name, kind in (("load_in_4bit", "nf4"), ("load_in_8bit", "int8")):
        if draft.on(name) and draft.method == "Lora":
            draft.set(name, "backbone.quantize", kind)
    if draft.on("load_in_4bit") and draft.on("load_in_8bit"):
        draft.look("load_in_4bit", "both are on: ptune takes one")


def _length(draft: Draft) -> None:
    chosen = str(draft.get("excess_length_strategy", "drop")).lower()
    known = {"drop": "drop", "truncate": "truncate", "raise": "error"}
    kept = draft.task in ("Preference", "UnpairedPreference", "Reinforcement") and chosen == "truncate"
    now = "drop" if kept else known.get(chosen, "drop")
    look = (
        "what is longer than task.max_length is left out and counted; set error to be told"
        if now == "drop"
        else ""
    )
    if draft.has("excess_length_strategy"):
        draft.set("excess_length_strategy", "task.on_overlong", now, look)
    elif draft.task != "Reinforcement":
        draft.default("task.on_overlong", now, f"{NAME}'s default: {look}")
