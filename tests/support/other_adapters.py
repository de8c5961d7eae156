"""Adapters of PEFT types other than LoRA, made and saved by peft itself, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import PreTrainedModel

EXACT: Mapping[str, dict[str, Any]] = {
    "adalora": {"init_r": 6, "target_r": 3, "total_step": 10, "lora_alpha": 12},
    "delora": {"r": 3, "delora_lambda": 9},
    "gralora": {"r": 4, "gralora_k": 2, "alpha": 8},
    "gralora_hybrid": {"r": 4, "gralora_k": 4, "hybrid_r": 2, "alpha": 5},
    "loha": {"r": 3, "alpha": 5},
    "miss": {"r": 6},
    "miss_mini": {"r": 4, "init_weights": "mini", "mini_r": 8},
    "pvera": {"r": 5},
    "vblora": {"r": 3, "num_vectors": 20, "vector_length": 16},
    "vblora_topk": {
        "r": 3,
        "num_vectors": 20,
        "vector_length": 16,
        "topk": 3,
        "save_only_topk_weights": True,
    },
    "vera": {"r": 7},
    "vera_wide": {"r": 50},
}
"""Exact as a pair, from the file alone. The part of a name before "_" is the peft_type."""

WITH_BASE: Mapping[str, dict[str, Any]] = {
    "deft": {"r": 3},
    "deft_para": {"r": 3, "para": True},
    "deft_qr": {"r": 3, "decomposition_method": "qr", "alpha": 5},
    "hra": {"r": 4},
    "hra_gs": {"r": 4, "apply_GS": True},
    "lora_olora": {"r": 3, "lora_alpha": 7, "init_lora_weights": "olora"},
    "lora_pissa": {"r": 4, "lora_alpha": 7, "init_lora_weights": "pissa", "rank_pattern": {"v_proj": 5}},
}
"""Exact with the base's weights."""

CUT: Mapping[str, dict[str, Any]] = {
    "boft": {"boft_block_size": 8},
    "c3a": {"block_size": 16},
    "hira": {"r": 3},
    "lokr": {"r": 2, "alpha": 3},
    "lokr_both": {"r": 2, "alpha": 3, "decompose_both": True, "decompose_factor": 4},
    "oft": {"oft_block_size": 8, "r": 0},
    "oft_cayley": {"oft_block_size": 16, "r": 0, "use_cayley_neumann": False, "block_share": True},
    "randlora": {"r": 4, "randlora_alpha": 20},
    "shira": {"r": 2},
}
"""Without an exact pair of a lower rank than the layer's own, but of lokr and lokr_both."""

CONV1D = (
    "adalora",
    "deft",
    "deft_para",
    "deft_qr",
    "gralora",
    "gralora_hybrid",
    "pvera",
    "randlora",
    "vblora",
    "vblora_topk",
    "vera",
    "vera_wide",
)
"""That peft puts beside transformers' Conv1D, as GPT-2 has it."""


def save_adapter(
    kind: str, options: Mapping[str, Any], model: PreTrainedModel, folder: Path, *, seed: int = 0, **more: Any
) -> Path:
    """Puts an adapter beside the model's layers, gives what it trains random values, and has peft save it. The model is used up."""
    torch.manual_seed(seed)
    peft_type = PeftType(kind.partition("_")[0].upper())
    fields = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", **options, **more}
    wrapped = get_peft_model(model, PEFT_TYPE_TO_CONFIG_MAPPING[peft_type](**fields))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    wrapped.save_pretrained(folder)
    return folder
