"""torchtune's YAML: components that are built by name (https://docs.pytorch.org/torchtune)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ptune.errors import UsageError
from ptune.foreign.draft import Draft, is_empty, is_on, names, number, shown
from ptune.foreign.steps import batch, overlong
from ptune.foreign.torchtune_data import read_dataset

NAME = "torchtune"
COMPONENT = "_component_"
MARKS = frozenset({"tokenizer", "checkpointer", "metric_logger", "clip_grad_norm", "max_steps_per_epoch"})
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_LAYERS = {"output_proj": "o_proj"}
_MLP = ("gate_proj", "up_proj", "down_proj")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flat config with ${other.field} written out, as OmegaConf does. What refers to nothing, or to itself, stays."""
    found = dict(config)
    for _ in range(5):
        before = dict(found)
        found = {name: _filled(value, before) for name, value in found.items()}
        if found == before:
            break
    return found


def _filled(value: Any, config: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole is not None:
        return config.get(whole[1], value)
    return _REFERENCE.sub(lambda found: str(config.get(found[1], found[0])), value)[:1000]


def begin(draft: Draft) -> None:
    """Task, method, data and what several fields say together. Raises: UsageError for a config that trains nothing."""
    component = str(draft.get("model._component_", ""))
    if not draft.has("optimizer._component_") and not draft.has("optimizer"):
        raise UsageError(
            f"{draft.file} trains nothing, it has no optimizer: ptune generate, evaluate and export are for a model that is there"
        )
    _task(draft)
    _method(draft, component)
    _model(draft)
    for name, path in (("dataset", "data.files"), ("dataset_val", "data.validation")):
        if draft.has(name):
            read_dataset(draft, name, path, columns=path == "data.files")
    packed = any(isinstance(one, dict) and is_on(one.get("packed")) for one in _listed(draft.get("dataset")))
    if draft.task == "Reinforcement":
        draft.set("batch_size", "train.batch_size", draft.count("batch_size", 1), "prompts of a step")
    else:
        batch(draft, "batch_size", "gradient_accumulation_steps", 2, packed=packed)
    _schedule(draft)
    _steps(draft)
    clip = draft.get("clip_grad_norm")
    if clip is None:
        draft.default("train.max_grad_norm", 0.0, "gradients are not clipped there; 1.0 is ptune's default")
    if draft.task in ("Chat", "Distillation", "Preference"):
        overlong(draft, "cut" if draft.has("tokenizer.max_seq_len") else "kept")
    draft.usual("optimizer.weight_decay", "train.weight_decay", _decay(draft))


def _decay(draft: Draft) -> float:
    """The weight decay of an optimiser that is given none: torch's and bitsandbytes' own."""
    kind = str(draft.get("optimizer._component_", draft.get("optimizer"))).rpartition(".")[2]
    return 0.1 if kind == "Muon" else 0.01 if "AdamW" in kind else 0.0


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _task(draft: Draft) -> None:
    loss = str(draft.get("loss._component_") or draft.get("loss") or "").rpartition(".")[2]
    if "DPO" in loss or "RSO" in loss or "SimPO" in loss:
        draft.task = "Preference"
        draft.set(
            "loss._component_",
            "task.loss",
            "hinge" if "RSO" in loss else "simpo" if "SimPO" in loss else "dpo",
        )
    elif "GRPO" in loss:
        draft.task = "Reinforcement"
        draft.set("loss._component_", "task.loss", "grpo")
        draft.default(
            "task.rewards",
            ["exact"],
            "rewards are functions of the data's builder there: choose some of docs/rewards.md",
        )
        answer = draft.count("max_generated_tokens", 512)
        draft.default("task.max_length", answer + 512, "prompt and answer together here")
    elif "PPO" in loss:
        raise UsageError(
            f"{draft.file}: {shown(loss)} has no counterpart here; of rewards ptune learns by GRPO and RLOO: recipe grpo_lora"
        )
    elif draft.has("kd_ratio"):
        draft.task = "Distillation"
        look = "the teacher's labels are written first: ptune label"
        draft.set("kd_ratio", "task.kd_ratio", draft.get("kd_ratio"), look)


def _method(draft: Draft, component: str) -> None:
    builder = component.rpartition(".")[2]
    if not builder.startswith(("lora_", "qlora_")):
        draft.method = "Full"
        draft.set("model._component_", "method.kind", "Full")
        return
    draft.set("model._component_", "method.kind", "Lora")
    for path, name, value in (("method.r", "lora_rank", 8), ("method.alpha", "lora_alpha", 16.0)):
        if not draft.has(f"model.{name}"):
            draft.default(path, value)
    if builder.startswith("qlora_") or draft.on("model.quantize_base"):
        draft.set("model.quantize_base", "backbone.quantize", "nf4")
    _targets(draft, fused=".phi" in component)


def _targets(draft: Draft, fused: bool) -> None:
    """Layers by the names that transformers has for them. fused: of models whose q, k and v are one layer there."""
    fields = [
        f"model.{name}" for name in ("lora_attn_modules", "apply_lora_to_mlp") if draft.has(f"model.{name}")
    ]
    attention = [_LAYERS.get(name, name) for name in names(draft.get("model.lora_attn_modules", []))]
    wanted = [*attention, *(_MLP if draft.on("model.apply_lora_to_mlp") else ())]
    if set(wanted) == {*_ATTENTION, *_MLP}:
        targets: Any = "all-linear"
    else:
        targets = list(dict.fromkeys(_FUSED.get(name, name) if fused else name for name in wanted))
    if fields and wanted:
        look = (
            "layers that are one in transformers: with q its k and v are adapted, too"
            if fused and targets != "all-linear"
            else ""
        )
        draft.set(" × ".join(fields), "method.target_modules", targets, look)
    if draft.on("model.apply_lora_to_output"):
        draft.set("model.apply_lora_to_output", "method.ends", ["head"])


def _model(draft: Draft) -> None:
    folder = draft.get("checkpointer.checkpoint_dir")
    kind = str(draft.get("checkpointer._component_", ""))
    if is_empty(folder):
        draft.default("backbone.model", "unnamed", "the file names no folder of weights: set backbone.model")
        return
    look = (
        ""
        if "HF" in kind
        else "a folder in transformers' form is needed, which the hub has beside Meta's own"
    )
    draft.set("checkpointer.checkpoint_dir", "backbone.model", str(folder), look)


def _schedule(draft: Draft) -> None:
    kind = str(draft.get("lr_scheduler._component_", "")).rpartition(".")[2]
    if not kind:
        draft.default("train.schedule", "constant")
        draft.default("train.warmup", 0.0)
        return
    if "cosine" in kind:
        draft.set("lr_scheduler._component_", "train.schedule", "cosine")
    else:
        draft.leave(
            "lr_scheduler._component_",
            f"ptune has no {shown(kind)}: train.schedule is cosine, linear, constant or wsd",
        )
    warm, most = number(draft.get("lr_scheduler.num_warmup_steps")), number(draft.get("max_steps_per_epoch"))
    epochs = number(draft.get("epochs", 1))
    if warm == 0:
        draft.set("lr_scheduler.num_warmup_steps", "train.warmup", 0.0)
    elif warm is not None and most is not None and epochs is not None and most * epochs > warm > 0:
        share = round(warm / (most * epochs), 6)
        draft.set(
            "lr_scheduler.num_warmup_steps", "train.warmup", share, "a share of the steps here, not a number"
        )
    elif warm is not None:
        said = "a share of the steps here: set train.warmup to this number / the steps of your training"
        draft.look("lr_scheduler.num_warmup_steps", said)


def _steps(draft: Draft) -> None:
    most, epochs = number(draft.get("max_steps_per_epoch")), number(draft.get("epochs", 1))
    if most is not None and epochs is not None and most * epochs >= 1:
        draft.set(
            "max_steps_per_epoch",
            "train.max_steps",
            int(most * epochs),
            "of the whole training here: theirs × epochs",
        )
