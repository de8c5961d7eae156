"""How figures of pairs are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.evaluation.between import with_interval

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
    return with_interval(side[name], "{:.1%}".format if name in SHARES else "{:.2f}".format)
