"""The difference of two adapters' updates as a table for the terminal."""

from __future__ import annotations

from rich.table import Table

from ptune.evaluation.update_difference import Difference

SHOWN = 20  # layers; --json has them all


def table(found: Difference) -> Table:
    """The most different layers."""
    more = len(found.layers) - SHOWN
    title = f"{found.names[0]} and {found.names[1]}, layer by layer" + (
        f"; {more} less different ones: --json" if more > 0 else ""
    )
    shown = Table(title=title)
    for column in ("layer", "norm", "norm", "distance", "cosine", "columns", "rows"):
        shown.add_column(column, justify="left" if column == "layer" else "right")
    for layer in found.layers[:SHOWN]:
        norms = [f"{norm:.3g}" for norm in layer.norms]
        spaces = [_angles(angles) for angles in (layer.columns, layer.rows)]
        shown.add_row(layer.layer, *norms, f"{layer.distance:.2f}", _cosine(layer.cosine), *spaces)
    return shown


def of_all(found: Difference) -> str:
    """The two adapters as wholes, in a line."""
    one, two = found.norms
    return (
        f"all layers: norms {one:.3g} and {two:.3g}, distance {found.distance:.2f} of the larger, cosine"
        f" {_cosine(found.cosine)}; angles are the smallest and the mean, in degrees"
    )


def _cosine(cosine: float | None) -> str:
    return "–" if cosine is None else f"{cosine:.2f}"


def _angles(angles: tuple[float, ...]) -> str:
    return f"{min(angles):.0f}, {sum(angles) / len(angles):.0f}" if angles else "–"
