"""Axolotl's fields, and what becomes of each."""

from __future__ import annotations

from typing import Any

from ptune.foreign.draft import Draft, is_on, names, number, shown
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
    switch,
    to,
    to_names,
)
from ptune.foreign.training_arguments import TABLE as ARGUMENTS
from ptune.foreign.training_arguments import optimizer, schedule

_LOSSES = {"sigmoid": "dpo", "ipo": "ipo", "hinge": "hinge", "robust": "robust", "apo_zero": "apo_zero"}


def _loss_type(draft: Draft, name: str, value: Any) -> None:
    """A list of losses there, of which one can be taken."""
    said = names(value)
    if len(said) == 1 and said[0] in _LOSSES:
        draft.set(name, "task.loss", _LOSSES[said[0]])
    else:
        draft.leave(
            name,
            f"one loss here, of {', '.join(_LOSSES.values())}; task.sft_weight adds the better answer's own",
        )


def _template(draft: Draft, name: str, value: Any) -> None:
    if value in ("tokenizer_default", "jinja"):
        draft.needless(name, "the model's own template, as here")
    else:
        draft.look(name, "the model's own template is used here; a Jinja file in task.template replaces it")


def _jinja(draft: Draft, name: str, value: Any) -> None:
    if isinstance(value, str) and "\n" not in value and value.endswith((".jinja", ".jinja2", ".j2")):
        draft.set(name, "task.template", value)
    else:
        draft.leave(name, "write it into a file, and name that in task.template")


def _tokens(draft: Draft, name: str, value: Any) -> None:
    if isinstance(value, list):
        draft.set(name, "backbone.new_tokens", [str(token) for token in value])
    else:
        draft.leave(name, "special tokens are the tokenizer's own; backbone.new_tokens adds others")


def _special(draft: Draft, name: str, value: Any) -> None:
    others = (
        [token for token in value if token not in ("pad_token", "unk_token")]
        if isinstance(value, dict)
        else [value]
    )
    if others:
        draft.look(
            name,
            "special tokens are the tokenizer's own; what ends an answer is what the chat template ends it with",
        )
    else:
        draft.needless(name, "nothing is padded")


def _plugins(draft: Draft, name: str, value: Any) -> None:
    faster = ("liger", "cut_cross_entropy", "kernels")
    others = [word for word in names(value) if not any(part in word for part in faster)]
    if others:
        draft.leave(name, f"ptune has no {shown(', '.join(word.rpartition('.')[2] for word in others))}")
    else:
        draft.needless(name, "faster kernels; ptune has operations of its own")


def _lora_init(draft: Draft, name: str, value: Any) -> None:
    known = {"gaussian", "pissa", "olora", "eva", "corda", "loftq"}
    said = str(value).lower()
    if said in ("true", "default"):
        draft.needless(name, "the default, as here")
    elif said in known or said.startswith("pissa"):
        draft.set(name, "method.init", said.partition("_")[0])
    else:
        draft.leave(name, f"ptune has no {shown(value)}: method.init is one of {', '.join(sorted(known))}")


def _alpha_of_orpo(draft: Draft, name: str, value: Any) -> None:
    draft.set(name, "task.beta", value)


def _ratio_of_min(draft: Draft, name: str, value: Any) -> None:
    if number(value) == 0:
        draft.needless(name, "cosine ends at 0, as here")
    else:
        draft.leave(name, "ptune's cosine ends at 0; train.schedule wsd stays at the peak and then goes down")


def _unfrozen(draft: Draft, name: str, value: Any) -> None:
    if draft.method == "Lora":
        draft.needless(name, "with an adapter, what it names stays frozen")
    else:
        draft.leave(
            name,
            "all weights are trained here; method FreezeExceptLast trains the last blocks, by their number",
        )


