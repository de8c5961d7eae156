"""The figures of a classifier's evaluation.json as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ptune.evaluation.classification.results import shown, title

_WIDTH = 140  # characters, if the terminal's width is unknown


def show(evaluation: Mapping[str, Any]) -> None:
    """Prints the headline figures of all sides, and the agreement of torch and ONNX."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(table(evaluation))
    if "agreement" in evaluation:
        agreed = evaluation["agreement"]
        if "texts" in agreed:
            console.print(f"torch and ONNX: {agreed['texts']:.1%} of the texts the same")
            return
        labels = f"{agreed['labels']:.2%} of the labels the same, " if "labels" in agreed else ""
        console.print(f"torch and ONNX: {labels}largest difference {agreed['max_abs_p']:.1e}")
    if cut := evaluation["counts"].get("cut_off_words"):
        console.print(f"{cut} words were cut off by max_length: they count as O")


def table(evaluation: Mapping[str, Any]) -> Table:
    """A table with one line per figure and one column per side."""
    sides = {**evaluation["sides"], **evaluation["baselines"]}
    drawn = Table(
        title=f"{evaluation['examples']} rows ({evaluation['split']}), 95 % intervals", title_justify="left"
    )
    drawn.add_column("")
    for name in sides:
        drawn.add_column(name, justify="right")
    for name in evaluation["headline"]:
        cells = []
        for side in sides.values():
            value, interval = side["metrics"].get(name), side["intervals"].get(name)
            between = f"\n[{shown(name, interval[0])}, {shown(name, interval[1])}]" if interval else ""
            cells.append("" if value is None else shown(name, value) + between)
        drawn.add_row(title(name), *cells)
    return drawn
