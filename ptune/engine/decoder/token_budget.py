"""How many prompt tokens a step may compute, and whose: measured steps set the budget; tenants share it by weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptune.engine.decoder.sequence import TokenSequence

LEAST = 32  # prompt tokens of a step, however slow the machine: fewer would cost more than they save
FORGETTING = 0.8  # what is left of an older measurement when the next one comes
OUTLIER = 4.0  # times the expected seconds that one measurement may count for


class StepTimeModel:
    """Learns seconds = base + slope * tokens from the steps that are measured; it has no clock of its own.

    Steps without prompts and steps with them are averaged apart, and the line goes through both averages: however long
    nothing but single tokens are computed, what a prompt's token costs is not forgotten.
    """

    def __init__(self, target_s: float | None, most: int) -> None:
        """target_s: what a step should take; None = any time. most: prompt tokens of a step."""
        self._target_s, self._most = target_s, most
        self._light: tuple[float, float] | None = None  # average tokens and seconds of steps without prompts
        self._heavy: tuple[float, float] | None = None  # and with them

    def told(self, tokens: int, seconds: float, *, prompts: bool) -> None:
        """A step of so many tokens took so long. prompts: whether tokens of prompts were among them."""
        known = self._light if not prompts else self._heavy
        if known is not None:
            expected_s = known[1] * max(tokens / known[0], 1.0)
            seconds = min(seconds, OUTLIER * expected_s)
        new = (float(tokens), seconds) if known is None else _mixed(known, (tokens, seconds))
        if prompts:
            self._heavy = new
        else:
            self._light = new

    def line(self) -> tuple[float, float] | None:
        """(base, slope) in seconds and seconds a token; None before a step with prompts was measured."""
        if self._heavy is None:
            return None
        tokens, seconds = self._heavy
        if self._light is not None and self._light[0] < tokens and self._light[1] < seconds:
            slope = (seconds - self._light[1]) / (tokens - self._light[0])
            base = seconds - slope * tokens
            if base >= 0:
                return base, slope
        return 0.0, seconds / tokens

    def prompt_tokens(self, generating: int) -> int:
        """Prompt tokens of the next step, in which so many tokens are computed for rows that are generating.

        From LEAST to the most; the most where nobody is generating, as nobody would wait.
        """
        line = self.line()
        if not generating or self._target_s is None or line is None:
            return self._most
        base, slope = line
        fitting = (self._target_s - base) / slope - generating if slope else self._most
        return int(min(self._most, max(LEAST, fitting)))


def _mixed(old: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    return (
        FORGETTING * old[0] + (1 - FORGETTING) * new[0],
        FORGETTING * old[1] + (1 - FORGETTING) * new[1],
    )


def allocate_prefill(
    budget: int, prompts: Sequence[TokenSequence], served: Callable[[str], float]
) -> dict[TokenSequence, int]:
    """How many tokens of each row are computed; rows that get none are left out.

    prompts: rows with more than one token to compute, in the order in which they began.
    served: what a tenant has been served so far; odd tokens go to whoever has been served least.
    """
    rows: dict[str, list[TokenSequence]] = {}
    for row in prompts:
        rows.setdefault(row.tenant, []).append(row)
    counts: dict[TokenSequence, int] = {}
    for tenant, tokens in _among_tenants(budget, rows, served).items():
        counts.update(_among_rows(tokens, rows[tenant]))
    return counts


def _among_tenants(
    budget: int, rows: dict[str, list[TokenSequence]], served: Callable[[str], float]
) -> dict[str, int]:
    """Tokens of each tenant: by weight, and what one has no use for goes to the others."""
    wanted = {tenant: sum(row.uncached for row in rows[tenant]) for tenant in sorted(rows, key=served)}
    weight = {tenant: rows[tenant][0].weight for tenant in wanted}
    given = dict.fromkeys(wanted, 0)
    while budget and wanted:
        total, whole = sum(weight[tenant] for tenant in wanted), budget
        for tenant in list(wanted):
            tokens = min(wanted[tenant], max(1, int(whole * weight[tenant] / total)), budget)
            given[tenant] += tokens
            wanted[tenant] -= tokens
            budget -= tokens
            if not wanted[tenant]:
                del wanted[tenant]
    return given


def _among_rows(budget: int, rows: Sequence[TokenSequence]) -> dict[TokenSequence, int]:
    """The first half is the oldest row's, so that none starves; the rest goes to those with the least left, so that a
    short prompt does not wait behind a long one."""
    counts: dict[TokenSequence, int] = {}
    for row in rows[:1]:
        counts[row] = min(row.uncached, (budget + 1) // 2)
        budget -= counts[row]
    for row in sorted(rows, key=lambda row: row.uncached - counts.get(row, 0)):
        more = min(row.uncached - counts.get(row, 0), budget)
        counts[row] = counts.get(row, 0) + more
        budget -= more
    return {row: count for row, count in counts.items() if count}
