"""Shows an examination of pairs: in a terminal, in a pipe, or as JSON types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from ptune.data.label_splits import SPLITS
from ptune.doctor.histogram import bins, drawn
from ptune.doctor.pairs import PairExamination, PairSets
from ptune.doctor.show import print_findings, print_parts


def show(examination: PairExamination, console: Console) -> None:
    """Prints an examination."""
    sets = examination.sets
    print_parts((_summary(sets), _lengths(sets)), console)
    print_findings(examination.findings, console)


def document(examination: PairExamination) -> dict[str, Any]:
    """The examination in JSON types."""
    sets = examination.sets
    return {
        "files": [{"split": split, **file.described()} for split, file in sets.splits.files],
        "splits": {split: _described(sets, split) for split in SPLITS},
        "findings": [finding.described() for finding in examination.findings],
    }


def _described(sets: PairSets, split: str) -> dict[str, int]:
    rows = sets.splits.rows[split]
    found = {
        "rows": len(rows),
        "anchors": len({row.anchor for row in rows}),
        "passages": len({text for row in rows for text in row.passages}),
        "negatives": sum(len(row.negatives) for row in rows),
    }
    if sets.data is None:
        return found
    known = sets.data.splits[split]
    return {**found, "longest_tokens": known.longest[0], "overlong": known.overlong}


def _summary(sets: PairSets) -> Iterator[Text]:
    lines = {split: _described(sets, split) for split in SPLITS if sets.splits.rows[split]}
    if not lines:
        return
    keys = list(next(iter(lines.values())))
    names = [key.removesuffix("_tokens") for key in keys]
    yield Text(f"{'':<11}" + "".join(f"{name:>11}" for name in names), style="bold")
    for split, values in lines.items():
        yield Text(f"{split:<11}" + "".join(f"{values[key]:>11,}" for key in keys))


def _lengths(sets: PairSets) -> Iterator[Text]:
    if sets.data is not None and sets.data.splits["train"].lengths:
        limit = sets.data.summary["longest_tokens"]
        yield Text("tokens of a training row's longest text, and how many have so many", style="bold")
        yield from map(Text, drawn(bins(sets.data.splits["train"].lengths, limit), limit, "longest allowed"))
