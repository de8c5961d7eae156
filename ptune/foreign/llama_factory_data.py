"""LLaMA-Factory's data sets: names of `dataset_info.json`, or of a YAML file in its newer form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ptune.errors import UsageError
from ptune.foreign.draft import Draft, is_empty, names, shown
from ptune.foreign.reading import LARGEST_BYTES, read_config
from ptune.foreign.sources import Source, files_of, set_files

REGISTER = "dataset_info.json"
_ALPACA = {
    "prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history",
    "chosen": "chosen", "rejected": "rejected", "kto_tag": "kto_tag",
}  # fmt: skip
_TURNS = {
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "kto_tag",
}
_UNREAD = ("videos", "audios")


def read_names(draft: Draft, name: str, path: str, columns: bool = True) -> None:
    """Notes the data sets that field `name` names. path: of the recipe's field."""
    folder = _folder(draft)
    register = _register(folder)
    if register is None:
        draft.leave(name, f"{REGISTER} was not found in {shown(str(folder))}: name the files in {path}")
        return
    sources = [_registered(draft, register, folder, one) for one in names(draft.get(name))]
    set_files(draft, name, path, sources, columns)
    if draft.has("dataset_dir"):
        draft.needless("dataset_dir", f"{REGISTER} was read there")


def _folder(draft: Draft) -> Path:
    """Where the register lies: as named from here, or from a folder above the config."""
    named = Path(str(draft.get("dataset_dir", "data")))
    above = [parent / named for parent in draft.file.absolute().parents]
    try:
        return next((place for place in (named, *above) if (place / REGISTER).is_file()), named)
    except (OSError, ValueError):  # no possible name
        return named


def _register(folder: Path) -> Mapping[str, Any] | None:
    try:
        file = folder / REGISTER
        if file.stat().st_size > LARGEST_BYTES:
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _registered(draft: Draft, register: Mapping[str, Any], folder: Path, name: str) -> Source:
    entry = register.get(name)
    if not isinstance(entry, dict):
        return Source(left=(f"{shown(name)} does not stand in {REGISTER}: name its file in data.files",))
    if not is_empty(entry.get("file_name")):
        file = f"{folder}/{entry['file_name']}"
        found = files_of(file if Path(file).suffix else "", split=entry.get("split"))
        if not found.files:
            found = Source(left=(f"{shown(file)} is a folder: name the files in it in data.files",))
    elif not is_empty(entry.get("hf_hub_url")):
        found = files_of(entry["hf_hub_url"], entry.get("subset"), entry.get("split"))
    else:
        return Source(
            left=(f"{shown(name)} is loaded by a script or another hub: name its files in data.files",)
        )
    columns, looks, left = _shape(draft, entry)
    return Source(found.files, columns, (*found.look, *looks), (*found.left, *left))


def _shape(draft: Draft, entry: Mapping[str, Any]) -> tuple[dict[str, str], list[str], list[str]]:
    """Columns, what to look at, and what is left, of an entry of the register."""
    said = entry.get("columns")
    own = {str(name): str(column) for name, column in said.items()} if isinstance(said, dict) else {}
    left = [f"the column {own[kind]} of {kind} is not read" for kind in _UNREAD if kind in own]
    if own.get("images", "images") != "images":
        left.append(f"the column {own['images']} of images has to be called images")
    if entry.get("formatting", "alpaca") == "alpaca":
        if draft.get("stage") == "pt":
            return {"text": own.get("prompt", "text")}, [], left
        return {_ALPACA[name]: column for name, column in own.items() if name in _ALPACA}, [], left
    tags = entry.get("tags")
    tags = tags if isinstance(tags, dict) else {}
    shape = (
        "messages"
        if tags.get("role_tag") == "role" or entry.get("formatting") == "openai"
        else "conversations"
    )
    columns = {
        shape: own.get("messages", "messages" if entry.get("formatting") == "openai" else "conversations")
    }
    columns |= {_TURNS[name]: column for name, column in own.items() if name in _TURNS}
    usual: dict[str, tuple[str, ...]] = {"role_tag": ("from", "role"), "content_tag": ("value", "content"), "user_tag": ("human", "user"),
             "assistant_tag": ("gpt", "assistant")}  # fmt: skip
    if shape == "conversations":
        usual |= {"function_tag": ("function_call",), "observation_tag": ("observation", "tool")}
    odd = [f"{tag} {tags[tag]}" for tag, known in usual.items() if tag in tags and tags[tag] not in known]
    return columns, [f"turns are named {', '.join(odd)} there: rename them" for _ in odd[:1]], left


def read_file(draft: Draft, name: str, path: str, columns: bool = True) -> None:
    """Notes the data sets of a YAML file, of the newer form; or the file of rows or data set of the hub that is named."""
    said = str(draft.get(name))
    if not said.endswith((".yaml", ".yml")):
        set_files(draft, name, path, [files_of(said)], columns)
        return
    places = [Path(said), *(parent / said for parent in draft.file.absolute().parents)]
    try:
        listed, _ = read_config(next((place for place in places if place.is_file()), Path(said)))
    except (UsageError, yaml.YAMLError):
        draft.leave(name, f"{shown(said)} cannot be read here: name its files in {path}")
        return
    sources = [_of_newer(one, entry) for one, entry in listed.items()]
    set_files(draft, name, path, sources, columns)


def _of_newer(name: str, entry: Any) -> Source:
    if not isinstance(entry, dict):
        return Source(left=(f"{shown(name)} names no data set",))
    found = files_of(entry.get("path"), entry.get("subset"), entry.get("split"))
    looks = [f"only {entry['size']} rows of it are used there: data.limit"] if "size" in entry else []
    looks += [f"its weight {entry['weight']} is a share there: data.weights"] if "weight" in entry else []
    return Source(found.files, look=(*found.look, *looks), left=found.left)
