"""A training config as another tool reads it: YAML, JSON, or a shell script that calls the tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ptune.errors import UsageError
from ptune.foreign.command_line import called

LARGEST_BYTES = 1 << 18
"""No config of a training is larger; YAML takes seconds to read a megabyte."""
MOST_VALUES = 20_000
"""With every alias counted as often as it is used: a short file can stand for billions."""
DEEPEST = 50


def read_config(path: Path) -> tuple[dict[str, Any], str]:
    """The fields of a config, and the command that a script runs ("" of YAML and JSON).

    Raises: UsageError if the file is missing, too large, or holds no fields.
    """
    text = _text(path)
    if path.suffix == ".sh":
        command, fields = called(text, path)
        return fields, command
    try:
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, ArithmeticError, yaml.YAMLError) as error:  # of odd dates and numbers, too
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise UsageError(f"{path} cannot be read: its values are nested too deeply") from None
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{path} holds no fields: a training config is a mapping of names to values")
    if _size(value, 0, {}) > MOST_VALUES:
        raise UsageError(f"{path} holds more than {MOST_VALUES:,} values, or is nested too deeply")
    return {str(name): one for name, one in value.items()}, ""


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UsageError(f"{path} is larger than {LARGEST_BYTES >> 10} KiB: that is no training config")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no possible name of a file
        raise UsageError(f"{path} cannot be read: {error}") from None


def _size(value: Any, depth: int, known: dict[int, int]) -> int:
    """Number of values in a value, aliases written out; more than MOST_VALUES for what contains itself."""
    if not isinstance(value, dict | list):
        return 1
    if depth > DEEPEST:
        return MOST_VALUES + 1
    if id(value) not in known:
        known[id(value)] = MOST_VALUES + 1  # until it is known: what is met inside itself has no end
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(one, depth + 1, known) for one in inside)
    return known[id(value)]


def flattened(config: dict[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    """The fields, with those inside some sections as "section.field"."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in sections and isinstance(value, dict) and value:
            flat.update({f"{name}.{inside}": one for inside, one in value.items()})
        else:
            flat[name] = value
    return flat
