"""Shows an examination of labelled data: in a terminal, in a pipe, or as JSON types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from ptune.data.label_splits import SPLITS
from ptune.doctor.classification import LabelledExamination, LabelledSets
from ptune.doctor.histogram import bar, bins, drawn, percentile
from ptune.doctor.labels import Entries
from ptune.doctor.show import print_findings, print_parts, printable

_WIDEST = 20  # characters of a label


def show(examination: LabelledExamination, console: Console) -> None:
    """Prints an examination."""
    sets = examination.sets
    print_parts((_summary(sets), _lengths(sets), _labels(sets)), console)
    print_findings(examination.findings, console)


def document(examination: LabelledExamination) -> dict[str, Any]:
    """The examination in JSON types."""
    sets = examination.sets
    return {
        "files": [{"split": split, **file.described()} for split, file in sets.splits.files],
        "problem": None if sets.splits.labels is None else sets.splits.labels.problem,
        "labels": [] if sets.splits.labels is None else list(sets.splits.labels.names),
        "splits": {split: _described(sets, split) for split in SPLITS} if sets.data is not None else {},
        "findings": [finding.described() for finding in examination.findings],
    }


def _described(sets: LabelledSets, split: str) -> dict[str, Any]:
    assert sets.data is not None
    lengths, limit = sets.data.splits[split].lengths, sets.data.summary["longest_tokens"]
    known = sets.data.summary[split]
    return {
        **{name: known[name] for name in ("rows", "examples", "tokens", "overlong", "labels")},
        "median_tokens": percentile(lengths, 0.5),
        "longest_tokens": max(lengths, default=0),
        "longest_allowed": limit,
        "lengths": {f"{each.first}-{each.last}": each.count for each in bins(lengths, limit)},
    }


def _summary(sets: LabelledSets) -> Iterator[Text]:
    if sets.data is None:
        return
    keys = ("rows", "examples", "tokens", "median_tokens", "longest_tokens", "overlong")
    names = ("rows", "examples", "tokens", "median", "longest", "over-long")
    yield Text(f"{'':<11}" + "".join(f"{name:>11}" for name in names), style="bold")
    for split in SPLITS:
        values = _described(sets, split)
        if values["rows"]:
            yield Text(f"{split:<11}" + "".join(f"{values[key]:>11,}" for key in keys))


def _lengths(sets: LabelledSets) -> Iterator[Text]:
    if sets.data is not None and sets.data.splits["train"].lengths:
        limit = sets.data.summary["longest_tokens"]
        yield Text("tokens of a training row, and how many have so many", style="bold")
        yield from map(Text, drawn(bins(sets.data.splits["train"].lengths, limit), limit, "longest allowed"))


def _labels(sets: LabelledSets) -> Iterator[Text]:
    what = {"word": "words with each tag", "step": "steps with each label"}.get(
        sets.labelled, "rows with each label"
    )
    yield from label_bars(sets, what)


def label_bars(sets: Entries, what: str) -> Iterator[Text]:
    """The number of training rows with each label, as bars, and of each other split."""
    labels, counts = sets.labels, {split: sets.counts(split) for split in SPLITS}
    if labels is None or not counts["train"]:
        return
    yield Text(f"{what}, in training ({labels.problem})", style="bold")
    width = min(max(map(len, labels.names)), _WIDEST)
    most = max(max(counts["train"].values()), 1)
    for name in labels.names:
        held = ", ".join(
            f"{counts[split][name]:,} {split}" for split in SPLITS[1:] if counts[split].get(name)
        )
        shown = name if len(name) <= width else f"{name[: width - 1]}…"
        count = counts["train"][name]
        line = f"{printable(shown):<{width}} {bar(count, most)} {count:,}{f' ({held})' if held else ''}"
        yield Text(line)
