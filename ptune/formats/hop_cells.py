"""A hop of a proof as the cells of a table: on the terminal, on a page, in a card."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ptune.formats.bundle import Hop

Verdict: TypeAlias = Literal["ok", "not used", "DRIFTS"]


def figures(hop: Hop, absent: str = "") -> tuple[str, str, str, str]:
    """max |Δ log p|, mean KL, top-1 and relative L2. absent: in place of what was not measured."""

    def number(value: float | None, form: str) -> str:
        return absent if value is None else format(value, form)

    return (
        number(hop.max_abs_logprob, ".1e"),
        number(hop.mean_kl, ".1e"),
        number(hop.top1, ".1%"),
        number(hop.liveness, ".1e"),
    )


def verdict(hop: Hop) -> Verdict:
    """Own operators beyond their limit are not used; any other hop beyond its limit is a drift."""
    return "ok" if hop.passed else "not used" if hop.form else "DRIFTS"
