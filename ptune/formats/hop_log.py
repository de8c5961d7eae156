"""The log of an export: a JSON line for each stage as it begins, and for each hop as it is measured.

    {"stage": "the engine"}
    {"adapter": "mine", "hop": {"name": "ONNX → engine", …}}

An export takes minutes, and its proof is whole only at the end; whoever follows the file sees the table fill. It stays where
an export is refused or killed, and so tells which hop was beyond its limit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from ptune.formats.bundle import Hop
from ptune.formats.whole_write import disk_errors


@dataclass
class _Writer:
    file: IO[str]
    written: set[tuple[str, Hop]] = field(default_factory=set)

    def line(self, entry: dict[str, Any]) -> None:
        self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.file.flush()


_writer: ContextVar[_Writer | None] = ContextVar("hop log", default=None)


@contextlib.contextmanager
def hop_log(path: Path | None) -> Iterator[None]:
    """What is noted within the block goes into the file, which begins anew; None: nowhere. Raises: PtuneError."""
    if path is None:
        yield
        return
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    with file:
        token = _writer.set(_Writer(file))
        try:
            yield
        finally:
            _writer.reset(token)


def note_stage(stage: str) -> None:
    """Notes what an export does from now on."""
    if (writer := _writer.get()) is not None:
        writer.line({"stage": stage})


def note_hops(adapter: str, hops: Sequence[Hop]) -> None:
    """Notes what was measured under an adapter, or the base; what was noted already is left out."""
    writer = _writer.get()
    if writer is None:
        return
    for hop in hops:
        if (adapter, hop) not in writer.written:
            writer.written.add((adapter, hop))
            writer.line({"adapter": adapter, "hop": hop.model_dump(mode="json")})


@dataclass(frozen=True)
class Followed:
    """An export so far. stages: in their order; hops: by adapter, the base's under `base`, in the order of measuring."""

    stages: tuple[str, ...] = ()
    hops: Mapping[str, tuple[Hop, ...]] = field(default_factory=dict)


def read_hop_log(path: Path) -> Followed:
    """What an export has noted so far; nothing where it has not begun. A line that is still being written is left out."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return Followed()
    stages: list[str] = []
    hops: dict[str, list[Hop]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            if "stage" in entry:
                stages.append(str(entry["stage"]))
            else:
                hops.setdefault(str(entry["adapter"]), []).append(Hop.model_validate(entry["hop"]))
        except (ValueError, TypeError, KeyError, ValidationError):
            continue  # of another version, or damaged: the others can be shown
    return Followed(tuple(stages), {name: tuple(found) for name, found in hops.items()})
