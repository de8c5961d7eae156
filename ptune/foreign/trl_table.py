"""TRL's fields, and what becomes of each."""

from __future__ import annotations

from typing import Any

from ptune.foreign.draft import Draft, is_on, names, shown
from ptune.foreign.grpo import REWARDED
from ptune.foreign.rules import (
    Table,
    always,
    fields,
    left,
    looked_at,
    needless,
    never,
    one_of,
    only,
    switch,
    to,
    to_names,
)
from ptune.foreign.training_arguments import TABLE as ARGUMENTS

_PAIR_LOSSES = {
    "sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "robust": "robust", "apo_zero": "apo_zero", "simpo": "simpo",
    "orpo": "orpo", "cpo": "cpo",
}  # fmt: skip


def _loss(draft: Draft, name: str, value: Any) -> None:
    """Of pairs a loss or several, of judged answers and of supervised fine-tuning one."""
    said = [word.lower() for word in names(value)]
    if draft.task == "UnpairedPreference":
        rule = one_of(
            "task.loss", {"kto": "kto", "apo_zero_unpaired": "apo_zero"}, {}, "task.loss is kto or apo_zero"
        )
        rule(draft, name, said[0] if said else "")
        return
    if draft.task != "Preference":
        if said == ["nll"]:
            draft.needless(name, "cross-entropy, as here")
        elif said == ["dft"]:
            draft.set(name, "task.loss_type", "dft")
        else:
            draft.leave(name, f"ptune has no {shown(value)}: the loss of a target is its cross-entropy")
        return
    losses = [word for word in said if word != "sft"]
    if draft.values.get("task.loss") in ("cpo", "orpo") and losses == ["sigmoid"]:
        draft.needless(name, "the trainer's own loss, as here")
        return
    if len(losses) != 1 or losses[0] not in _PAIR_LOSSES:
        known = ", ".join(_PAIR_LOSSES.values())
        draft.leave(name, f"ptune has no {shown(value)}: task.loss is one of {known}")
        return
    draft.set(name, "task.loss", _PAIR_LOSSES[losses[0]])
    if "sft" in said:
        draft.default("task.sft_weight", 1.0, "sft among the losses: per token of the better answer here")
    if losses == ["simpo"]:
        draft.default("task.margin", 0.5)
        draft.default("task.beta", 0.1)


def _dtype(draft: Draft, name: str, value: Any) -> None:
    known = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16"}
    if str(value) == "auto":
        draft.needless(name, "auto, as here")
    elif str(value) in known:
        draft.set(
            name,
            "backbone.dtype",
            known[str(value)],
            "the type of the frozen weights; trained ones stay float32",
        )
    else:
        draft.leave(name, "backbone.dtype is auto, float32, bfloat16 or float16")


def _template(draft: Draft, name: str, value: Any) -> None:
    if str(value).endswith((".jinja", ".jinja2")):
        draft.set(name, "task.template", str(value))
    else:
        draft.leave(
            name, "the template of another tokenizer: save it as a Jinja file, and name that in task.template"
        )


def _end(draft: Draft, name: str, value: Any) -> None:
    draft.look(name, "what ends an answer is what the chat template ends it with")


def _splits(draft: Draft, name: str, value: Any) -> None:
    draft.needless(name, "a part of the files is held out: data.validation_share")


def _quantisation(draft: Draft, name: str, value: Any) -> None:
    if str(value).lower() == "nf4" or is_on(value):
        draft.needless(name, "nf4 with double quantisation, as ptune packs it")
    else:
        draft.leave(name, "4 bits are nf4 here")


_REFERENCE = "always so here: the reference is the model with its adapter off"
_TOOLS = "environments and tools within an answer are not here"

