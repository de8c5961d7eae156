"""Reads a checkpoint's `quantization_config`. Errors are half a sentence, to follow the model's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptune.errors import BackboneError

ORIGINAL = "name its original weights and set backbone.quantize"


def choice(settings: Mapping[str, Any], name: str, known: Sequence[Any], default: Any = None) -> Any:
    """One of the values that ptune reads."""
    value = settings.get(name)
    value = default if value is None else value
    value = value.lower() if isinstance(value, str) else value
    if value is None:
        raise BackboneError(f"does not say its {name}; {ORIGINAL}")
    if value not in known or isinstance(value, bool) != isinstance(known[0], bool):
        named = " or ".join(map(repr, known))
        raise BackboneError(f"was saved with {name} {value!r}, and ptune reads {named}; {ORIGINAL}")
    return value


def number(settings: Mapping[str, Any], name: str) -> int:
    """A number from 1 on, or -1 for all."""
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or (value < 1 and value != -1):
        raise BackboneError(f"was saved with {name} {value!r}, which is no number of weights; {ORIGINAL}")
    return value
