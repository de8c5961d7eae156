"""LLaMA-Factory's YAML and JSON (`llamafactory-cli train FILE`), in its old form and its newer one."""

from __future__ import annotations

from ptune.errors import UsageError
from ptune.foreign.draft import Draft, number, shown
from ptune.foreign.llama_factory_data import read_file, read_names
from ptune.foreign.steps import batch, decays, held_out, overlong, saving, validation, warmup
from ptune.foreign.targets import targets

NAME = "LLaMA-Factory"
SECTIONS = ("peft_config", "quant_config", "optim_config", "lr_scheduler_config")
MARKS = frozenset({
    "stage", "finetuning_type", "template", "cutoff_len", "dataset", "dataset_dir", "lora_rank", "lora_target",
    "quantization_bit", "max_samples", "preprocessing_num_workers", "plot_loss", "pref_loss", "pref_beta",
    "model_class", "train_dataset", "peft_config", "dist_config", "kernel_config", "sample_backend", "export_dir",
    "export_size", "infer_backend", "adapter_name_or_path", "do_train", "overwrite_cache", "val_size",
})  # fmt: skip
_STAGES = {
    "sft": "Chat", "pt": "Chat", "dpo": "Preference", "kto": "UnpairedPreference", "rm": "RewardModel",
}  # fmt: skip
_LOSSES = {"sigmoid": "dpo", "hinge": "hinge", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo"}


def is_newer(draft: Draft) -> bool:
    """Whether the file is in the newer form, which says `model` where the old one says `model_name_or_path`."""
    return draft.has("model") and not draft.has("model_name_or_path")


def begin(draft: Draft) -> None:
    """Task, method, data and what several fields say together."""
    newer = is_newer(draft)
    _task(draft)
    _method_of_newer(draft) if newer else _method(draft)
    if newer:
        for name, path in (("train_dataset", "data.files"), ("eval_dataset", "data.validation")):
            if draft.has(name):
                read_file(draft, name, path, columns=path == "data.files")
        _batch_of_newer(draft)
    else:
        for name, path in (("dataset", "data.files"), ("eval_dataset", "data.validation")):
            if draft.has(name):
                read_names(draft, name, path, columns=path == "data.files")
        packed = draft.on("packing") or draft.on("neat_packing")
        batch(draft, "per_device_train_batch_size", "gradient_accumulation_steps", 8, packed=packed)
    held_out(draft, "val_size")
    warmup(draft, "warmup_ratio", "warmup_steps", 0.0)
    decays(draft)
    validation(draft)
    saving(draft)
    _defaults(draft, newer)


def _defaults(draft: Draft, newer: bool) -> None:
    usual = {
        "train.lr": ("learning_rate", 1e-4 if newer else 5e-5),
        "train.epochs": ("num_train_epochs", 3.0),
        "train.schedule": ("lr_scheduler_type", "linear"),
        "train.seed": ("seed", 42),
        "task.max_length": ("cutoff_len", 2048),
    }
    for path, (name, value) in usual.items():
        draft.usual(name, path, value)
    said = ("disable_gradient_checkpointing", "gradient_checkpointing", "enable_activation_checkpointing")
    if not any(draft.has(name) for name in said):
        draft.default("train.gradient_checkpointing", True)
    overlong(draft, "cut")


def _task(draft: Draft) -> None:
    stage = str(draft.get("stage", "sft")).lower()
    if stage not in _STAGES:
        raise UsageError(
            f"{draft.file}: stage {shown(stage)} has no counterpart here, {', '.join(_STAGES)} have; of rewards ptune learns by"
            " GRPO and RLOO: recipe grpo_lora"
        )
    draft.task = _STAGES[stage]
    if draft.has("stage"):
        draft.set("stage", "task.kind", draft.task)
    if draft.task != "Preference":
        return
    loss = str(draft.get("pref_loss", "sigmoid")).lower()
    if loss in _LOSSES:
        if draft.has("pref_loss"):
            draft.set("pref_loss", "task.loss", _LOSSES[loss])
        if loss == "simpo":
            draft.default("task.beta", 0.1)
            draft.default("task.margin", 0.5)
    else:
        draft.leave(
            "pref_loss", f"ptune has no {shown(loss)}: task.loss is one of {', '.join(_LOSSES.values())}"
        )


def _method(draft: Draft) -> None:
    kind = str(draft.get("finetuning_type", "lora")).lower()
    known = {"lora": "Lora", "full": "Full", "freeze": "FreezeExceptLast", "oft": "Oft"}
    if kind not in known:
        draft.leave("finetuning_type", f"ptune has no {shown(kind)}: docs/methods.md lists its methods")
        kind = "lora"
    draft.method = known[kind]
    if draft.has("finetuning_type"):
        draft.set("finetuning_type", "method.kind", draft.method)
    if kind == "lora":
        rank = draft.count("lora_rank", 8)
        if not draft.has("lora_rank"):
            draft.default("method.r", rank)
        if not draft.has("lora_alpha"):
            draft.default("method.alpha", 2.0 * rank, "twice the rank, as there")
    targets(draft, "lora_target" if kind != "oft" else "oft_target")
    bits = number(draft.get("quantization_bit"))
    if bits in (4, 8):
        draft.set("quantization_bit", "backbone.quantize", "nf4" if bits == 4 else "int8")
    elif bits is not None:
        draft.leave("quantization_bit", "4 bits (nf4) or 8 (int8) here: backbone.quantize")


def _method_of_newer(draft: Draft) -> None:
    kind = str(draft.get("peft_config.name", "full")).lower()
    known = {"lora": "Lora", "freeze": "FreezeExceptLast", "full": "Full"}
    draft.method = known.get(kind, "Lora")
    if draft.has("peft_config.name"):
        if kind in known:
            draft.set("peft_config.name", "method.kind", draft.method)
        else:
            draft.leave("peft_config.name", f"ptune has no {shown(kind)}: docs/methods.md lists its methods")
    if draft.method == "Lora":
        rank = draft.count("peft_config.r", 8)
        if not draft.has("peft_config.r"):
            draft.default("method.r", rank)
        if not draft.has("peft_config.lora_alpha"):
            draft.default("method.alpha", 2.0 * rank, "twice the rank, as there")
        targets(draft, "peft_config.target_modules")
    bits = number(draft.get("quant_config.quantization_bit"))
    if bits in (4, 8):
        draft.set("quant_config.quantization_bit", "backbone.quantize", "nf4" if bits == 4 else "int8")


def _batch_of_newer(draft: Draft) -> None:
    if draft.has("global_batch_size"):
        draft.set("global_batch_size", "train.batch_size", draft.get("global_batch_size"))
        if draft.has("micro_batch_size"):
            draft.needless(
                "micro_batch_size", "examples of a pass: train.micro_batch_tokens sets it by tokens here"
            )
    else:
        batch(draft, "micro_batch_size", "", 1)
