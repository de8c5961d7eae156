"""LLaMA-Factory's fields, and what becomes of each."""

from __future__ import annotations

from typing import Any

from ptune.foreign.draft import Draft, is_on, names, number, shown
from ptune.foreign.rules import Rule, Table, always, fields, left, needless, never, switch, to
from ptune.foreign.training_arguments import TABLE as ARGUMENTS
from ptune.foreign.training_arguments import optimizer, schedule


def _tokens(draft: Draft, name: str, value: Any) -> None:
    before = draft.values.get("backbone.new_tokens", [])
    draft.set(name, "backbone.new_tokens", [*before, *(word for word in names(value) if word not in before)])


def _template(draft: Draft, name: str, value: Any) -> None:
    draft.look(name, "the model's own template is used here; a Jinja file in task.template replaces it")


def _thinking(draft: Draft, name: str, value: Any) -> None:
    if is_on(value):
        draft.needless(name, "what a template does unless told otherwise")
    else:
        draft.set(
            name,
            "task.chat_template_kwargs",
            {"enable_thinking": False},
            "for templates that read enable_thinking",
        )


def _pissa(draft: Draft, name: str, value: Any) -> None:
    if is_on(value):
        draft.set(name, "method.init", "pissa")
    else:
        draft.needless(name, "off, as here")


def _offloaded(draft: Draft, name: str, value: Any) -> None:
    if is_on(value):
        draft.set(name, "train.activation_offloading", True)
        draft.values["train.gradient_checkpointing"] = True
    else:
        draft.needless(name, "off, as here")


def _muon(draft: Draft, name: str, value: Any) -> None:
    if is_on(value):
        draft.set(name, "train.optimizer", "muon", "trains matrices alone")
    else:
        draft.needless(name, "off, as here")


def _rounded(draft: Draft, name: str, value: Any) -> None:
    if is_on(value):
        draft.set(name, "backbone.dtype", "bfloat16", "the frozen weights; trained ones stay float32")
    else:
        draft.needless(name, "off, as here")


def _unchecked(draft: Draft, name: str, value: Any) -> None:
    draft.set(name, "train.gradient_checkpointing", not is_on(value))


def _loss_of_sft(draft: Draft, name: str, value: Any) -> None:
    draft.set(name, "task.sft_weight", value, "per token of the better answer here")


def _weights(draft: Draft, name: str, value: Any) -> None:
    draft.set(name, "data.weights", names(value))


def _last_layers(draft: Draft, name: str, value: Any) -> None:
    found = number(value)
    if found is not None and found < 0:
        draft.leave(name, "the last blocks are trained here, not the first: method.layers")
    else:
        draft.set(name, "method.layers", value)


def _quantised(draft: Draft, name: str, value: Any) -> None:
    if str(value).lower() in ("bnb", "bitsandbytes", "nf4", "auto", "true"):
        draft.needless(name, "bitsandbytes' nf4 with double quantisation, as here")
    else:
        draft.leave(name, f"ptune does not quantise by {shown(value)}: backbone.quantize is nf4 or int8")


_IMAGES = "images, videos and sound in conversations are not taken over"
_MACHINERY = "concerns how their processes run, not what is learnt"
_FAST = "ptune has operations of its own; they change speed, not what is learnt"
_GENERATES = "concerns answers, not training: ptune evaluate and ptune serve"
_LESS_MEMORY = "not here: LoRA, or train.optimizer adamw_8bit or muon, takes less memory"
_LOSS = "this loss is not here: the loss of a target is its cross-entropy"
_SHARDED = (
    "accelerate launch --config_file recipes/accelerate/fsdp2.yaml -m ptune train RECIPE shards a model"
)
_MEGATRON = f"Megatron is not launched here: {_SHARDED}"
_KT = "layers in main memory: backbone.stream reads them as they run"


def _of(rule: Rule, prefix: str, *of: str) -> dict[str, Rule]:
    return {f"{prefix}{name}": rule for name in of}


