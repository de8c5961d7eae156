"""The parity table, as the commands print it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptune.cli.result import tell
from ptune.formats.bundle import BASE, Hop
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
            told = "ok" if hop.passed else "not used" if hop.form else "DRIFTS"
            table.add_row(name, hop.name, str(hop.prompts), *_figures(hop), hop.limit, told, Text(hop.note))
        table.add_section()
    Console(width=None if Console().is_terminal else 160).print(table)


def _figures(hop: Hop) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        number(hop.max_abs_logprob, ".1e"),
        number(hop.mean_kl, ".1e"),
        number(hop.top1, ".1%"),
        number(hop.liveness, ".1e"),
    ]