_FAST = "faster kernels; ptune has operations of its own"
_IMAGES = "the model's own processor prepares images, and its vision tower stays frozen: docs/images-in-chats.md says of which models"
_STORED = "a checkpoint that is quantised already is read as it is stored: docs/checkpoints.md"
_WATCH = "spikes are cut and collapses rolled back: train.spike_protection, train.rollbacks"
_SHARDED = (
    "accelerate launch --config_file recipes/accelerate/fsdp2.yaml -m ptune train RECIPE shards a model"
)
_PARTS = "a model is not split over devices here"
_EXPERTS = "how the experts of a mixture are computed; ptune uses the model's own"
_TRACKED = "set by the tracker's own environment variables; train.tracker chooses it"

TABLE: Table = {
    **ARGUMENTS,
    **REWARDED("trl."),
    "base_model": to("backbone.model"),
    "revision_of_model": to("backbone.revision"),
    "sequence_len": to("task.max_length"),
    "num_epochs": to("train.epochs"),
    "optimizer": optimizer,
    "lr_scheduler": schedule,
    "lora_r": to("method.r"),
    "lora_alpha": to("method.alpha"),
    "lora_dropout": to("method.dropout"),
    "peft_use_rslora": switch("method.rslora"),
    "peft_use_dora": switch("method.dora"),
    "peft_init_lora_weights": _lora_init,
    "peft_layers_to_transform": to("method.layers_to_transform"),
    "lora_rank_pattern": to("method.rank_pattern"),
    "lora_alpha_pattern": to("method.alpha_pattern"),
    "lora_target_parameters": to_names("method.target_parameters"),
    "loraplus_lr_ratio": to("train.lora_plus_ratio"),
    "lora_modules_to_save": left("whole layers beside LoRA are not trained; method.ends: [head, embedding] gives them factors"),
    "lora_model_dir": left("a run begins with a new adapter; ptune add serves one that was trained elsewhere"),
    "load_in_4bit": never("without an adapter the weights are trained, which quantised ones cannot be"),
    "load_in_8bit": never("without an adapter the weights are trained, which quantised ones cannot be"),
    "rl_beta": to("task.beta"),
    "dpo_beta": to("task.beta"),
    "orpo_alpha": _alpha_of_orpo,
    "simpo_gamma": to("task.margin"),
    "cpo_alpha": to("task.sft_weight"),
    "rpo_alpha": to("task.sft_weight"),
    "dpo_label_smoothing": to("task.label_smoothing"),
    "dpo_loss_type": _loss_type,
    "dpo_loss_weights": left("one loss here; task.sft_weight adds the better answer's own"),
    "kto_desirable_weight": to("task.desirable_weight"),
    "kto_undesirable_weight": to("task.undesirable_weight"),
    "center_rewards_coefficient": to("task.center_rewards_coefficient"),
    "precompute_ref_log_probs": needless("always so here: the reference is the model with its adapter off"),
    "default_system_message": to("task.system"),
    "chat_template": _template,
    "chat_template_jinja": _jinja,
    "chat_template_kwargs": to("task.chat_template_kwargs"),
    "train_on_inputs": never("only answers are learnt here; raw text (a column text) is learnt whole"),
    "tokens": _tokens,
    "special_tokens": _special,
    "eot_tokens": looked_at("what ends an answer is what the chat template ends it with"),
    "tiled_mlp": looked_at("train.tiled_mlp is a number of positions, such as 1024"),
    "sample_packing": always("packing is always on here; rows do not see each other, so the result is the same"),
    "eval_sample_packing": needless("packing is always on here; rows do not see each other"),
    "unfrozen_parameters": _unfrozen,
    "plugins": _plugins,
    "cosine_min_lr_ratio": _ratio_of_min,
    "use_tensorboard": lambda draft, name, value: (
        draft.set(name, "train.tracker", "tensorboard") if is_on(value) else draft.needless(name, "off, as here")
    ),
    "use_wandb": lambda draft, name, value: (
        draft.set(name, "train.tracker", "wandb") if is_on(value) else draft.needless(name, "off, as here")
    ),
    "use_swanlab": lambda draft, name, value: (
        draft.set(name, "train.tracker", "swanlab") if is_on(value) else draft.needless(name, "off, as here")
    ),
    "adam_eps": to("train.eps"),
    "float16": one_of("backbone.dtype", {"true": "float16"}, {}, "backbone.dtype is auto unless set"),
    "float32": one_of("backbone.dtype", {"true": "float32"}, {}, "backbone.dtype is auto unless set"),
    "torch_dtype": needless("backbone.dtype auto takes bfloat16 where the machine has it"),
    "eta_min": left("ptune's schedules end at 0"),
    "fp8": left("training in 8-bit floats is not here: backbone.dtype"),
    "llmcompressor": left("sparse models are not here"),
    "use_onebitllms": left("training of 1-bit weights is not here"),
    "model_quantization_config_kwargs": looked_at(_STORED),
    "nvfp4_merge_aware": left("method.merge_into int4 trains LoRA that int4 holds"),
    "vllm": needless("the engine that serves samples the answers"),
    "vllm.*": needless("the engine that serves samples the answers"),
    "eaft_alpha": left("this loss is not here: the loss of a target is its cross-entropy"),
    "eaft_k": left("this loss is not here: the loss of a target is its cross-entropy"),
    "model_type": needless("read from the model's config.json"),
    "tokenizer_config": left("the tokenizer is the model's own"),
    "auto_resume_from_checkpoints": left("ptune train RECIPE --resume goes on from the newest checkpoint"),
    "qat": left("quantisation-aware training is not here; method.merge_into int4 trains LoRA that int4 holds"),
    "quantization": left("quantisation for serving is chosen when a run is exported: ptune export --profiles"),
    "quantize_moe_experts": left("backbone.quantize holds the layers that ptune knows in fewer bits: ptune plan RECIPE says what that comes to"),
    "relora": left("ReLoRA is not here; a higher method.r, or method Full, is what comes near"),
    "gptq": needless(_STORED),
    "model_quantization_config": looked_at(_STORED),
    "process_reward_model": left("rewards of steps are not read; task ProcessReward learns them, but must be written by hand"),
    "num_labels": left("TextClassification has as many labels as its files hold"),
    "curriculum_sampling": left("the order follows train.seed"),
    "min_sample_len": needless("an example without a target is left out and counted"),
    "dataset_exact_deduplication": needless("ptune doctor reports what stands twice"),
    "shuffle_merged_datasets": needless("the order follows train.seed"),
    "streaming": needless("files are read row by row, and tokens from disk"),
    "layer_offloading": left("backbone.stream: true reads layers as they run"),
    "freeze_mm_modules": needless(_IMAGES),
    "processor_type": looked_at(_IMAGES),
    "image_size": looked_at(_IMAGES),
    "bnb_config_kwargs": left("nf4 with double quantisation in blocks of 64, as ptune packs it"),
    "peft": left("LoftQ is method.init: loftq"),
    "model_config": left("a model's config.json is taken as it is"),
    "reinit_weights": left("training starts from the model's weights"),
    "use_eaft": left("this loss is not here: the loss of a target is its cross-entropy"),
    "lr_quadratic_warmup": left("warm-up is a straight line here"),
    "cosine_constant_lr_ratio": left("train.schedule wsd stays at the peak before it goes down"),
    "lora_fan_in_fan_out": needless("peft finds it out"),
    "noisy_embedding_alpha": to("train.neftune_alpha"),
    "neftune_noise_alpha": to("train.neftune_alpha"),
    "wandb_mode": needless(_TRACKED),
    "liger.*": needless(_FAST),
    **fields(left("rates for parts of a model: train.head_lr and train.lora_plus_ratio alone"), "lr_groups", "embedding_lr",
             "embedding_lr_scale", "loraplus_lr_embedding"),
    **fields(left("GaLore, LISA and their relatives are not here: LoRA, or train.optimizer adamw_8bit, takes less memory"),
             "lisa_n_layers", "lisa_step_interval", "lisa_layers_attribute"),
    **fields(left("parts of a ReLoRA, which is not here"), "relora_prune_ratio", "relora_cpu_offload", "jagged_restart_steps",
             "jagged_restart_warmup_steps", "jagged_restart_anneal_steps"),
    **fields(left(_PARTS), "tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree", "expert_parallel_size",
        "expert_parallel_num_nvl_bytes",
        "expert_parallel_token_capacity",
        "fp8_enable_fsdp_float8_all_gather",
             "dp_shard_size", "dp_replicate_size"),
    **fields(needless(_WATCH), "loss_watchdog_threshold", "loss_watchdog_patience"),
    **fields(needless(_EXPERTS), "experts_implementation", "use_scattermoe", "use_sonicmoe", "llama4_linearized_experts"),
    **fields(needless(_TRACKED), "wandb_project", "wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model", "wandb_run_id",
             "trackio_project_name", "trackio_run_name", "trackio_space_id", "mlflow_experiment_name", "mlflow_tracking_uri",
             "swanlab_project", "swanlab_experiment_name", "swanlab_mode", "swanlab_description", "swanlab_workspace",
        "swanlab_log_completions",
        "swanlab_completion_log_interval",
        "swanlab_completion_max_buffer",
        "swanlab_log_model"),
    **fields(needless(_FAST), "liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm", "liger_rms_norm_gated",
             "liger_fused_linear_cross_entropy", "liger_cross_entropy", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel",
             "lora_embedding_kernel", "use_kernels",
        "use_dsv4_kernels",
        "use_glm_dsa_kernels",
        "dsv4_fp4_grouped_mode", "cut_cross_entropy", "flash_attn_cross_entropy", "flash_attn_fuse_mlp",
             "flash_attn_rms_norm", "flash_attn_fuse_qkv", "chunked_cross_entropy", "flash_attention", "sdp_attention",
             "flex_attention", "xformers_attention", "eager_attention", "flash_optimum", "flex_attn_compile_kwargs",
             "fused_attn_kernel", "gemma4_hybrid_attn_impl", "torch_compile", "tf32"),
    **fields(needless("concerns how their data is prepared; ptune keeps tokens of large data by itself"), "dataset_prepared_path",
             "dataset_processes", "push_dataset_to_hub", "skip_prepare_dataset", "pad_to_sequence_len", "max_packed_sequence_len",
             "dataset_keep_in_memory", "streaming_multipack_buffer_size", "pretrain_multipack_buffer_size", "eval_batch_size",
             "sample_packing_seq_len_multiplier", "sample_packing_eff_est", "total_num_tokens", "sample_packing_sequentially",
             "pretrain_multipack_attn", "multipack_real_batches", "sample_packing_group_size", "sample_packing_bin_size"),
    **fields(needless("the tokenizer is the model's own"), "tokenizer_type", "tokenizer_use_fast", "tokenizer_legacy",
             "tokenizer_use_mistral_common", "resize_token_embeddings_to_32x", "is_llama_derived_model", "is_mistral_derived_model",
             "is_falcon_derived_model", "shrink_embeddings"),
    **fields(needless("concerns how their processes run, not what is learnt"), "fsdp_version", "strict", "debug", "ddp",
             "gc_steps", "torchdistx_path", "hf_use_auth_token", "gptq_model_v1", "gptq_groupsize", "gptq_disable_exllama",
             "experimental_skip_move_to_device", "base_model_ignore_patterns", "cls_model_config", "base_model_config",
             "use_ray", "ray_num_workers", "use_otel_metrics", "otel_metrics_host", "otel_metrics_port", "bfloat16",
             "eval_table_size", "eval_max_new_tokens", "do_causal_lm_eval", "eval_causal_lm_metrics", "special_tokens_map",
             "qlora_sharded_model_loading", "full_finetune", "embeddings_skip_upcast", "save_first_step"),
}  # fmt: skip
