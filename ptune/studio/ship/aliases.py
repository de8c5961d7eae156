"""The aliases of a server and their canaries, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ptune.studio.sheet import Content, note, sheet

HEADS = ("alias", "adapter", "canary", "its share", "so far")


def alias_table(cards: Sequence[Mapping[str, Any]]) -> str:
    """What /v1/aliases tells, as HTML."""
    rows: list[tuple[Content, ...]] = []
    for card in cards:
        canary = card.get("canary") or {}
        share = f"{canary['share']:.0%}" if canary else "–"
        told = _evidence(card.get("trial") or {})
        rows.append((str(card["alias"]), str(card["name"]), str(canary.get("name", "–")), share, told))
    return sheet("Aliases", HEADS, rows, words=(0, 1, 2, 4)) if rows else note("There is no alias.")


def _evidence(trial: Mapping[str, Any]) -> str:
    """What speaks for each of the two, in words."""
    told = []
    for adapter, scores in (trial.get("users") or {}).items():
        mean = scores.get("mean")
        told.append(
            f"{adapter}: {scores.get('scores', 0)} scores"
            + (f", mean {mean:.3g}" if mean is not None else "")
        )
    if loss := trial.get("loss"):
        told.append(
            f"{loss.get('compared', 0)} of {loss.get('texts', 0)} texts compared, {loss.get('state', '')}"
        )
    return "; ".join(told) or "–"
