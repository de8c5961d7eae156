"""Examines labelled texts, words and steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptune.codecs.labels import Labels
from ptune.codecs.sequence import SequenceCodec
from ptune.config.classification import TextClassification, TokenClassification
from ptune.config.process_reward import ProcessReward
from ptune.config.recipe import Data
from ptune.data.examples.sequences import SequenceData, encoded
from ptune.data.label_splits import SPLITS, LabelSplits, Placed, read_splits
from ptune.data.shapes.label_values import problem_of
from ptune.data.shapes.labelled import TextTask
from ptune.doctor import encoding, labels, refused, steps
from ptune.doctor.doctor import judge
from ptune.doctor.finding import Finding, Place, Rule, in_order
from ptune.doctor.labels import Entry
from ptune.doctor.misspelt import FEWEST
from ptune.errors import DataError

_NUMBER = 0.5  # beside it any number is a regression's


@dataclass(frozen=True)
class LabelledSets:
    """All splits as read; `data`: encoded, if possible. See `ptune.doctor.labels.Entries`."""

    splits: LabelSplits
    data: SequenceData | None
    task: TextTask
    unit = "rows"

    @property
    def labels(self) -> Labels | None:
        return self.splits.labels

    @property
    def labelled(self) -> str:
        names = {TokenClassification: "word", ProcessReward: "step"}
        return names.get(type(self.task), "training example")

    def entries(self, split: str) -> list[Entry]:
        """The rows of a split."""
        return [
            Entry(placed.row.input, placed.row.label, _place(placed)) for placed in self.splits.rows[split]
        ]

    def counts(self, split: str) -> Mapping[str, int]:
        """Label -> examples, words or steps."""
        return {} if self.data is None else self.data.summary[split]["labels"]


def over_long(sets: LabelledSets) -> Iterator[Finding]:
    """Rows over the length limit, and the effect of `task.on_overlong` on them."""
    for name, split in () if sets.data is None else sets.data.splits.items():
        if split.overlong:
            what = (
                f"{split.left_out:,} left out" if sets.task.on_overlong == "drop" else "the ends are cut off"
            )
            lost = f", {split.lost_words:,} {sets.labelled}s with them" if split.lost_words else ""
            assert sets.data is not None
            yield Finding(
                "over-long",
                "warning",
                f"{split.overlong:,} of {split.lengths.total():,} {name} rows are longer than"
                f" {sets.data.summary['longest_tokens']} tokens (the longest, {split.longest[1]}, has {split.longest[0]:,}):"
                f" {what}{lost}; --task.max-length allows more, up to the model's context",
                count=split.overlong,
            )


def numbers_as_labels(sets: LabelledSets) -> Iterator[Finding]:
    """Numbers with a point beside a few cells that are none, such as "n/a": all of them are then names of labels."""
    task, known = sets.task, sets.labels
    if not isinstance(task, TextClassification) or task.problem != "auto" or task.labels or known is None:
        return
    others = [name for name in known.names if problem_of([name, _NUMBER]) != "regression"]
    pointed = [name for name in known.names if problem_of([name]) == "regression"]
    rare = sum(sets.counts("train").values()) < FEWEST * len(known)
    if known.problem == "single" and others and rare and 2 * len(pointed) > len(known):
        at = known.names.index(others[0])
        places = [entry.place for split in SPLITS for entry in sets.entries(split) if entry.label == at]
        yield Finding(
            "numbers-as-labels",
            "error",
            f"label {others[0]!r} is no number, but {len(pointed):,} of {len(known):,} are, so that each of these is a label of"
            " its own: --task.problem regression names all rows like this one, to be corrected or removed; --task.problem single"
            " keeps the labels",
            next(iter(places), None),
            len(others),
        )


SET_RULES = (
    *labels.RULES,
    Rule("numbers-as-labels", "error", numbers_as_labels),
    Rule("over-long", "error", over_long),
)
RULES = (*encoding.RULES, *refused.RULES, *SET_RULES, *steps.RULES)
"""Every kind of defect that is looked for in labelled data."""


@dataclass(frozen=True)
class LabelledExamination:
    """The data that was read, and all findings on it."""

    sets: LabelledSets
    findings: list[Finding]

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)


def examine_labelled(data: Data, task: TextTask, codec: SequenceCodec, seed: int) -> LabelledExamination:
    """Reads all data of a recipe and returns every finding; trains nothing.

    Raises: DataError if the recipe names no files.
    """
    splits = read_splits(data, task, seed)
    findings = [
        *_of_bytes((*data.files, *data.validation, *data.test)),
        *map(refused.file_refused, splits.errors),
    ]
    explained = {finding.place for finding in findings}
    refusals = (found for _, file in splits.files for found in refused.refusals(file.problems))
    findings += [found for found in refusals if found.place not in explained]
    encodes: SequenceData | None = None
    if splits.labels is not None:
        try:
            encodes = encoded(splits, data, task, codec)
        except DataError as error:
            findings.append(Finding("over-long", "error", str(error)))
    return LabelledExamination(
        sets := LabelledSets(splits, encodes, task), in_order([*findings, *of_sets(sets)], RULES)
    )


def of_sets(sets: LabelledSets) -> list[Finding]:
    """Findings on the rows as a whole, errors first."""
    rules = (*SET_RULES, *steps.RULES) if isinstance(sets.task, ProcessReward) else SET_RULES
    return in_order([finding for rule in rules for finding in rule.check(sets)], RULES)


def judged(splits: LabelSplits, data: SequenceData, task: TextTask, command: str) -> list[dict[str, Any]]:
    """Returns the findings on usable data, in JSON types; prints the number of warnings.

    Raises: DataError if the data would train a wrong model.
    """
    findings = [
        *_of_bytes([file.file.path for _, file in splits.files]),
        *of_sets(LabelledSets(splits, data, task)),
    ]
    judge(findings, command)
    return [finding.described() for finding in findings]


def _of_bytes(paths: Sequence[Path]) -> Iterator[Finding]:
    for path in dict.fromkeys(paths):
        yield from encoding.of_file(path)


def _place(placed: Placed) -> Place:
    return Place(placed.file.name, placed.number, placed.file.problems.unit)
