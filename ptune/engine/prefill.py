"""How a step's prompt tokens are divided: among tenants by weight, then among a tenant's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptune.engine.scheduler import Row


def share_out(budget: int, prompts: Sequence[Row], served: Callable[[str], float]) -> dict[Row, int]:
    """How many tokens of each row are computed; rows that get none are left out.

    prompts: rows with more than one token to compute, in the order in which they began.
    served: what a tenant has been served so far; odd tokens go to whoever has been served least.
    """
    rows: dict[str, list[Row]] = {}
    for row in prompts:
        rows.setdefault(row.tenant, []).append(row)
    counts: dict[Row, int] = {}
    for tenant, tokens in _among_tenants(budget, rows, served).items():
        counts.update(_among_rows(tokens, rows[tenant]))
    return counts


def _among_tenants(budget: int, rows: dict[str, list[Row]], served: Callable[[str], float]) -> dict[str, int]:
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


def _among_rows(budget: int, rows: Sequence[Row]) -> dict[Row, int]:
    """The first half is the oldest row's, so that none starves; the rest goes to those with the least left, so that a
    short prompt does not wait behind a long one."""
    counts: dict[Row, int] = {}
    for row in rows[:1]:
        counts[row] = min(row.uncached, (budget + 1) // 2)
        budget -= counts[row]
    for row in sorted(rows, key=lambda row: row.uncached - counts.get(row, 0)):
        more = min(row.uncached - counts.get(row, 0), budget)
        counts[row] = counts.get(row, 0) + more
        budget -= more
    return {row: count for row, count in counts.items() if count}
