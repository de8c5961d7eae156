"""PEFT folders that reach a decoder's ends: LoRA of its head and embedding, new and retrained tokens, made by peft itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


def ends_folder(
    base: Path,
    folder: Path,
    *,
    ends: Sequence[str] = (),
    new: Sequence[str] = (),
    retrained: Sequence[int] = (),
    whole: Sequence[str] = (),
    seed: int = 0,
    copies: bool | str = "auto",
    **options: Any,
) -> Path:
    """An adapter with random, non-zero values. ends: "head" and "embedding" with LoRA. new: texts of new tokens.

    retrained: tokens of the base with rows of their own. whole: ends that are trained whole (modules_to_save). copies: what peft's save_pretrained calls save_embedding_layers.
    """
    torch.manual_seed(seed)
    model, tokenizer = _plain(base), PreTrainedTokenizerFast.from_pretrained(base)
    names = leaves(model)
    options = {"r": 4, "lora_alpha": 8, "target_modules": linears(model), "task_type": "CAUSAL_LM"} | options
    targets: Any = options["target_modules"]
    options["target_modules"] = [*targets, *(names[end] for end in ends)]
    if whole:
        options["modules_to_save"] = [names[end] for end in whole]
    if new or retrained:
        tokenizer.add_tokens([*new])
        ids = [*retrained, *tokenizer.convert_tokens_to_ids([*new])]
        if max(ids) >= model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        wanted = ["embedding"] if tied else ["embedding", "head"]
        options["trainable_token_indices"] = {names[end]: ids for end in wanted}
    wrapped = get_peft_model(model, LoraConfig(init_lora_weights=False, **options))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.mul_(0.2)
            elif "trainable_tokens" in name:
                parameter.normal_(std=0.3)
            elif "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    wrapped.save_pretrained(folder, save_embedding_layers=copies)
    if new:
        tokenizer.save_pretrained(folder)
    return folder


def peft_logits(base: Path, adapter: Path | None, ids: Sequence[int], vocab: int | None = None) -> Any:
    """[tokens, vocab] of plain transformers and peft, in float32. vocab: rows that the base needs before the adapter fits."""
    model = _plain(base)
    if vocab is not None and vocab > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(vocab, mean_resizing=False)
    wrapped = model if adapter is None else PeftModel.from_pretrained(model, str(adapter))
    with torch.no_grad():
        return wrapped.eval()(torch.tensor([list(ids)])).logits[0].numpy()


def leaves(model: PreTrainedModel) -> Mapping[str, str]:
    """The last part of the names of the embedding and of the head."""
    modules = {"embedding": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    names = {id(module): name.rpartition(".")[2] for name, module in model.named_modules()}
    return {end: names[id(module)] for end, module in modules.items()}


def linears(model: PreTrainedModel) -> list[str]:
    """Names of all linear layers but the head."""
    head = model.get_output_embeddings()
    kinds = ("Linear", "Conv1D")
    return [n for n, one in model.named_modules() if type(one).__name__ in kinds and one is not head]


def _plain(base: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
