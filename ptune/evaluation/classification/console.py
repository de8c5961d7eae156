"""The figures of a classifier's evaluation.json as a table of the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ptune.evaluation.classification.results import shown, title

_WIDTH = 140  # characters, where nobody says how wide the terminal is


def show(found: Mapping[str, Any]) -> None:
    """Prints the headline figures of all sides, and how far torch and ONNX are apart."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(table(found))
    if "agreement" in found:
        agreed = found["agreement"]
        if "texts" in agreed:
            console.print(f"torch and ONNX: {agreed['texts']:.1%} of the texts the same")
            return
        labels = f"{agreed['labels']:.2%} of the labels the same, " if "labels" in agreed else ""
        console.print(f"torch and ONNX: {labels}largest difference {agreed['max_abs_p']:.1e}")
    if cut := found["counts"].get("cut_off_words"):
        console.print(f"{cut} words were cut off by max_length: they count as O")


def table(found: Mapping[str, Any]) -> Table:
    """A line a figure, a column a side."""
    sides = {**found["sides"], **found["baselines"]}
    drawn = Table(title=f"{found['examples']} rows ({found['split']}), 95 % intervals", title_justify="left")
    drawn.add_column("")
    for name in sides:
        drawn.add_column(name, justify="right")
    for name in found["headline"]:
        cells = []
        for side in sides.values():
            value, interval = side["metrics"].get(name), side["intervals"].get(name)
            between = f"\n[{shown(name, interval[0])}, {shown(name, interval[1])}]" if interval else ""
            cells.append("" if value is None else shown(name, value) + between)
        drawn.add_row(title(name), *cells)
    return drawn
