"""Small bundles and PEFT folders for tests, made by the real exporter and by peft itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from ptune.backbone.load import Loaded, load
from ptune.config.recipe import Backbone
from ptune.export.weights import ModelWeights
from ptune.export.write import write_bundle
from ptune.formats.bundle import Bundle
from ptune.formats.signature import TURN_GROUP, EndKind
from support.tiny_models import build


def peft_folder(
    base: Path,
    folder: Path,
    *,
    seed: int = 0,
    spread: float = 1.0,
    kind: Any = AutoModelForCausalLM,
    **options: Any,
) -> Path:
    """A LoRA on every linear layer with random, non-zero factors, saved by peft itself. kind: the class that opens the model."""
    torch.manual_seed(seed)
    model = kind.from_pretrained(base, dtype=torch.float32)
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | options
    wrapped = get_peft_model(model, LoraConfig(init_lora_weights=False, **options))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.mul_(spread)
    wrapped.save_pretrained(folder)
    return folder


def with_peft(base: Path, adapter: Path | None) -> torch.nn.Module:
    """What plain transformers and peft make of a base and an adapter."""
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return model if adapter is None else PeftModel.from_pretrained(model, str(adapter)).eval()


def tiny_bundle(
    folder: Path,
    family: str = "llama",
    *,
    ends: Sequence[EndKind] = (),
    turn_group: int = TURN_GROUP,
    **changes: Any,
) -> tuple[Path, Loaded, Bundle]:
    """A model folder and its bundle, without adapters."""
    base = build(folder / "model", family, **changes)
    loaded = load(Backbone(model=str(base)), device="cpu")
    weights = ModelWeights(loaded.model)
    config, codec = loaded.model.config, loaded.codec
    bundle = write_bundle(
        folder / "bundle", config, weights, codec, loaded.identity, ends=ends, turn_group=turn_group
    )
    return base, loaded, bundle
