"""What a run leaves behind: the trained weights, proved to be readable, and a model card."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ptune.backbone.load import load
from ptune.backbone.tokenizer import transformers_tokenizer
from ptune.codecs.chat import ChatCodec
from ptune.data.dataset import Dataset
from ptune.formats.bundle import BaseIdentity, Hop
from ptune.formats.run import Run
from ptune.formats.whole_write import write_json, write_text
from ptune.recipe import Recipe
from ptune.training.checkpoint import tensors_folder
from ptune.training.reload import reloaded_adapter_hop, reloaded_model_hop

FORMAT = 1  # of adapter/ptune.json


def save_trained(
    run: Run, recipe: Recipe, model: nn.Module, codec: ChatCodec, data: Dataset, identity: BaseIdentity
) -> Hop:
    """Writes adapter/ (PEFT's format) or, where the backbone's own weights were trained, model/ (transformers' format).

    Returns the hop from the weights in memory to those on disk, over held-out examples.
    """
    device = next(model.parameters()).device
    examples = data.test or data.validation or data.train
    if isinstance(model, PeftModel):
        config = model.peft_config[model.active_adapter]
        config.base_model_name_or_path = recipe.backbone.model
        config.target_modules = sorted(
            config.target_modules
        )  # a set: its order would differ from process to process
        with tensors_folder(run.adapter_path) as part:
            # peft would ask the hub whether the vocabulary was resized; it never is here.
            model.save_pretrained(part, save_embedding_layers=False)
            if recipe.task.template is not None and codec.template is not None:
                write_text(
                    part / "chat_template.jinja", codec.template.source
                )  # it was trained with another one
            write_json(part / "ptune.json", adapter_facts(codec, identity))
        return reloaded_adapter_hop(model, run.adapter_path, examples, device)
    assert isinstance(model, PreTrainedModel)
    with tensors_folder(run.model_path) as part:
        model.save_pretrained(part)
        transformers_tokenizer(codec).save_pretrained(part)
        write_text(
            part / "README.md", f"---\nlicense: {identity.licence}\nbase_model: {identity.source}\n---\n"
        )
    saved = recipe.backbone.model_copy(
        update={"model": str(run.model_path), "revision": None, "dtype": identity.dtype}
    )
    again = load(saved, device=device)
    return reloaded_model_hop(model, again.model, examples, device)


def adapter_facts(codec: ChatCodec, identity: BaseIdentity) -> dict[str, Any]:
    """adapter/ptune.json: what an adapter needs to be served as it was trained. PEFT ignores the file."""
    return {
        "format": FORMAT,
        "task": "chat",
        "base": identity.hash,
        "quantize": identity.quantize,
        "template": None if codec.template is None else codec.template.source,
        "system": codec.system,
    }
