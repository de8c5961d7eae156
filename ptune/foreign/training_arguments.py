"""Fields of transformers' TrainingArguments, which TRL, LLaMA-Factory and in part Axolotl have in common."""

from __future__ import annotations

from typing import Any

from ptune.foreign.draft import Draft, is_on, names, number, shown
from ptune.foreign.rules import Table, count_above_zero, fields, left, needless, one_of, switch, to

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw_hf": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw",
    "paged_adamw_32bit": "paged_adamw",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "lion": "lion",
    "lion_32bit": "lion",
    "lion_8bit": "lion_8bit",
    "muon": "muon",
}
NEAR_OPTIMIZERS = {
    "adamw_torch_8bit": ("adamw_8bit", "bitsandbytes' 8-bit AdamW in place of torchao's"),
    "ao_adamw_8bit": ("adamw_8bit", "bitsandbytes' 8-bit AdamW in place of torchao's"),
    "adamw_torch_4bit": ("adamw_8bit", "8 bits are the fewest here"),
    "ao_adamw_4bit": ("adamw_8bit", "8 bits are the fewest here"),
    "optimi_adamw": ("adamw", "torch's AdamW in place of optimi's"),
    "adamw_apex_fused": ("adamw", "torch's AdamW in place of Apex's"),
    "adamw_anyprecision": ("adamw", "torch's AdamW; its state is float32"),
    "flash_adamw": ("adamw_8bit", "bitsandbytes' 8-bit AdamW in place of this one"),
    "paged_lion_32bit": ("lion", "not paged here"),
    "paged_lion_8bit": ("lion_8bit", "not paged here"),
}
optimizer = one_of(
    "train.optimizer",
    OPTIMIZERS,
    NEAR_OPTIMIZERS,
    "train.optimizer is adamw unless you choose one of docs/training.md#optimisers",
)

SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant_with_warmup": "constant",
    "warmup_stable_decay": "wsd",
}
NEAR_SCHEDULES = {
    "cosine_with_min_lr": ("cosine", "ptune's cosine ends at 0, not at a least rate"),
    "cosine_warmup_with_min_lr": ("cosine", "ptune's cosine ends at 0, not at a least rate"),
    "cosine_with_restarts": ("cosine", "without restarts here"),
    "polynomial": ("linear", "the nearest: a straight line to 0"),
    "rex": ("linear", "the nearest: a line to 0"),
    "one_cycle": ("cosine", "the nearest: warm-up, then down"),
    "inverse_sqrt": ("constant", "the nearest that does not end at 0"),
}
_named_schedule = one_of(
    "train.schedule", SCHEDULES, NEAR_SCHEDULES, "train.schedule is cosine, linear, constant or wsd"
)


def schedule(draft: Draft, name: str, value: Any) -> None:
    """A schedule; transformers' `constant` has no warm-up."""
    if str(value).strip().lower() == "constant":
        draft.set(name, "train.schedule", "constant")
        draft.values["train.warmup"] = 0.0
    else:
        _named_schedule(draft, name, value)


def tracker(draft: Draft, name: str, value: Any) -> None:
    """`report_to`: one tracker here, several there."""
    known = {"wandb", "mlflow", "tensorboard", "trackio", "swanlab", "comet_ml", "clearml", "dvclive", "aim"}
    named = [word.lower() for word in names(value)]
    chosen = [word for word in named if word in known]
    if named in (["none"], ["all"]):
        draft.needless(name, "none, as here")
    elif not chosen:
        draft.leave(name, f"ptune has no tracker {shown(value)}; metrics are in metrics.jsonl of the run")
    else:
        draft.set(name, "train.tracker", chosen[0], "one tracker here" if len(named) > 1 else "")


def precision(draft: Draft, name: str, value: Any) -> None:
    """bf16 and fp16: what autocast computes in there, and the type of frozen weights here."""
    if not is_on(value) and str(value).lower() != "auto":
        draft.needless(name, "off, as here")
    elif name.endswith("fp16"):
        draft.set(
            name, "backbone.dtype", "float16", "the type of the frozen weights; what is trained stays float32"
        )
    else:
        draft.needless(name, "backbone.dtype auto takes bfloat16 where the machine has it")


def checkpointing(draft: Draft, name: str, value: Any) -> None:
    """Gradient checkpointing, in Axolotl with offloading in the same field."""
    draft.set(name, "train.gradient_checkpointing", is_on(value))
    if str(value).lower() in ("offload", "offload_disk"):
        draft.values["train.activation_offloading"] = True