TABLE: Table = {
    **ARGUMENTS,
    "model_name_or_path": to("backbone.model"),
    "model": to("backbone.model"),
    "model_revision": to("backbone.revision"),
    "cutoff_len": to("task.max_length"),
    "max_samples": to("data.limit", "of all files together here, of each file there"),
    "template": _template,
    "default_system": to("task.system"),
    "enable_thinking": _thinking,
    "mask_history": lambda draft, name, value: (
        draft.set(name, "task.train_on", "last") if is_on(value) else draft.needless(name, "off, as here")
    ),
    "train_on_prompt": never("only answers are learnt here; raw text (a column text) is learnt whole"),
    "packing": always("packing is always on here; rows do not see each other, so the result is the same"),
    "neat_packing": always("packing is always on here; rows do not see each other"),
    "batching_strategy": needless("examples are packed, and nothing is padded"),
    "interleave_probs": _weights,
    "mix_strategy": needless("data.weights mixes files; without it all are read"),
    "lora_rank": to("method.r"),
    "lora_alpha": to("method.alpha"),
    "lora_dropout": to("method.dropout"),
    "use_rslora": switch("method.rslora"),
    "use_dora": switch("method.dora"),
    "pissa_init": _pissa,
    "pissa_iter": needless("the exact decomposition is computed here"),
    "pissa_convert": needless("the base stays as it is, so nothing is converted"),
    "loraplus_lr_ratio": to("train.lora_plus_ratio"),
    "additional_target": left("whole layers beside LoRA are not trained; method.ends: [head, embedding] gives them factors"),
    "freeze_trainable_layers": _last_layers,
    "freeze_trainable_modules": left("whole blocks are trained: method.layers"),
    "freeze_extra_modules": left("whole blocks are trained: method.layers"),
    "use_llama_pro": left("blocks are not added to a model; FreezeExceptLast trains its last ones"),
    "oft_block_size": to("method.oft_block_size"),
    "oft_rank": left("method.oft_block_size sets the size of the blocks"),
    "module_dropout": to("method.module_dropout"),
    "quantization_method": _quantised,
    "quantization_type": _quantised,
    "double_quantization": needless("nf4 is packed with double quantisation"),
    "quant_config.name": _quantised,
    "add_tokens": _tokens,
    "add_special_tokens": _tokens,
    "new_special_tokens_config": left("new tokens begin as the mean of all others: backbone.new_tokens"),
    "init_special_tokens": left("new tokens begin as the mean of all others"),
    "resize_vocab": needless("backbone.new_tokens makes room for what it adds"),
    "pref_beta": to("task.beta"),
    "pref_ftx": _loss_of_sft,
    "simpo_gamma": to("task.margin"),
    "dpo_label_smoothing": to("task.label_smoothing"),
    "kto_chosen_weight": to("task.desirable_weight"),
    "kto_rejected_weight": to("task.undesirable_weight"),
    "pref_bco_weight": left("BCO is not here"),
    "ld_alpha": left("LD-DPO is not here"),
    "ref_model": left("the reference is the model before training"),
    "reward_model": left("Reinforcement asks it by reward_model:FOLDER among task.rewards"),
    "disable_gradient_checkpointing": _unchecked,
    "enable_activation_checkpointing": to("train.gradient_checkpointing"),
    "use_unsloth_gc": _offloaded,
    "use_muon": _muon,
    "optim_config.name": optimizer,
    "lr_scheduler_config.name": schedule,
    "peft_config.r": to("method.r"),
    "peft_config.lora_alpha": to("method.alpha"),
    "peft_config.lora_dropout": to("method.dropout"),
    "peft_config.freeze_trainable_layers": _last_layers,
    "peft_config.freeze_trainable_modules": left("whole blocks are trained: method.layers"),
    "peft_config.export_dir": needless("ptune merge writes the merged model"),
    "peft_config.export_size": needless("ptune merge writes the merged model"),
    "early_stopping_steps": to("train.patience"),
    "adapter_name_or_path": left("a run begins with a new adapter; ptune add serves one that was trained elsewhere"),
    "rope_scaling": left("backbone.context sets the length of models whose rotary embedding depends on it"),
    "mixture_of_depths": left("depths are not mixed here"),
    "train_from_scratch": left("training starts from the model's weights"),
    "tokenized_path": needless("tokens of large data are kept by themselves"),
    "flash_attn": needless("torch's own attention, also over packed rows; nothing to install"),
    "moe_aux_loss_coef": left("the balance of experts is not trained"),
    "media_dir": left(_IMAGES),
    "fp8": left("training in 8-bit floats is not here: backbone.dtype"),
    "dist_config": left(_SHARDED),
    "dataset_dir": needless("where its data sets are registered"),
    "save_epochs": left("train.save_every is a number of steps; unset, four times an epoch"),
    "peft_config.*": left("this field of an adapter is not here"),
    "optim_config.*": left("ptune's optimisers take betas and eps alone: train.betas, train.eps"),
    "lr_scheduler_config.*": left("ptune's schedules take warmup and decay alone"),
    "quant_config.*": left("this field of quantisation is not here: backbone.quantize"),
    "pure_bf16": _rounded,
    **fields(left(_LOSS), "use_dft_loss", "use_asft_loss", "asft_alpha", "use_eaft_loss", "eaft_alpha"),
    **fields(left(_LESS_MEMORY), "use_galore", "use_apollo", "use_badam", "use_adam_mini"),
    **_of(needless("a part of GaLore, which is not here"), "galore_", "target", "rank", "update_interval", "scale", "proj_type",
          "layerwise"),
    **_of(needless("a part of APOLLO, which is not here"), "apollo_", "target", "rank", "update_interval", "scale", "proj",
          "proj_type", "scale_type", "layerwise", "scale_front"),
    **_of(needless("a part of BAdam, which is not here"), "badam_", "mode", "start_block", "switch_mode", "switch_interval",
          "update_ratio", "mask_mode", "verbose"),
    **_of(needless(_GENERATES), "", "predict_with_generate", "do_predict", "sample_backend", "max_new_tokens", "infer_backend",
          "infer_dtype", "temperature", "top_p", "top_k", "num_beams", "compute_accuracy"),
    **fields(left(_IMAGES), "image_max_pixels", "image_min_pixels", "video_max_pixels", "video_min_pixels", "video_fps",
             "video_maxlen", "freeze_vision_tower", "freeze_multi_modal_projector", "freeze_language_model",
             "audio_sampling_rate", "use_audio_in_video", "crop_to_patches"),
    **fields(left(_MEGATRON), "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size",
             "sequence_parallel", "use_megatron_bridge", "context_parallel_size", "cp_size", "cp_mode", "use_mca"),
    **fields(needless("a part of Megatron's, which is not launched here"), "use_distributed_optimizer", "overlap_param_gather",
             "overlap_grad_reduce", "bias_activation_fusion", "apply_rope_fusion", "moe_grouped_gemm", "export_hf_on_finish",
             "moe_token_dispatcher_type", "recompute_granularity", "mixed_precision", "use_packed_sequences"),
    **fields(left(_KT), "use_kt", "kt_config", "kt_weight_path", "kt_non_expert_weight_path", "kt_cpu_activation"),
    **fields(needless(_MACHINERY), "preprocessing_num_workers", "preprocessing_batch_size", "overwrite_cache", "plot_loss",
             "data_shared_file_system", "use_fast_tokenizer", "use_reentrant_gc", "ray_num_workers", "ray_run_name",
             "ray_storage_path", "placement_strategy", "resources_per_worker", "cache_dir", "model_class", "init_config",
             "fsdp_transformer_layer_cls_to_wrap", "fp8_backend", "fp8_enable_fsdp_float8_all_gather", "batching_workers",
             "save_ckpt_as_hf", "dist_timeout", "upcast_layernorm", "print_param_status", "use_swanlab", "swanlab_project",
             "include_effective_tokens_per_second", "buffer_size", "streaming", "split_special_tokens", "ddp_backend"),
    **fields(needless(_FAST), "kernel_config", "enable_liger_kernel", "use_unsloth", "use_v1_kernels", "shift_attn"),
}  # fmt: skip
