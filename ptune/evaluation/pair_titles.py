"""How figures of pairs are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {
    "preferred": "better answer gained more",
    "margin": "by, in nats",
    "likelier": "better answer is likelier a token",
    "chosen": "log p of better answers",
    "rejected": "log p of worse answers",
}
SHARES = ("preferred", "likelier")


def cell(name: str, side: Mapping[str, Any]) -> str:
    """A figure of a side with its interval; a dash where it has none."""
    if name not in side:
        return "–"
    value, (low, high) = side[name]["value"], side[name]["interval"]
    if name in SHARES:
        return f"{value:.1%} [{low:.1%}, {high:.1%}]"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
