"""Examines data while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ptune.codecs.chat import ChatCodec, Example
from ptune.config.chat import Chat
from ptune.config.preference import Preference
from ptune.config.unpaired_preference import UnpairedPreference
from ptune.data.examples.split import Encoding
from ptune.data.problems import Problems
from ptune.data.shapes.conversations import Preferred
from ptune.data.shapes.judged import labels_of
from ptune.data.source import Sample
from ptune.doctor import encoding, examples, judged, other_task, preferences, refused, rows, sets
from ptune.doctor.finding import Finding, Rule, Tally, in_order
from ptune.doctor.sets import Sets
from ptune.doctor.split_statistics import Ledger
from ptune.doctor.translation import rules_of
from ptune.errors import DataError
from ptune.progress import say

ROW_RULES = (*rows.RULES, *examples.RULES)
SET_RULES: tuple[Rule, ...] = sets.RULES
RULES = (*encoding.RULES, *other_task.RULES, *refused.RULES, *ROW_RULES, *SET_RULES)
"""Every kind of defect that is looked for in conversations. A new one is one entry in the table of its kind."""
_MOST_TOLD = 10
SPLITS = ("train", "validation", "test")


@dataclass
class Doctor:
    """An examiner (`ptune.data.examiner`): pass it to `dataset.load`, then read its findings.

    It keeps only some numbers per example, so that data may be larger than memory.
    """

    task: Chat
    codec: ChatCodec
    files: dict[str, list[str]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    splits: dict[str, Ledger] = field(init=False)
    _of_files: dict[str, list[Finding]] = field(default_factory=dict)
    _of_rows: Tally = field(default_factory=Tally)
    _problems: dict[str, Problems] = field(default_factory=dict)
    _last: Sample | None = None
    _better: Example | None = None  # the last sample's first

    def __post_init__(self) -> None:
        limit = Encoding(self.codec, self.task, self).limit
        self.splits = {split: Ledger(limit) for split in SPLITS}
        self._control = rows.control_pattern(self.codec)
        self._row_rules, self._set_rules = rules_of(self.task, ROW_RULES), SET_RULES
        if isinstance(self.task, Preference):
            self._row_rules = (*ROW_RULES, *preferences.ROW_RULES)
            kept = (rule for rule in SET_RULES if rule.id not in preferences.LEFT_OUT)
            self._set_rules = (*kept, *preferences.SET_RULES)
        if isinstance(self.task, UnpairedPreference):
            self._row_rules = (*ROW_RULES, *preferences.ROW_RULES)
            kept = (rule for rule in SET_RULES if rule.id not in preferences.LEFT_OUT)
            self._set_rules = (*kept, *judged.SET_RULES)

    def file(self, split: str, path: Path) -> None:
        """Examines the bytes of a file and its first rows, once. The reader reports files that cannot be opened."""
        named = str(path)
        if named not in self.files[split]:
            self.files[split].append(named)
        if named not in self._of_files:
            self._of_files[named] = [*encoding.of_file(path), *other_task.of_file(path, self.task)]

    def sample(self, split: str, sample: Sample, example: Example) -> None:
        """Examines a row and one of its examples; the messages only for the first example."""
        row = rows.row_of(sample, example, self.codec, self._control)
        self._problems[sample.problems.file] = sample.problems
        for rule in examples.RULES if sample is self._last else self._row_rules:
            message = rule.check(row)
            if message is not None:
                self._of_rows.add(rule, row.place, message)
        worse = isinstance(sample.conversation, Preferred) and sample is self._last
        if isinstance(self.task, UnpairedPreference):
            self.splits[split].add(row, labels_of(sample.conversation)[worse])
            self._last = sample
            return
        if worse and self._better is not None:
            self.splits[split].add_rejected(self._better, row)
            return
        self.splits[split].add(row)
        self._last, self._better = sample, example

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules for this task's data."""
        return (*encoding.RULES, *other_task.RULES, *refused.RULES, *self._row_rules, *self._set_rules)

    @property
    def sets(self) -> Sets:
        """The splits and the task."""
        return Sets(self.splits, self.task)

    def findings(self) -> list[Finding]:
        """All findings so far, errors first, then in the order of the rules."""
        of_sets = [finding for rule in self._set_rules for finding in rule.check(self.sets)]
        return in_order([*self.findings_of_rows(), *of_sets], self.rules)

    def findings_of_rows(self) -> list[Finding]:
        """The findings that do not depend on other rows."""
        of_files = [finding for of in self._of_files.values() for finding in of]
        explained = {finding.place for finding in of_files if finding.severity == "error"}
        refusals = [finding for finding in self._refusals() if finding.place not in explained]
        return [*of_files, *self._of_rows.findings(), *refusals]

    def _refusals(self) -> Iterator[Finding]:
        """Findings on refused rows, in files with at least one usable row."""
        for problems in self._problems.values():
            yield from refused.refusals(problems)

    def explains(self, file: str) -> bool:
        """Whether a finding on the bytes of a file explains why it cannot be read."""
        return any(finding.severity == "error" for finding in self._of_files.get(file, ()))

    def covers(self, error: DataError) -> bool:
        """Whether the findings include every reason why reading stopped."""
        if error.file is None:  # overlong rows are refused at the end
            return any(f.rule == "over-long" and f.severity == "error" for f in self.findings())
        return error.file in self._problems and self._problems[error.file].count > 0


def judge(findings: list[Finding], command: str) -> None:
    """Prints the number of warnings; raises for errors. command: shows the findings, e.g. `ptune doctor RECIPE`.

    Raises: DataError that lists the errors.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        shown = [_told(error) for error in errors[:_MOST_TOLD]]
        more = [f"… and {len(errors) - _MOST_TOLD} more"] if len(errors) > _MOST_TOLD else []
        lines = "\n  ".join([*shown, *more])
        raise DataError(f"the data has errors; nothing was trained. {command} shows more\n  {lines}")
    if findings:
        say(f"data: {len(findings)} warning{'s' * (len(findings) > 1)}; {command} shows them")


def _told(error: Finding) -> str:
    where = error.where()
    return f"{where}{': ' if where else ''}{error.message} [{error.rule}]"
