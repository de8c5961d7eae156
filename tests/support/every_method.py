"""Every method of peft with fields for tiny models, families of every kind, and a short training of one on the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from ptune.methods import METHODS
from ptune.methods.lora import Lora
from ptune.methods.peft_method import PeftMethod
from support import tiny_models
from support.seq2seq_models import seq2seq

FITTING: dict[str, dict[str, Any]] = {
    "C3a": {"block_size": 16}, "FourierFt": {"n_frequency": 50}, "GraLora": {"r": 8}, "Hira": {"r": 4}, "Hra": {"r": 4},
    "Lily": {"r": 4}, "LoHa": {"r": 4}, "Miss": {"r": 8}, "Oft": {"oft_block_size": 8}, "Psoft": {"r": 8}, "Pvera": {"r": 8},
    "RandLora": {"r": 4}, "Road": {"group_size": 16}, "Shira": {"r": 2}, "TrainableTokens": {"tokens": (3, 17)},
    "VbLora": {"vector_length": 16, "num_vectors": 16}, "Vera": {"r": 8}, "WaveFt": {"n_frequency": 50},
}  # fmt: skip
"""Fields by which a method fits a model of width 64."""

ALL: dict[str, PeftMethod] = {
    **{
        kind.__name__: kind(**FITTING.get(kind.__name__, {}))
        for kind in METHODS
        if issubclass(kind, PeftMethod)
    },
    "Lora dora": Lora(r=4, dora=True),
    "Lora lora_bias": Lora(r=4, lora_bias=True),
    "Lora pissa": Lora(r=4, init="pissa"),
    "Lora olora": Lora(r=4, init="olora", rslora=True),
    "Lora gaussian": Lora(r=4, init="gaussian"),
    "Lora freeze_a": Lora(r=4, freeze_a=True),
    "Lora merge_into": Lora(r=4, merge_into="int4"),
    "Lora patterns": Lora(r=4, rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3.0}),
}


def bert() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = tiny_models.ENCODERS["bert"](num_labels=3)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def vit() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def resnet() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=3
    )
    return transformers.ResNetForImageClassification(config).eval()


FAMILIES: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "bert": bert,
    "gemma3": lambda: tiny_models.model("gemma3"),
    "gpt2": lambda: tiny_models.model("gpt2"),
    "llama": lambda: tiny_models.model("llama"),
    "qwen3": lambda: tiny_models.model("qwen3"),
    "resnet": resnet,
    "t5": lambda: seq2seq("t5"),
    "vit": vit,
}


def inputs(family: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    if family in ("vit", "resnet"):
        return {"pixel_values": torch.randn(2, 3, 32, 32)}
    ids = torch.randint(3, 400, (1, 12))
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, :5]} if family == "t5" else {})}


def head_of(family: str) -> tuple[str, ...]:
    return ("classifier",) if family in ("bert", "vit", "resnet") else ()


def logits(model: nn.Module, family: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**inputs(family)).logits
    return found


def loss_of(found: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of logits [..., classes] for class 1 everywhere, summed."""
    return found.logsumexp(-1).sum() - found[..., 1].sum()


def begun(method: Any, model: transformers.PreTrainedModel, family: str) -> Any:
    """A model before its first step, in evaluation mode."""
    torch.manual_seed(0)
    return method.apply(model, (), head_of(family)).eval()


def trained(
    method: Any, model: transformers.PreTrainedModel, family: str, steps: int = 2, lr: float = 1e-2
) -> Any:
    """A model after some steps in evaluation mode, so that batch normalisation keeps its statistics, as in a run."""
    adapted = begun(method, model, family)
    of_peft = method if isinstance(method, PeftMethod) else None
    if of_peft is not None:
        of_peft.begin(adapted, steps)
    optimizer = torch.optim.AdamW([one for one in adapted.parameters() if one.requires_grad], lr=lr)
    for step in range(steps):
        loss = loss_of(adapted(**inputs(family)).logits)
        penalty = None if of_peft is None else of_peft.penalty(adapted)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        if of_peft is not None:
            of_peft.after_update(adapted, step + 1, steps)
        optimizer.zero_grad()
    return adapted
