"""Shows an examination: in a terminal, in a pipe, or as JSON types."""

from __future__ import annotations

import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from ptune.codecs.chat import ChatCodec, Example
from ptune.doctor.doctor import SPLITS, Doctor
from ptune.doctor.examination import Examination
from ptune.doctor.finding import Finding
from ptune.doctor.histogram import bar, bins, drawn, percentile
from ptune.doctor.split_statistics import Ledger

_LONG, _KEPT = 160, 60  # tokens: a longer stretch of an example shows only this many at its start and end
_COLOURS = {"error": "bold red", "warning": "yellow"}
_INDENT = 9
# The data must not control the terminal.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}


def show(examination: Examination, console: Console) -> None:
    """Prints an examination. Targets are marked by brackets as well as by colour, for pipes."""
    doctor = examination.doctor
    print_parts((_summary(doctor), _lengths(doctor), _labels(doctor), _example(doctor)), console)
    print_findings(examination.findings, console)


def document(examination: Examination) -> dict[str, Any]:
    """The examination in JSON types."""
    doctor = examination.doctor
    return {
        "files": doctor.files,
        "splits": {split: _described(ledger) for split, ledger in doctor.splits.items()},
        "labels": _label_counts(doctor),
        "example": [{"text": text, "target": target} for text, target in _shown(doctor)],
        "findings": [finding.described() for finding in examination.findings],
    }


def counted(findings: list[Finding]) -> str:
    """E.g. '1 error, 2 warnings'."""
    counts = Counter(finding.severity for finding in findings)
    words = [f"{count} {name}{'s' * (count > 1)}" for name in ("error", "warning") if (count := counts[name])]
    return ", ".join(words) or "nothing is wrong with the data"


def stretches(example: Example, codec: ChatCodec) -> Iterator[tuple[str, bool]]:
    """Splits an example's text into stretches, with whether they are targets. Control tokens show as their names."""
    pairs = zip(example.ids, example.targets, strict=True)
    for target, stretch in itertools.groupby(pairs, key=lambda pair: pair[1]):
        ids = [token for token, _ in stretch]
        if len(ids) > _LONG:
            left_out = f" … {len(ids) - 2 * _KEPT:,} tokens … "
            yield _text(ids[:_KEPT], codec) + left_out + _text(ids[-_KEPT:], codec), target
        else:
            yield _text(ids, codec), target


def _summary(doctor: Doctor) -> Iterator[Text]:
    names = ("examples", "tokens", "targets", "median", "longest", "over-long")
    yield Text(f"{'':<11}" + "".join(f"{name:>11}" for name in names), style="bold")
    for split in SPLITS:
        ledger = doctor.splits[split]
        if len(ledger) or doctor.files[split]:
            values = _described(ledger)
            keys = ("examples", "tokens", "targets", "median_tokens", "longest_tokens", "overlong")
            yield Text(f"{split:<11}" + "".join(f"{values[key]:>11,}" for key in keys))


def _lengths(doctor: Doctor) -> Iterator[Text]:
    train = doctor.splits["train"]
    if len(train):
        yield Text("tokens of a training example, and how many have so many", style="bold")
        yield from map(Text, drawn(bins(train.lengths, train.limit), train.limit, "longest allowed"))


def _labels(doctor: Doctor) -> Iterator[Text]:
    counts = _label_counts(doctor)
    if not counts:
        return
    yield Text("answers that serve as labels, and their training examples", style="bold")
    width = min(max(map(len, counts)), 20)
    most = max(of["train"] for of in counts.values())
    for label, of in counts.items():
        held = ", ".join(f"{count:,} {split}" for split, count in of.items() if split != "train" and count)
        name = label if len(label) <= width else label[: width - 1] + "…"
        line = f"{printable(name):<{width}} {bar(of['train'], most)} {of['train']:,}{f' ({held})' if held else ''}"
        yield Text(line)


def _example(doctor: Doctor) -> Iterator[Text]:
    shown = _shown(doctor)
    if not shown:
        return
    yield (
        Text("a training example; ", style="bold")
        .append("⟦what is learned⟧", style="green")
        .append(" is marked")
    )
    line = Text()
    for text, target in shown:
        line.append(f"⟦{text}⟧", style="green") if target else line.append(text)
    line.rstrip()
    yield line


def print_parts(parts: Iterable[Iterable[Text]], console: Console) -> None:
    """Prints the parts that are not empty, with an empty line after each."""
    for part in parts:
        lines = list(part)
        if lines:
            console.print(*lines, Text(), sep="\n", soft_wrap=False)


def print_findings(findings: list[Finding], console: Console) -> None:
    """Prints the number of findings, and each of them."""
    console.print(Text(counted(findings), style="bold"))
    for finding in findings:
        _print_finding(finding, console)


def _print_finding(finding: Finding, console: Console) -> None:
    """Prints a finding: message, count and first place."""
    head = Text(f"{finding.severity:<{_INDENT}}", style=_COLOURS[finding.severity])
    head.append(finding.rule, style="bold")
    head.append(f"  {finding.where()}", style="default")
    console.print(head, soft_wrap=True)  # keeps a place on one line, for copying
    indent = " " * _INDENT
    for line in printable(finding.message).splitlines():
        console.print(textwrap.fill(line, console.width, initial_indent=indent, subsequent_indent=indent))


def _described(ledger: Ledger) -> dict[str, Any]:
    return {
        "examples": len(ledger),
        "tokens": ledger.tokens,
        "targets": ledger.targets,
        "median_tokens": percentile(ledger.lengths, 0.5),
        "longest_tokens": max(ledger.lengths, default=0),
        "longest_allowed": ledger.limit,
        "overlong": ledger.overlong.count,
        "lengths": {f"{each.first}-{each.last}": each.count for each in bins(ledger.lengths, ledger.limit)},
    }


def _label_counts(doctor: Doctor) -> Mapping[str, Mapping[str, int]]:
    """Label -> split -> examples, the most frequent in training first; empty if the answers are not labels."""
    known = doctor.sets.labels
    if not known:
        return {}
    labels_of = {split: ledger.labels or {} for split, ledger in doctor.splits.items()}
    names = dict.fromkeys(name for labels in labels_of.values() for name in labels)
    counts = {
        name: {split: labels[name].count if name in labels else 0 for split, labels in labels_of.items()}
        for name in names
    }
    return dict(sorted(counts.items(), key=lambda item: -item[1]["train"]))


def _shown(doctor: Doctor) -> list[tuple[str, bool]]:
    example = doctor.splits["train"].shown
    return [] if example is None else list(stretches(example, doctor.codec))


def _text(ids: list[int], codec: ChatCodec) -> str:
    return printable(b"".join(map(codec.token_bytes, ids)).decode(errors="replace"))


def printable(text: str) -> str:
    """The text without terminal control characters."""
    return text.translate(_PICTURES)
