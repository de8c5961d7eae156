"""The engine's options as flags of a command: those of `EngineOptions`, three of them in units that a person types."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, arg
from tyro.constructors import PrimitiveConstructorSpec

from ptune.engine.options import GIB, EngineOptions
from ptune.errors import UsageError


def size_of(text: str, option: str) -> int:
    """Bytes of "1GB", "1.5 GiB", "500MB" or "1000000"; GB is 10^9 bytes, GiB 2^30. Raises: UsageError."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"{option} {text!r}: a size is needed, as in 500MB or 1GiB")
    size_bytes = int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2] or " "))
    if not size_bytes:
        raise UsageError(f"{option} must be over 0 (is {text!r})")
    return size_bytes


def _gib(text: str, option: str) -> int:
    try:
        return int(float(text) * GIB)
    except (ValueError, OverflowError):
        raise UsageError(f"{option} {text!r}: a number of GB is needed, as in 1.5") from None


def _one_word(
    metavar: str, read: Callable[[str], int], written: Callable[[int], str]
) -> PrimitiveConstructorSpec[Any]:
    """How a number of bytes is read from one word of the command line, and how its default is shown."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: ["all" if value is None else written(value)],
    )


_KV_GB, _KV_DISK_GB = (
    _one_word("GB", partial(_gib, option=option), lambda size_bytes: f"{size_bytes / GIB:g}")
    for option in ("--kv-gb", "--kv-disk-gb")
)
_SIZE = _one_word("SIZE", lambda text: size_of(text, "--adapter-bytes"), str)


@dataclass(frozen=True, kw_only=True)
class _EngineFlags(EngineOptions):
    """The engine's options."""

    kv_bytes: Annotated[int, arg(name="kv-gb"), _KV_GB] = EngineOptions.kv_bytes
    """Memory that all sequences of a chat model share, in GB of 2^30 bytes; one may have the model's whole context."""
    kv_disk_bytes: Annotated[int, arg(name="kv-disk-gb"), _KV_DISK_GB] = EngineOptions.kv_disk_bytes
    """Most that the folder of `--kv-disk` takes, in GB of 2^30 bytes; what was used longest ago is deleted."""
    adapter_bytes: Annotated[int | None, _SIZE] = EngineOptions.adapter_bytes
    """Memory for adapters, as in 1GB; those used least recently make room. Default: all stay in memory."""


EngineFlags = Annotated[_EngineFlags, OmitArgPrefixes]
"""Type of a command's parameter: each field is a flag of its own name."""
NO_FLAGS = _EngineFlags()
