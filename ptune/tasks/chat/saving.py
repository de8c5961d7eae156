"""Saves the trained weights of a chat run, and proves that they read back the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.load import load
from ptune.backbone.tokenizer import save_folder, transformers_tokenizer
from ptune.codecs.chat import ChatCodec, Example
from ptune.codecs.template_request import with_defaults
from ptune.config.chat import Chat
from ptune.config.recipe import Recipe
from ptune.config.translation import Translation
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.task_names import TRANSLATION
from ptune.formats.whole_write import write_json, write_text
from ptune.methods.peft_method import in_order
from ptune.training.checkpoint import tensors_folder, whole_state
from ptune.training.distributed import sharded
from ptune.training.reload import reloaded_adapter_hop, reloaded_model_hop

FORMAT = 1  # format of adapter/ptune.json


def save_trained(
    run: Run,
    recipe: Recipe,
    model: nn.Module,
    codec: ChatCodec,
    held_out: Sequence[Example],
    identity: BaseIdentity,
    *,
    writes: bool = True,
) -> Hop:
    """Writes adapter/ (PEFT's format) or, if the backbone's own weights were trained, model/ (transformers' format).

    Returns the hop from the weights in memory to those on disk, over the examples `held_out`. If the model is sharded, every
    process calls this and the one with `writes` writes.
    """
    state = whole_state(model) if sharded(model) else None
    if writes:
        _write(run, recipe, model, codec, identity, state)
    if sharded(model):
        torch.distributed.barrier()  # no process reads before the file is written
    device = next(model.parameters()).device
    if isinstance(model, PeftModel):
        return reloaded_adapter_hop(model, run.adapter_path, held_out, device)
    saved = recipe.backbone.saved_at(run.model_path).model_copy(update={"dtype": identity.dtype})
    again = load(saved, device=device)
    return reloaded_model_hop(model, again.model, held_out, device)


def _write(
    run: Run,
    recipe: Recipe,
    model: nn.Module,
    codec: ChatCodec,
    identity: BaseIdentity,
    state: dict[str, torch.Tensor] | None,
) -> None:
    """Writes adapter/ or model/. state: replaces the model's own weights, which may be sharded."""
    if isinstance(model, PeftModel):
        config = model.peft_config[model.active_adapter]
        config.base_model_name_or_path = recipe.backbone.model
        in_order(config)
        with tensors_folder(run.adapter_path) as part:
            # peft would save the whole enlarged embedding; the rows of new tokens are saved anyway.
            model.save_pretrained(part, save_embedding_layers=False, state_dict=state)
            if (template := own_template(codec, recipe.chat)) is not None:
                write_text(part / "chat_template.jinja", template)
            if recipe.backbone.new_tokens:
                transformers_tokenizer(codec).save_pretrained(part)  # where PEFT users expect it
            write_json(
                part / "ptune.json", adapter_facts(codec, identity, recipe.backbone.new_tokens, recipe.chat)
            )
        return
    assert isinstance(model, PreTrainedModel)
    with tensors_folder(run.model_path) as part:
        save_folder(model, codec, part, state)
        write_text(
            part / "README.md", f"---\nlicense: {identity.licence}\nbase_model: {identity.source}\n---\n"
        )


def own_template(codec: ChatCodec, task: Chat) -> str | None:
    """The template that other programs need to ask an adapter as it was trained; None if the base's own does."""
    if codec.template is None or (task.template is None and not task.chat_template_kwargs):
        return None
    return with_defaults(codec.template.source, task.chat_template_kwargs)


def adapter_facts(
    codec: ChatCodec, identity: BaseIdentity, new_tokens: Sequence[str], task: Chat
) -> dict[str, Any]:
    """adapter/ptune.json: the information needed to serve an adapter as it was trained. PEFT ignores the file.

    `new_tokens` maps each to its id; the base needs a row for it before PEFT can load the adapter.
    """
    facts = {"new_tokens": {token: codec.tokenizer.token_to_id(token) for token in new_tokens}}
    defaults = codec.defaults.stated()
    return {
        "format": FORMAT,
        "task": TRANSLATION if isinstance(task, Translation) else "chat",
        "base": identity.hash,
        "quantize": identity.quantize,
        "template": None if codec.template is None else codec.template.source,
        "system": codec.system,
        **({"defaults": defaults} if defaults else {}),
        **({TRANSLATION: task.described} if isinstance(task, Translation) else {}),
        **(facts if new_tokens else {}),
    }