TABLE: Table = {
    **ARGUMENTS,
    "model_name_or_path": to("backbone.model"),
    "model_revision": to("backbone.revision"),
    "dtype": _dtype,
    "torch_dtype": _dtype,
    "lora_r": to("method.r"),
    "lora_alpha": to("method.alpha"),
    "lora_dropout": to("method.dropout"),
    "lora_target_parameters": to_names("method.target_parameters"),
    "lora_modules_to_save": left("whole layers beside LoRA are not trained; method.ends: [head, embedding] gives them factors"),
    "lora_task_type": needless("follows from the task"),
    "use_rslora": switch("method.rslora"),
    "use_dora": switch("method.dora"),
    "load_in_4bit": never("without an adapter the weights are trained, which quantised ones cannot be"),
    "load_in_8bit": never("without an adapter the weights are trained, which quantised ones cannot be"),
    "beta": to("task.beta"),
    "label_smoothing": to("task.label_smoothing"),
    "loss_type": _loss,
    "loss_weights": only(0, "off, as here", "no weights of losses: task.sft_weight alone"),
    "simpo_gamma": to("task.margin"),
    "cpo_alpha": to("task.sft_weight"),
    "rpo_alpha": to("task.sft_weight"),
    "desirable_weight": to("task.desirable_weight"),
    "undesirable_weight": to("task.undesirable_weight"),
    "center_rewards_coefficient": to("task.center_rewards_coefficient"),
    "max_prompt_length": looked_at("prompt and answer together are counted: task.max_length"),
    "max_completion_length": looked_at("prompt and answer together are counted: task.max_length"),
    "assistant_only_loss": always("only answers are learnt here; raw text (a column text) is learnt whole"),
    "completion_only_loss": always("only answers are learnt here; raw text (a column text) is learnt whole"),
    "packing": always("packing is always on here; rows do not see each other, so the result is the same"),
    "padding_free": needless("nothing is padded"),
    "chat_template_path": _template,
    "eos_token": _end,
    "pad_token": needless("nothing is padded"),
    "dataset_test_split": _splits,
    "truncation_mode": looked_at("a cut example keeps its beginning here"),
    "disable_dropout": needless("train.dropout is the model's own unless set"),
    "model_init_kwargs": left("backbone.* holds what is loaded"),
    "ignore_bias_buffers": needless("concerns how their processes run, not what is learnt"),
    "use_weighting": left("weights of pairs are not here"),
    "ld_alpha": left("LD-DPO is not here"),
    "f_divergence_type": left("the divergence is the reverse KL, as usual"),
    "sync_ref_model": left("the reference is the model before training"),
    "ref_model": left("the reference is the model before training"),
    "teacher_model_name_or_path": left("OnPolicyDistillation has it as task.teacher; Distillation learns from labels of ptune label"),
    "reward_model_path": left("Reinforcement asks it by reward_model:FOLDER among task.rewards"),
    "freeze_vision_tower": needless("the vision tower stays frozen"),
    "env.*": left("environment variables are set by the shell"),
    "config_file": left("accelerate launch --config_file FILE RECIPE.py takes accelerate's file as it is"),
    "eval_packing": needless("packing is always on here"),
    "packing_strategy": needless("examples are packed whole, rows of nearly the same length"),
    "shuffle_dataset": needless("the order follows train.seed"),
    "environment_factory": left(_TOOLS),
    "tools": left(_TOOLS),
    **fields(_quantisation, "bnb_4bit_quant_type", "use_bnb_nested_quant"),
    **fields(needless(_REFERENCE), "precompute_ref_log_probs", "precompute_ref_batch_size"),
    **fields(needless("nothing is padded"), "pad_to_multiple_of", "eval_pad_to_multiple_of"),
    **fields(needless("files are read row by row, and tokens from disk"), "streaming", "dataset_streaming"),
    **fields(needless("concerns how the file's types are held"), "bnb_4bit_quant_storage", "bnb_4bit_compute_dtype"),
}  # fmt: skip


def table_of(draft: Draft) -> Table:
    """The table: some fields mean something else for GRPO than for DPO."""
    return {**TABLE, **REWARDED("")} if draft.task == "Reinforcement" else TABLE
