"""The table of a server that is held to an adapter's parity.json, as `ptune verify --url` prints it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptune.verify.endpoint.client import printable
from ptune.verify.endpoint.verdict import Figures, Verdict

PARTIAL = "KL: over the tokens that the server tells alone, so a part of the whole"


def show_verdict(server: str, figures: Sequence[Figures], verdict: Verdict) -> None:
    """Prints a row for each way of asking, then the verdict and why."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(
        title=Text(printable(server)), title_justify="left", caption=PARTIAL, caption_justify="left"
    )
    for column in ("asked by", "positions", "log p", "max |Δ log p|", "mean |Δ|", "of base", "partial KL",
                   "same greedy", "first divergence", "factor"):  # fmt: skip
        table.add_column(column, justify="left" if column == "asked by" else "right")
    for one in figures:
        at = one.first_divergence
        table.add_row(
            one.way,
            str(one.positions),
            str(one.compared),
            f"{one.max_abs:.1e}",
            f"{one.mean_abs:.1e}",
            f"{one.distances['base']:.1e}",
            f"{one.kl:.1e}",
            f"{one.same:.1%}",
            "none" if at is None else f"token {at[1] + 1} of prompt {at[0] + 1}",
            f"{one.factor:.2f}",
        )
    if figures:
        console.print(table)
    console.print(Text(f"verdict: {verdict.kind}"))
    for why in verdict.because:
        console.print(Text(f"  {printable(why)}"), soft_wrap=True)