def max_steps(draft: Draft, name: str, value: Any) -> None:
    """-1 means that epochs count."""
    found = number(value)
    if found is not None and found <= 0:
        draft.needless(name, "epochs count, as here")
    else:
        draft.set(name, "train.max_steps", value)


_MACHINERY = "concerns how their processes run, not what is learnt"
_LOGGED = "every step is in metrics.jsonl of the run"
_HUB = "ptune push uploads a run when you say so"
_ATTENTION = "torch's own attention, also over packed rows; nothing to install"
_FAST = "ptune has operations of its own; they change speed, not what is learnt"
_SHARDED = (
    "accelerate launch --config_file recipes/accelerate/fsdp2.yaml -m ptune train RECIPE shards a model"
)

TABLE: Table = {
    "learning_rate": to("train.lr"),
    "num_train_epochs": to("train.epochs"),
    "max_steps": max_steps,
    "weight_decay": to("train.weight_decay"),
    "max_grad_norm": to("train.max_grad_norm"),
    "optim": optimizer,
    "lr_scheduler_type": schedule,
    "adam_epsilon": to("train.eps"),
    "neftune_noise_alpha": count_above_zero("train.neftune_alpha"),
    "label_smoothing_factor": to("task.label_smoothing"),
    "gradient_checkpointing": checkpointing,
    "activation_offloading": switch("train.activation_offloading"),
    "save_total_limit": to("train.keep_checkpoints"),
    "early_stopping_patience": to("train.patience"),
    "report_to": tracker,
    "seed": to("train.seed"),
    "trust_remote_code": switch("backbone.trust_remote_code"),
    "attn_implementation": needless(_ATTENTION),
    "flash_attn": needless(_ATTENTION),
    "auto_find_batch_size": left("ptune plan says beforehand what fits; plan.auto: true applies the cheapest change"),
    "lr_scheduler_kwargs": left("ptune's schedules take warmup and decay alone"),
    "optim_args": left("ptune's optimisers take betas and eps alone: train.betas, train.eps"),
    "optim_target_modules": left("GaLore and its relatives are not here: train.optimizer adamw_8bit or muon takes less memory"),
    "deepspeed": left(f"DeepSpeed steps and clips by itself, which ptune refuses: {_SHARDED}"),
    "fsdp": left(_SHARDED),
    "fsdp_config": left(_SHARDED),
    "resume_from_checkpoint": left("ptune goes on from its own checkpoints: ptune train RECIPE --resume"),
    "group_by_length": needless("rows of nearly the same length are packed together"),
    "train_sampling_strategy": needless("the order follows train.seed"),
    "data_seed": left("one seed for everything: train.seed"),
    "torch_compile.*": needless(_FAST),
    "accelerator_config": needless(_MACHINERY),
    "parallelism_config": left(f"sequences are not split over devices: train.tiled_mlp and checkpointing make long ones fit; {_SHARDED}"),
    "router_aux_loss_coef": left("the balance of experts is not trained"),
    "output_dir": needless("ptune train RECIPE --out FOLDER says where"),
    **fields(needless(_LOGGED), "logging_steps", "logging_strategy", "logging_first_step", "logging_dir",
             "log_level", "include_num_input_tokens_seen", "plot_loss", "logging_nan_inf_filter",
             "log_completions", "num_completions_to_print", "disable_tqdm"),
    **fields(needless(_HUB), "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"),
    **fields(needless(_MACHINERY), "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
             "dataloader_drop_last", "dataloader_persistent_workers", "ddp_timeout", "ddp_find_unused_parameters",
             "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "local_rank", "remove_unused_columns", "do_train", "do_eval",
             "overwrite_output_dir", "save_safetensors", "save_only_model", "dataset_num_proc", "torch_empty_cache_steps",
             "per_device_eval_batch_size", "eval_accumulation_steps", "eval_on_start", "run_name", "project",
             "gradient_checkpointing_kwargs", "low_cpu_mem_usage", "device_map", "prediction_loss_only",
             "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "include_for_metrics",
             "trackio_space_id", "average_tokens_across_devices", "bf16_full_eval", "jit_mode_eval"),
    **fields(needless(_FAST), "torch_compile", "use_liger_kernel", "tf32", "torch_compile_backend", "torch_compile_mode",
             "use_cpu", "dataset_kwargs"),
    **fields(precision, "bf16", "fp16"),
}  # fmt: skip
