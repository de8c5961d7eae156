"""torchtune's fields, and what becomes of each."""

from __future__ import annotations

from typing import Any

from ptune.foreign.draft import Draft, is_on, shown
from ptune.foreign.grpo import updates
from ptune.foreign.rules import Rule, Table, fields, left, needless, never, to

_OPTIMIZERS = {
    "torch.optim.AdamW": "adamw", "bitsandbytes.optim.AdamW": "adamw", "bitsandbytes.optim.AdamW8bit": "adamw_8bit",
    "bitsandbytes.optim.PagedAdamW": "paged_adamw", "bitsandbytes.optim.PagedAdamW32bit": "paged_adamw",
    "bitsandbytes.optim.PagedAdamW8bit": "paged_adamw_8bit", "bitsandbytes.optim.Lion": "lion",
    "bitsandbytes.optim.Lion8bit": "lion_8bit", "torch.optim.Adafactor": "adafactor", "torch.optim.Muon": "muon",
}  # fmt: skip


def _optimizer(draft: Draft, name: str, value: Any) -> None:
    if str(value) in _OPTIMIZERS:
        draft.set(name, "train.optimizer", _OPTIMIZERS[str(value)])
    else:
        draft.leave(
            name, f"ptune has no {shown(value)}: train.optimizer is one of docs/training.md#optimisers"
        )


def _tracker(draft: Draft, name: str, value: Any) -> None:
    known = {"WandBLogger": "wandb", "TensorBoardLogger": "tensorboard", "CometLogger": "comet_ml"}
    kind = str(value).rpartition(".")[2]
    if kind in known:
        draft.set(name, "train.tracker", known[kind])
    else:
        draft.needless(name, "every step is in metrics.jsonl of the run")


def _loss(draft: Draft, name: str, value: Any) -> None:
    draft.needless(name, "cross-entropy in chunks of targets, as here")


def _clip(draft: Draft, name: str, value: Any) -> None:
    if updates(draft, "ppo_epochs") > 1:
        draft.set(name, "task.clip", value)
    else:
        draft.needless(name, "with one update for each batch of answers there is no ratio to clip")


def _profiler(draft: Draft, name: str, value: Any) -> None:
    if is_on(value):
        draft.leave(name, "no profile is written")
    else:
        draft.needless(name, "off, as here")


def _system(draft: Draft, name: str, value: Any) -> None:
    draft.leave(name, "the model's own chat template writes the rows: task.template, task.system")


def _no_image_size(draft: Draft, name: str, value: Any) -> None:
    draft.look(
        name, "the model's own processor prepares images: docs/images-in-chats.md says of which models"
    )


_SHARDED = (
    "accelerate launch --config_file recipes/accelerate/fsdp2.yaml -m ptune train RECIPE shards a model"
)
_SAVED = "an adapter is saved alone, a whole model as a folder of transformers"
_ROLLOUT = "the engine that serves samples the answers, by itself"


def _under(rule: Rule, section: str, *of: str) -> dict[str, Rule]:
    return {f"{section}.{name}": rule for name in of}


