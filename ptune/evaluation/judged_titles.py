"""How figures of judged answers are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.evaluation.between import with_interval

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
    return with_interval(side[name], "{:.2f}".format if name in IN_NATS else "{:.1%}".format)


def by_length(found: Mapping[str, Any]) -> str:
    """A sentence on how far lengths alone tell the verdict; empty where that is not known."""
    share = found.get("longer")
    return (
        "" if share is None else f"desirable answer is longer than undesirable one: {share:.1%} of all cases"
    )
