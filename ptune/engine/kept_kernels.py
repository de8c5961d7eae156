"""Keeps for the next process what the package ptune-kernels was found to be on this machine, and the graphs that it rewrote.

The package's check takes half a second, rewriting a graph as long, and importing what both need longer: together more than all
else between starting a small model and its first token. A result is used where all that it depends on is the same: the package's
files, onnxruntime and the processor; of a graph also its bytes and where its weights lie.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime

from ptune.errors import PtuneError
from ptune.formats.cache import key_of, place_for, seal, sealed
from ptune.formats.whole_write import sha256_of, whole_folder

KIND, KEPT = "kernels", 32  # a rewritten graph is some megabytes, without weights
CPU_INFO = Path("/proc/cpuinfo")
_TELLING = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")  # of a processor
_GRAPH = "graph.onnx"


class Kept(NamedTuple):
    """A result: values of JSON, and a graph or nothing."""

    facts: dict[str, Any]
    graph: bytes = b""


def kept(
    package: Path, on: Any, make: Callable[[], Kept], *, keeps: Callable[[Kept], bool] = lambda _: True
) -> Kept:
    """What `make` makes with the package in this folder, or what an earlier process kept of it.

    on: all else that it depends on, values of JSON. keeps: whether a result is worth keeping.
    """
    key = key_of([_files(package), onnxruntime.__version__, processor(), on])
    with place_for(key, KIND, KEPT) as place:
        if place is not None and (record := sealed(place)) is not None:
            return Kept(record["facts"], (place / _GRAPH).read_bytes())
        made = make()
        if place is not None and keeps(made):
            with contextlib.suppress(PtuneError):  # a full disk: it is made again
                _keep(place, made)
        return made


def processor(cpu_info: Path = CPU_INFO) -> list[str]:
    """The lines of /proc/cpuinfo that say what this processor can; where there is no such file what Python knows."""
    try:
        first = cpu_info.read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return [platform.machine(), platform.processor()]
    return [line for line in first.splitlines() if line.startswith(_TELLING)]


def _keep(place: Path, made: Kept) -> None:
    with whole_folder(place) as part:
        (part / _GRAPH).write_bytes(made.graph)
        seal(part, {"facts": made.facts})


@cache
def _files(package: Path) -> dict[str, str]:
    """Hashes of the package's code and of its library."""
    files = (file for pattern in ("*.py", "*.so") for file in sorted(package.glob(pattern)))
    return {file.name: sha256_of(file) for file in files}
