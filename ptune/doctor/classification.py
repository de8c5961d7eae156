"""Rules on labelled texts and words: what repeats, what overlaps, which labels there are, what is too long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.codecs.sequence import SequenceCodec
from ptune.data.label_splits import SPLITS, LabelSplits, Placed, read_splits
from ptune.data.labelled import TextTask
from ptune.data.read import resolve
from ptune.data.sequences import SequenceData, encoded
from ptune.doctor import encoding, refused
from ptune.doctor.doctor import judge
from ptune.doctor.finding import Finding, Place, Rule
from ptune.doctor.sets import IMBALANCE, OVERLAP_ERROR
from ptune.errors import DataError
from ptune.recipe import Data

FEWEST = 5  # training examples of a label
_NAMED = 10  # labels in a message


@dataclass(frozen=True)
class LabelledSets:
    """All splits as they are read; `data`, encoded, where that was possible."""

    splits: LabelSplits
    data: SequenceData | None
    task: TextTask

    def counts(self, split: str) -> Mapping[str, int]:
        """Label -> examples, or words."""
        return {} if self.data is None else self.data.summary[split]["labels"]


def one_class(sets: LabelledSets) -> Iterator[Finding]:
    """All training examples have one label, or all words are outside: there is nothing to tell apart."""
    labels = sets.splits.labels
    if labels is None or labels.problem in ("multi", "regression") or not sets.splits.rows["train"]:
        return
    seen = [name for name, count in sets.counts("train").items() if count]
    if len(labels) < 2 or len(seen) == 1:
        only = (seen or list(labels.names))[0]
        what = "tag of every word" if labels.problem == "tags" else "label of every training example"
        yield Finding(
            "one-class",
            "error",
            f"{only!r} is the {what}: there is nothing to tell apart; add examples with others",
            _place(sets.splits.rows["train"][0]),
        )


def duplicates(sets: LabelledSets) -> Iterator[Finding]:
    """The same input twice in a split, with the same label: it weighs twice."""
    yield from _repeated(sets, "duplicates", SPLITS, same=True)


def conflicting_labels(sets: LabelledSets) -> Iterator[Finding]:
    """The same input with different labels: the model can only learn to guess between them."""
    yield from _repeated(sets, "conflicting-labels", ("train",), same=False)


def validation_overlap(sets: LabelledSets) -> Iterator[Finding]:
    """Validation inputs that are trained on: the validation loss says less than it seems to."""
    yield from _overlap(sets, "validation", ("train",))


def test_overlap(sets: LabelledSets) -> Iterator[Finding]:
    """Test inputs that are trained on, or chosen by: the final figures would be better than the model is."""
    yield from _overlap(sets, "test", ("train", "validation"))


def label_imbalance(sets: LabelledSets) -> Iterator[Finding]:
    """Labels of which one is far more frequent than another: the rare one is hardly learned."""
    counts = {name: count for name, count in sets.counts("train").items() if count and name != "O"}
    if len(counts) < 2:
        return
    common, rare = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[common] >= IMBALANCE * counts[rare]:
        yield Finding(
            "label-imbalance",
            "warning",
            f"{common!r} occurs {counts[common]:,} times, {rare!r} only {counts[rare]:,} times"
            f" ({counts[common] / counts[rare]:.0f} times fewer): add examples of the rare one, look at each label's own"
            " figures, or set --task.class-weights balanced",
        )


def untrained_labels(sets: LabelledSets) -> Iterator[Finding]:
    """Labels with hardly a training example, as when the recipe names one that the files lack."""
    counts = sets.counts("train")
    few = [name for name, count in counts.items() if count < FEWEST]
    if few and sum(counts.values()) > FEWEST * len(counts):
        named = ", ".join(f"{name!r} ({counts[name]})" for name in few[:_NAMED])
        more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
        yield Finding(
            "untrained-labels",
            "warning",
            f"labels with fewer than {FEWEST} training examples: {named}{more}: they will hardly be found",
            count=len(few),
        )


def over_long(sets: LabelledSets) -> Iterator[Finding]:
    """Rows longer than the longest allowed, and what `task.on_overlong` does to them."""
    for name, split in () if sets.data is None else sets.data.splits.items():
        if split.overlong:
            what = (
                f"{split.left_out:,} left out" if sets.task.on_overlong == "drop" else "the ends are cut off"
            )
            lost = f", {split.lost_words:,} words with them" if split.lost_words else ""
            assert sets.data is not None
            yield Finding(
                "over-long",
                "warning",
                f"{split.overlong:,} of {split.lengths.total():,} {name} rows are longer than"
                f" {sets.data.summary['longest_tokens']} tokens (the longest, {split.longest[1]}, has {split.longest[0]:,}):"
                f" {what}{lost}; --task.max-length allows more, up to the model's context",
                count=split.overlong,
            )


SET_RULES = (
    Rule("one-class", "error", one_class),
    Rule("validation-overlap", "error", validation_overlap),
    Rule("test-overlap", "error", test_overlap),
    Rule("conflicting-labels", "warning", conflicting_labels),
    Rule("duplicates", "warning", duplicates),
    Rule("label-imbalance", "warning", label_imbalance),
    Rule("untrained-labels", "warning", untrained_labels),
    Rule("over-long", "error", over_long),
)
RULES = (*encoding.RULES, *refused.RULES, *SET_RULES)
"""Every kind of defect that is looked for in labelled data."""


@dataclass(frozen=True)
class LabelledExamination:
    """What was seen of the data, and all that is wrong with it."""

    sets: LabelledSets
    findings: list[Finding]

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def examine_labelled(data: Data, task: TextTask, codec: SequenceCodec, seed: int) -> LabelledExamination:
    """Reads all of a recipe's data and tells all that is wrong with it; trains nothing.

    Raises: DataError where the recipe names no files.
    """
    splits = read_splits(data, task, seed)
    findings = [*_of_bytes(data), *map(_unusable, splits.errors)]
    findings += [found for _, file in splits.files for found in refused.refusals(file.problems)]
    encodes: SequenceData | None = None
    if splits.labels is not None:
        try:
            encodes = encoded(splits, data, task, codec)
        except DataError as error:
            findings.append(Finding("over-long", "error", str(error)))
    return LabelledExamination(
        sets := LabelledSets(splits, encodes, task), in_order([*findings, *of_sets(sets)])
    )


def of_sets(sets: LabelledSets) -> list[Finding]:
    """What is wrong with the rows as a whole, errors first."""
    return in_order([finding for rule in SET_RULES for finding in rule.check(sets)])


def judged(splits: LabelSplits, data: SequenceData, task: TextTask, command: str) -> list[dict[str, Any]]:
    """The findings on data that can be used, in JSON types; says how many warnings there are.

    Raises: DataError where the data would train a wrong model.
    """
    findings = [*_of_bytes_in(splits), *of_sets(LabelledSets(splits, data, task))]
    judge(findings, command)
    return [finding.described() for finding in findings]


def in_order(findings: list[Finding]) -> list[Finding]:
    """Errors first, then in the order of the table of rules."""
    order = {rule.id: at for at, rule in enumerate(RULES)}
    return sorted(findings, key=lambda finding: (finding.severity != "error", order[finding.rule]))


def _of_bytes(data: Data) -> Iterator[Finding]:
    for path in dict.fromkeys((*data.files, *data.validation, *data.test)):
        yield from _bytes_of(path)


def _of_bytes_in(splits: LabelSplits) -> Iterator[Finding]:
    for path in dict.fromkeys(file.file.path for _, file in splits.files):
        yield from _bytes_of(path)


def _bytes_of(path: Path) -> list[Finding]:
    """One that cannot be opened is left to the reader to complain about; a pipe can be read only once, and not here."""
    with contextlib.suppress(DataError, OSError):
        found = resolve(path)
        if found.is_file():
            return list(encoding.examine(found, str(path)))
    return []


def _unusable(error: DataError) -> Finding:
    place = None if error.file is None else Place(error.file, error.line)
    message = str(error).removeprefix(f"{place}: ")
    return Finding(refused.UNUSABLE_FILE.id, refused.UNUSABLE_FILE.severity, message, place)


def _repeated(sets: LabelledSets, rule: str, splits: tuple[str, ...], *, same: bool) -> Iterator[Finding]:
    """Rows whose input came before in their split, with the same label or with another."""
    for split in splits:
        first: dict[Any, Placed] = {}
        found = []
        for placed in sets.splits.rows[split]:
            before = first.setdefault(placed.row.input, placed)
            if before is not placed and (before.row.label == placed.row.label) == same:
                found.append((placed, before))
        if found:
            placed, before = found[0]
            total = len(sets.splits.rows[split])
            said = (
                f"a copy of {_place(before)} ({len(found):,} copies among {total:,} {split} rows): remove them, unless they"
                " are meant to weigh more"
                if same
                else f"the input of {_place(before)} with another label ({len(found):,} such among {total:,} {split} rows):"
                " keep the right one"
            )
            yield Finding(rule, "warning", said, _place(placed), len(found))


def _overlap(sets: LabelledSets, split: str, others: tuple[str, ...]) -> Iterator[Finding]:
    held = sets.splits.rows[split]
    for other in others:
        known: dict[Any, Placed] = {placed.row.input: placed for placed in reversed(sets.splits.rows[other])}
        shared = [placed for placed in held if placed.row.input in known]
        if shared:
            share = len(shared) / len(held)
            yield Finding(
                f"{split}-overlap",
                "error" if share >= OVERLAP_ERROR[split] else "warning",
                f"the same as {_place(known[shared[0].row.input])}, which is of {other} ({len(shared):,} of {len(held):,}"
                f" {split} rows, {share:.1%}): remove it from one of the two",
                _place(shared[0]),
                len(shared),
            )


def _place(placed: Placed) -> Place:
    return Place(placed.file.name, placed.number, placed.file.problems.unit)
