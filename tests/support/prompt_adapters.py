"""Adapters that stand before every text, made and saved by peft itself with random weights; and bundles that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

from ptune.backbone.load import Loaded
from ptune.engine.adapters.folder import install
from ptune.formats.bundle import Bundle
from ptune.parity import Array
from ptune.publish.base_weights import base_weights
from support.bundles import with_peft

KINDS: dict[str, tuple[type[peft.PeftConfig], dict[str, Any]]] = {
    "prefix": (peft.PrefixTuningConfig, {"num_virtual_tokens": 5}),
    "projected": (
        peft.PrefixTuningConfig,
        {"num_virtual_tokens": 20, "prefix_projection": True, "encoder_hidden_size": 16},
    ),
    "prompt": (peft.PromptTuningConfig, {"num_virtual_tokens": 7}),
    "p_tuning": (peft.PromptEncoderConfig, {"num_virtual_tokens": 18, "encoder_hidden_size": 24}),
}


def save_prompt(base: Path, folder: Path, kind: str, *, seed: int = 0, **changes: Any) -> Path:
    """Puts an adapter of a kind before a model, gives it random weights, and has peft save it."""
    torch.manual_seed(seed)
    config, options = KINDS[kind]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = peft.get_peft_model(model, config(task_type="CAUSAL_LM", **{**options, **changes}))
    with torch.no_grad():
        for parameter in wrapped.prompt_encoder.parameters():
            parameter.normal_(std=0.5)
    wrapped.save_pretrained(folder)
    return folder


def install_prompt(bundle: Bundle, loaded: Loaded, folder: Path, name: str) -> None:
    """Puts it into a bundle, unproved."""
    install(bundle, folder, name, base_weights(bundle, lambda: loaded.model))


class Alone:
    """A base and an adapter, or a sum of LoRA adapters, in plain transformers and peft, without anything else."""

    def __init__(self, base: Path, adapter: Path | None, *summed: tuple[Path, float]) -> None:
        self.model = with_peft(base, adapter)
        if summed:
            self.model = with_peft(base, summed[0][0])
            assert isinstance(self.model, peft.PeftModel)
            names = ["default", *(f"other{at}" for at in range(1, len(summed)))]
            for name, (folder, _) in zip(names[1:], summed[1:], strict=True):
                self.model.load_adapter(str(folder), name)
            factors = [factor for _, factor in summed]
            self.model.add_weighted_adapter(names, factors, "sum", combination_type="cat")
            self.model.set_adapter("sum")

    @torch.no_grad()
    def logits(self, ids: list[int]) -> Array:
        """[tokens, vocab], those of virtual tokens left out."""
        found: Array = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
        return found[len(found) - len(ids) :]

    def greedy(self, prompt: list[int], tokens: int) -> list[int]:
        """The likeliest tokens, without a cache."""
        ids = [*prompt]
        for _ in range(tokens):
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids[len(prompt) :]
