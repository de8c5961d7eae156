"""How figures of judged answers are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TITLES = {
    "told_apart": "desirable answer gained more than undesirable one",
    "gained": "desirable answers that gained",
    "lost": "undesirable answers that lost",
    "margin": "desirable answers gained more by, in nats",
    "likelier": "desirable answer is likelier a token",
    "desirable": "log p of desirable answers",
    "undesirable": "log p of undesirable answers",
}
IN_NATS = ("margin", "desirable", "undesirable")


def cell(name: str, side: Mapping[str, Any]) -> str:
    """A figure of a side with its interval; a dash where it has none."""
    if name not in side:
        return "–"
    value, (low, high) = side[name]["value"], side[name]["interval"]
    if name in IN_NATS:
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def by_length(found: Mapping[str, Any]) -> str:
    """A sentence on how far lengths alone tell the verdict; empty where that is not known."""
    share = found.get("longer")
    return (
        "" if share is None else f"desirable answer is longer than undesirable one: {share:.1%} of all cases"
    )
