"""Patterns of layers' names, such as those of `rank_pattern`, that mean the same in any order.

peft takes the first pattern that matches the end of a layer's name, and sorts them when it writes adapter_config.json. Where
two patterns match a layer and say different things, the layer would come back with another rank or scale than it was trained
with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value", bound=float)


def in_any_order(patterns: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    """The patterns as they are where no two differ about one of these layers; else each layer's whole name, as a pattern."""
    matched: dict[str, list[Value]] = {
        name: [value for pattern, value in patterns.items() if matches(pattern, name)] for name in names
    }
    if all(len({*values}) <= 1 for values in matched.values()):
        return dict(patterns)
    return {f"^{re.escape(name)}": values[0] for name, values in matched.items() if values}


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern is of a layer, as peft decides it."""
    return re.match(rf"(.*\.)?({pattern})$", name) is not None


def unreadable(patterns: Iterable[str]) -> str | None:
    """What is wrong with the first of these patterns that is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(f"({pattern})$")
        except re.error as error:
            return f"{pattern!r} is not a valid pattern: {error}"
    return None
