"""How figures of pairs are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ptune.evaluation.between import with_interval

_TITLES = {
    "preferred": "better answer gained more",
    "margin": "by, in nats",
    "likelier": "better answer is likelier a token",
    "chosen": "log p of better answers",
    "rejected": "log p of worse answers",
}
_OF_MEANS = {
    "preferred": "better answer gained more a token",
    "margin_a_token": "by, in nats a token",
    "margin": "better answer gained more as a whole by, in nats",
}
SHARES = ("preferred", "likelier")


def titles(found: Mapping[str, Any]) -> dict[str, str]:
    """What is shown of `pairs` of evaluation.json, and what it is called. Losses of means compare what answers gained a token."""
    if "margin_a_token" not in found["tuned"]:
        return _TITLES
    return {**_OF_MEANS, **{name: title for name, title in _TITLES.items() if name not in _OF_MEANS}}


def cell(name: str, side: Mapping[str, Any]) -> str:
    """A figure of a side with its interval; a dash where it has none."""
    if name not in side:
        return "–"
    return with_interval(side[name], "{:.1%}".format if name in SHARES else "{:.2f}".format)
