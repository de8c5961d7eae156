"""Where data comes from: names of files and of the hub's data sets as ptune writes them, and the columns of their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ptune.foreign.draft import Draft, is_empty, names, shown

_FILE = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow|feather|txt|md|npz)$", re.IGNORECASE)
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FORMATS = {"json", "csv", "parquet", "text", "arrow"}
"""Names under which `datasets.load_dataset` reads files."""


@dataclass(frozen=True)
class Source:
    """Files of one entry of the config. columns: ptune's column -> its name there; look: what to look at."""

    files: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    look: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def files_of(path: Any, config: Any = None, split: Any = None, data_files: Any = None) -> Source:
    """The files that an entry names: local ones as they are, others as hub:OWNER/NAME[/CONFIG][@SPLIT]."""
    path = "" if is_empty(path) else str(path)
    if not is_empty(data_files):
        values = data_files.values() if isinstance(data_files, dict) else [data_files]
        found = tuple(name for value in values for name in names(value))
        if path and path not in _FORMATS and not _is_local(path):
            found = tuple(f"{path}/{name}" for name in found)
            return Source(
                left=(
                    f"files of the hub's data set {shown(', '.join(found))}: download them, and name them in data.files",
                )
            )
        return Source(tuple(name.removeprefix("file://") for name in found), look=_of_split(split))
    if "://" in path:
        return Source(
            left=(f"{shown(path)} is not on this machine: download it, and name the file in data.files",)
        )
    if _is_local(path):
        return Source((path,), look=_of_split(split))
    if not _HUB.fullmatch(path):
        return Source(
            left=(
                f"{shown(path or 'nothing')} is no file and no data set of the hub by its owner: name it in data.files",
            )
        )
    subset = "" if is_empty(config) else f"/{config}"
    part = "" if is_empty(split) or split == "train" else f"@{split}"
    if "@" in f"{subset}{part[1:]}" or "/" in subset[1:]:
        return Source(left=(f"{shown(subset + part)} is no name that hub: takes",))
    return Source((f"hub:{path}{subset}{part}",))


def _is_local(path: str) -> bool:
    return bool(_FILE.search(path)) or path.startswith(("/", "./", "../", "~", "hub:"))


def _of_split(split: Any) -> tuple[str, ...]:
    if is_empty(split) or split == "train":
        return ()
    return (f"the file is read whole, not its part {shown(split)}: data.limit takes the first rows",)


def set_files(draft: Draft, name: str, path: str, sources: Iterable[Source], columns: bool = True) -> None:
    """Notes what field `name` has become: `path` (data.files, …), and the columns that have other names than usual."""
    sources = list(sources)
    files = [file for source in sources for file in source.files]
    looks = dict.fromkeys(look for source in sources for look in source.look)
    if files:
        draft.set(name, path, files, "; ".join(looks))
    for why in dict.fromkeys(why for source in sources for why in source.left):
        draft.leave(name, why)
    if columns and files:
        _set_columns(draft, name, [source for source in sources if source.files])


def _set_columns(draft: Draft, name: str, sources: list[Source]) -> None:
    """`task.columns`: one name for each column in all files, so a name that not all share is left."""
    own = [{column: said for column, said in source.columns.items() if column != said} for source in sources]
    if not any(own):
        return
    if any(one != own[0] for one in own):
        told = "; ".join(f"{source.files[0]} {shown(one)}" for source, one in zip(sources, own, strict=True))
        draft.leave(
            name,
            f"the files call their columns differently ({told}), task.columns has one name for all: rename them",
        )
        return
    for column, said in own[0].items():
        draft.set(name, f"task.columns.{column}", said)
