"""The parity table, as the commands print it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptune.cli.result import tell
from ptune.formats.bundle import BASE
from ptune.formats.hop_cells import figures, verdict
from ptune.verify.proof import Proof


def show(proof: Proof) -> None:
    """Prints every hop with its figures, its limit and what else there is to say of it, and tells it."""
    tell(parity={BASE: proof.base, **proof.adapters}, refused=dict(proof.refused))
    table = Table(title="parity, hop by hop", title_justify="left")
    for column, justify in (
        ("adapter", "left"), ("hop", "left"), ("prompts", "right"), ("max |Δ log p|", "right"),
        ("mean KL", "right"), ("top-1", "right"), ("rel. L2", "right"), ("limit", "left"), ("", "left"), ("note", "left"),
    ):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, hops in ((BASE, proof.base), *proof.adapters.items()):
        for hop in hops:
            table.add_row(
                name, hop.name, str(hop.prompts), *figures(hop), hop.limit, verdict(hop), Text(hop.note)
            )
        table.add_section()
    Console(width=None if Console().is_terminal else 160).print(table)