TABLE: Table = {
    "optimizer._component_": _optimizer,
    "optimizer": _optimizer,
    "optimizer.lr": to("train.lr"),
    "optimizer.weight_decay": to("train.weight_decay"),
    "optimizer.betas": to("train.betas"),
    "optimizer.eps": to("train.eps"),
    "optimizer.fused": needless("changes speed, not what is learnt"),
    "epochs": to("train.epochs"),
    "clip_grad_norm": to("train.max_grad_norm"),
    "seed": to("train.seed"),
    "shuffle": needless("the order follows train.seed"),
    "enable_activation_checkpointing": to("train.gradient_checkpointing"),
    "enable_activation_offloading": to("train.activation_offloading"),
    "run_val_every_n_steps": to("train.validate_every"),
    "save_every_n_steps": to("train.save_every"),
    "keep_last_n_checkpoints": to("train.keep_checkpoints"),
    "tokenizer.max_seq_len": to("task.max_length"),
    "tokenizer.prompt_template": _system,
    "tokenizer.*": needless("the tokenizer is the model's own"),
    "model.lora_rank": to("method.r"),
    "model.lora_alpha": to("method.alpha"),
    "model.lora_dropout": to("method.dropout"),
    "model.use_dora": to("method.dora"),
    "model.apply_lora_to_output": never("see method.ends"),
    "model.apply_lora_to_mlp": needless("stands in method.target_modules"),
    "model.quantize_base": needless("off, as here"),
    **_under(left("LoRA trains the decoder of a model that sees images: docs/images-in-chats.md"), "model",
             "encoder_trainable", "fusion_trainable", "decoder_trainable"),
    "model.image_size": _no_image_size,
    "model.*": left("a model's shape is its config.json's; this field is not a recipe's"),
    "loss._component_": _loss,
    "loss": _loss,
    "loss.beta": to("task.beta"),
    "loss.label_smoothing": to("task.label_smoothing"),
    "loss.kl_coeff": to("task.kl"),
    "loss.epsilon": _clip,
    "loss.*": needless("concerns how the loss is computed; here in chunks of targets"),
    "grpo_samples": to("task.group_size"),
    "max_generated_tokens": to("task.answer_tokens"),
    "metric_logger._component_": _tracker,
    "metric_logger.*": needless("every step is in metrics.jsonl of the run"),
    "dtype": needless("backbone.dtype auto takes bfloat16 where the machine has it"),
    "profiler.enabled": _profiler,
    "profiler.*": needless("no profile is written"),
    "checkpointer.*": needless(f"the folder is enough; {_SAVED}"),
    "ref_checkpointer.*": needless("the reference is the model before training"),
    "ref_policy_checkpointer.*": needless("the reference is the model before training"),
    "teacher_checkpointer.checkpoint_dir": left("the teacher is a bundle: ptune export MODEL, then ptune label"),
    "teacher_checkpointer.*": needless("the teacher is a bundle: ptune label"),
    "teacher_model.*": needless("the teacher is a bundle: ptune label"),
    "kd_loss.*": needless("forward KL, as here"),
    "quantizer.*": left("quantisation-aware training is not here; method.merge_into int4 trains LoRA that int4 holds"),
    "output_dir": needless("ptune train RECIPE --out FOLDER says where"),
    "resume_from_checkpoint": left("ptune goes on from its own checkpoints: ptune train RECIPE --resume"),
    "custom_sharded_layers": left(_SHARDED),
    "fsdp.*": left(_SHARDED),
    "enable_kv_cache": needless(_ROLLOUT),
    "fsdp_cpu_offload": left(_SHARDED),
    "tensor_parallel_dim": left("a model is not split over devices here"),
    "tensor_parallel_plan.*": left("a model is not split over devices here"),
    "data_parallel_shard_dim": left(_SHARDED),
    "data_parallel_replicate_dim": left(_SHARDED),
    "optimizer_in_bwd": needless("gradients are kept for the whole step; train.optimizer adamw_8bit takes less memory"),
    "collate_fn": needless("examples are packed"),
    "datasets": left("data sets that are mixed by weights: name their files in data.files, data.weights"),
    "lr_scheduler.*": left("ptune's schedules take warmup and decay alone"),
    "dataset_val.*": needless("stands in data.validation"),
    "batch_size_val": needless("a pass is counted in tokens: train.micro_batch_tokens"),
    "save_adapter_weights_only": needless(_SAVED),
    "name": needless("the recipe has the file's name"),
    "base_model_path": needless("stands in backbone.model"),
    "reward_functions": left("choose some of docs/rewards.md, or write a function in TRL's signature: task.rewards"),
    "temperature": needless("answers are drawn as likely as the model thinks them"),
    "top_k": needless("answers are drawn as likely as the model thinks them"),
    "num_steps": to("train.max_steps"),
    "dataloader.*": needless("concerns how their processes run, not what is learnt"),
    "ac_mode": needless("train.gradient_checkpointing"),
    "ac_option": left("all layers are recomputed, or none: train.gradient_checkpointing"),
    "parallelize_plan.*": left("a model is not split over devices here"),
    **fields(needless(_ROLLOUT), "forward_batch_size", "stop_token_ids", "orchestration.*", "inference.*", "postprocessing.*"),
    "ppo_epochs": to("task.updates"),
    **fields(needless("changes speed or what is logged, not what is learnt"), "compile", "log_every_n_steps", "log_level",
             "log_peak_memory_stats", "device", "enable_async_checkpointing", "debug_logging_enabled", "memory_efficient_fsdp_wrap",
             "save_every_n_epochs", "low_cpu_ram", "use_flex", "use_distributed_state_dict", "debug_num_samples_per_step",
             "cudnn_deterministic_mode", "dist_backend", "optimizer.foreach"),
    "training.*": left("a training of several processes is launched by accelerate"),
}  # fmt: skip
