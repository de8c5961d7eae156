"""A finished chat run of three steps on a tiny model."""

from __future__ import annotations

from pathlib import Path

from ptune.config.chat import Chat
from ptune.config.recipe import Backbone, Data, Recipe, Train
from ptune.fine_tune import train
from ptune.formats.run import Run
from ptune.methods.lora import Lora
from support.tiny_models import conversations, write_jsonl


def trained(folder: Path, model: str = "model") -> Run:
    """Trains an adapter of FOLDER/model into FOLDER/run. model: the base's name in the folder, if another one."""
    write_jsonl(folder / "data.jsonl", conversations(24))
    recipe = Recipe(
        task=Chat(),
        method=Lora(r=4),
        backbone=Backbone(model=str(folder / model), dtype="float32"),
        data=Data(files=(folder / "data.jsonl",), validation_share=0.3),
        train=Train(max_steps=3, lr=2e-2, batch_size=4),
    )
    return train(recipe, folder / "run")
